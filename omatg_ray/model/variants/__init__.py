"""Policy variants, one file each. The file has the name of the variant, and its `VARIANT` is the variant."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Literal

from omatg_ray.errors import ModelError
from omatg_ray.model.variant import Variant

# Messages list the default first.
NAMES = tuple(sorted((module.name for module in iter_modules(__path__)), reverse=True))
if TYPE_CHECKING:
    VariantName = str
else:
    VariantName = Literal[NAMES]


def variant(name: VariantName) -> Variant:
    """Return the variant of this name.

    Raises:
        ModelError: Its file defines no variant.
    """
    module = import_module(f"{__name__}.{name}")
    loaded = getattr(module, "VARIANT", None)
    if not isinstance(loaded, Variant):
        raise ModelError(f"policy variant {name}: {module.__file__} needs VARIANT, an instance of a class of variants")
    return loaded
