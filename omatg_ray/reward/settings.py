"""Settings of the reward of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, create_model, model_validator

from omatg_ray.errors import PotentialError
from omatg_ray.reward.built_in import OPTIONS
from omatg_ray.reward.options import Options
from omatg_ray.run.location import expand
from omatg_ray.run.location_keys import LocalFile, PotentialLocation
from omatg_ray.settings import Settings

ENERGY, SECOND = "energy", "second"
ENERGY_VALUES = ("energy_per_atom", "valid", "min_distance", "volume_per_atom", "relax_steps", "relax_drop")
"""Values of the energy reward, which keep their names in a sum of rewards."""
NAME = re.compile(r"[A-Za-z]\w*")


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
WEIGHT_FILES = ("model.json", "model.pt", "state.pt")


def potential_folder(name_or_folder: str | Path) -> Path | None:
    """Return the folder of a MatGL potential; None for the name of one, which MatGL fetches.

    Raises:
        PotentialError: The folder does not exist or lacks a file, or a home or environment variable in its path is
            unknown.
    """
    try:
        folder = Path(expand(str(name_or_folder)))
    except ValueError as error:
        raise PotentialError(f"potential folder {error}") from error
    if folder.is_dir():
        missing = [file for file in WEIGHT_FILES if not (folder / file).is_file()]
        if missing:
            raise PotentialError(f"potential folder {folder} lacks {', '.join(missing)}, which MatGL's save() writes")
        return folder
    if isinstance(name_or_folder, Path) or not HUB_NAME.fullmatch(name_or_folder):
        raise PotentialError(f"potential folder {folder} does not exist")
    return None


class CustomSettings(Settings):
    """A reward of your own."""

    # Frozen and strict like all settings; the alias is needed because Python does not allow `class` as a name.
    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    class_: str = Field(alias="class", description="module:Class; instances are rewards (see docs/rewards.md)")
    invalid: float = Field(
        description="reward of an invalid structure, which is not passed to the class; lower rewards of valid ones are "
        "raised to it"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of the class: plain values")
    path: LocalFile | None = Field(None, description="folder of the module, on every node; null: the working directory")
    timeout: float = Field(60.0, gt=0, description="seconds that one batch may take; the first call also imports")

    @model_validator(mode="after")
    def _module_and_class(self) -> CustomSettings:
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.class_):
            raise ValueError(f"`class` must be of the form module:Class, not {self.class_!r}")
        return self


class _Common(Settings):
    """Settings that several rewards share."""

    potential: PotentialLocation | None = Field(
        None, description="MatGL potential: a folder, or a name that MatGL can fetch"
    )
    invalid_energy: float = Field(
        3.0, description="eV/atom of an invalid structure; valid ones are squeezed below it, in order"
    )
    chunk_edges: int | None = Field(
        None,
        ge=1,
        description="pairs of neighbours that the potential evaluates at once; null: 2,000 on a CPU, 100,000 on a GPU",
    )
    weights: dict[str, float] = Field(
        {},
        description=f"weights of the rewards by name, at least 0: {', '.join(OPTIONS)}, and those of `custom`; "
        "0: only monitored; rewards not named are not computed; none at all: {energy: 1}",
    )
    relax_steps: int = Field(
        0,
        ge=0,
        description="steps of relaxation (positions and cell) before the energy; the crystal itself is kept",
    )
    second_potential: PotentialLocation | None = Field(
        None, description="an independent MatGL potential that is monitored, never rewarded"
    )
    symprec: float = Field(0.1, gt=0, description="spglib's tolerance in Å, for the symmetry rewards")
    workers: int = Field(1, ge=1, description="processes of each reward actor that match structures or find symmetries")
    timeout: float = Field(10.0, gt=0, description="seconds that one match or symmetry may take")


# A reward without options has no group of keys.
_GROUPS: dict[str, Any] = {
    name: (options, Field(options(), description=options.__doc__))
    for name, options in OPTIONS.items()
    if options.model_fields
}
if TYPE_CHECKING:
    _WithOptions = _Common
else:
    _WithOptions = create_model("_WithOptions", __base__=_Common, **_GROUPS)


class RewardSettings(_WithOptions):
    """A weighted sum of rewards; by default minus the energy per atom, as a MatGL potential gives it.

    Each built-in reward with options (`built_in`) has a group of keys under its name.
    """

    custom: dict[str, CustomSettings] = Field({}, description="rewards of your own by name")

    @model_validator(mode="after")
    def _consistent(self) -> RewardSettings:
        reserved = (*OPTIONS, SECOND, *ENERGY_VALUES)
        for name in self.custom:
            if name in reserved or not NAME.fullmatch(name):
                raise ValueError(
                    f"custom.{name}: use letters, digits and _ in the name, and none of {', '.join(reserved)}"
                )
            if name not in self.weights:
                raise ValueError(f"custom.{name} has no weight; set weights.{name} (0 only monitors it)")
        known = (*OPTIONS, *self.custom)
        for name, weight in self.weights.items():
            if name not in known:
                raise ValueError(f"weights.{name}: there is no such reward; choose from {', '.join(known)}")
            if weight < 0:
                # A negative weight would rank the worst reward, that of invalid structures, highest.
                raise ValueError(f"weights.{name}: {weight} is below 0")
        for name, options in self.built_in.items():
            if missing := options.missing():
                raise ValueError(f"weights.{name} requires {name}.{missing}, which is not set")
        if not any(self.weighted.values()):
            raise ValueError("weights: at least one must not be 0")
        return self

    @property
    def weighted(self) -> dict[str, float]:
        """Return the weights, or their default, which is not that of the field: given weights would be added to it."""
        return self.weights or {ENERGY: 1.0}

    @property
    def energy_alone(self) -> bool:
        """Return whether only the energy of the unrelaxed crystals is rewarded."""
        rewarded = {name for name, weight in self.weighted.items() if weight}
        return rewarded == {ENERGY} and not self.relax_steps

    @property
    def is_energy(self) -> bool:
        """Return whether the reward is minus the energy in eV/atom."""
        return self.energy_alone and self.weighted[ENERGY] == 1.0

    @property
    def differentiable(self) -> dict[str, bool]:
        """Return of every reward with a weight above 0 whether it has a gradient; relaxed energies have none."""
        known = {
            name: options.has_gradient and not (options.needs_potential and self.relax_steps)
            for name, options in self.built_in.items()
        }
        return {name: known.get(name, False) for name, weight in self.weighted.items() if weight}

    @property
    def more_than_energy(self) -> bool:
        """Return whether anything besides the energy of the unrelaxed crystals is rewarded or monitored."""
        parts = {*self.weighted, *([] if self.second_potential is None else [SECOND])}
        return parts != {ENERGY} or self.relax_steps > 0

    @property
    def needs_potential(self) -> bool:
        """Return whether any requested reward is made of energies."""
        return self.second_potential is not None or any(reward.needs_potential for reward in self.built_in.values())

    @property
    def built_in(self) -> dict[str, Options]:
        """Return the options of the built-in rewards that have a weight, in the order of metrics."""
        return {name: getattr(self, name, None) or OPTIONS[name]() for name in OPTIONS if name in self.weighted}
