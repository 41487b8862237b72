"""Policy variants, one file each. The file has the name of the variant, and its `VARIANT` is the variant."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated

from pydantic import GetPydanticSchema
from pydantic_core.core_schema import literal_schema

from omatg_ray.errors import ModelError
from omatg_ray.model.variant import Variant

# Messages list the default first.
NAMES = tuple(sorted((module.name for module in iter_modules(__path__)), reverse=True))
VariantName = Annotated[str, GetPydanticSchema(lambda source, handler: literal_schema(list(NAMES)))]
"""One of `NAMES`; only a running program knows which there are, so for type checkers it is any text."""


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


def summary(name: str) -> str:
    """Return a variant's name with the first line of its file, which says what it does: "velocity: trains ..."."""
    spec = find_spec(f"{__name__}.{name}")
    assert spec is not None
    try:
        # Read, not imported: a variant is imported when a configuration names it.
        text = ast.get_docstring(ast.parse(Path(spec.origin or "").read_bytes()))
    except (OSError, SyntaxError, ValueError):  # importing it will report this
        text = None
    first = text.splitlines()[0].removesuffix(".") if text else ""
    return f"{name}: {first[0].lower()}{first[1:]}" if first else name
