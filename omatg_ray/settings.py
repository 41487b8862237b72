"""Base of all settings: frozen, documented field by field, unknown keys refused.

Every part of the package declares its settings beside the code that uses them; `omatg_ray.config` puts them together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

FieldName = Literal["pos", "cell"]
FIELDS: tuple[FieldName, ...] = ("pos", "cell")
"""The two generated fields of a crystal; `crystal.fields` has what is done to them."""


class Settings(BaseModel):
    """A frozen group of configuration keys. `model_dump()` gives plain Python values.

    A group that is given in part keeps the defaults of its parent for the rest: `kl_weight: {cell: 0}` leaves
    `kl_weight.pos` at what the parent declares.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            given = values.get(name)
            if isinstance(field.default, Settings) and isinstance(given, dict):
                values[name] = _merged(field.default.model_dump(), given)
            elif isinstance(field.default, Settings) and name in values and given is None:
                # A group that is named in YAML with nothing below it.
                del values[name]
        return values


def _merged(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(default[key], value) if isinstance(default.get(key), dict) and isinstance(value, dict) else value
        for key, value in given.items()
    }
    return default | both
