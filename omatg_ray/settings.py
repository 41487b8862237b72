"""Base of all settings: frozen, documented field by field, unknown keys refused.

Every part of the package declares its settings beside the code that uses them; `omatg_ray.config` puts them together.
"""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen group of configuration keys. `model_dump()` gives plain Python values."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())
