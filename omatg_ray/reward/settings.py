"""Settings of the reward of a run."""

from __future__ import annotations

from pydantic import Field

from omatg_ray.settings import Settings


class RewardSettings(Settings):
    """Minus the energy per atom, as a MatGL potential gives it."""

    potential: str | None = Field(None, description="MatGL potential: a folder, or a name that MatGL can fetch")
    invalid_energy: float = Field(
        3.0, description="eV/atom that an invalid structure counts; valid ones are squeezed below it, in order"
    )
    chunk_edges: int | None = Field(
        None,
        ge=1,
        description="pairs of neighbours that the potential evaluates at once; null: 1,000 on a CPU, 100,000 on a GPU",
    )
