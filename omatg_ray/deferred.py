"""Modules that are imported on first use, so that settings load quickly."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Deferred:
    """Stand-in for a module that is slow to import. For type checkers, import the module itself under TYPE_CHECKING.

    Args:
        name: Name of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
