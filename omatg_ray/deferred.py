"""Modules that are imported when something in them is first used, so that settings can be read in no time."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Deferred:
    """Stands for a module that takes long to import. For type checkers import the module itself, by TYPE_CHECKING.

    Args:
        name: Of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)
