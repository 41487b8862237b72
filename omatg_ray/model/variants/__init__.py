"""The policy variants: a file each, whose name is that of the variant and whose `VARIANT` is the variant."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

from omatg_ray.model.variant import Variant

NAMES = tuple(sorted((module.name for module in iter_modules(__path__)), reverse=True))
if TYPE_CHECKING:
    VariantName = str
else:
    VariantName = Literal[NAMES]


def variant(name: VariantName) -> Variant:
    """The variant of this name."""
    found = import_module(f"{__name__}.{name}").VARIANT
    assert isinstance(found, Variant)
    return found
