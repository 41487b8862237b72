"""Settings of the reward of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from omatg_ray.errors import PotentialError
from omatg_ray.run.location import expanded
from omatg_ray.settings import Settings
from omatg_ray.tree import written

ENERGY, HULL, CRMSE, NON_TRICLINIC = "energy", "hull", "crmse", "non_triclinic"
NON_CENTROSYMMETRIC, DENSITY, VOLUME, SECOND = "non_centrosymmetric", "density", "volume", "second"
BUILT_IN = (ENERGY, HULL, CRMSE, NON_TRICLINIC, NON_CENTROSYMMETRIC, DENSITY, VOLUME)
ENERGY_VALUES = ("energy_per_atom", "valid", "min_distance", "volume_per_atom", "relax_steps", "relax_drop")
"""Values behind the energy, which keep their names in a sum of rewards."""
NAME = re.compile(r"[A-Za-z]\w*")

Expanded = BeforeValidator(lambda value: expanded(value) if isinstance(value, str) else value)
File = Annotated[Path, Expanded, PlainSerializer(written, when_used="json")]
"""A file or folder."""
PotentialName = Annotated[str, Expanded]
"""A MatGL potential: the folder of one, its name, or bundled."""


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
WEIGHT_FILES = ("model.json", "model.pt", "state.pt")


def potential_folder(name_or_folder: str | Path) -> Path | None:
    """The folder of a MatGL potential; None for the name of one, which MatGL fetches.

    Raises:
        PotentialError: The folder does not exist, or lacks a file; or the home or the environment does not say where
            it is.
    """
    try:
        folder = Path(expanded(str(name_or_folder)))
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


class HullSettings(Settings):
    """Minus the energy above the convex hull of reference entries."""

    entries: File | None = Field(
        None,
        description="entries with energies of the same potential: JSON of pymatgen's entries, or CSV with the columns "
        "formula and energy_per_atom",
    )
    crystals: File | None = Field(
        None,
        description="in place of entries, a data set whose energies are computed, after `relax_steps` of relaxation; "
        "null: the training split",
    )
    invalid_energy: float = Field(
        3.0, description="eV/atom above the hull that an invalid structure counts; valid ones are squeezed below it"
    )

    @model_validator(mode="after")
    def _one_source(self) -> HullSettings:
        if self.entries is not None and self.crystals is not None:
            raise ValueError("give either `entries` or `crystals`, not both")
        return self


class CRMSESettings(Settings):
    """stol minus the smallest RMSE to the known polymorphs of the composition."""

    references: File | None = Field(None, description="data set of known polymorphs; null: the training split")
    ltol: float = Field(0.3, gt=0, description="StructureMatcher's fractional tolerance of the cell lengths")
    stol: float = Field(0.5, gt=0, description="StructureMatcher's tolerance of the sites, and the RMSE of no match")
    angle_tol: float = Field(10.0, gt=0, description="StructureMatcher's tolerance of the cell angles in degrees")


class TargetSettings(Settings):
    """Closeness to a target: -d / (1 + d) with d = |x - target| / scale."""

    target: float | None = Field(None, gt=0, description="what to aim at; needed if the reward has a weight")
    scale: float = Field(1.0, gt=0, description="distance from the target at which the reward is -1/2")


class CustomSettings(Settings):
    """A reward of your own."""

    # As frozen and strict as all settings, but the word `class` is none that Python allows as a name.
    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    class_: str = Field(alias="class", description="module:Class; instances are rewards (see docs/rewards.md)")
    invalid: float = Field(
        description="reward of an invalid structure, which is not shown to it; lower rewards of valid ones are raised "
        "to it"
    )
    options: dict[str, Any] = Field({}, description="keyword arguments of the class: plain values")
    path: File | None = Field(None, description="folder of the module, on every node; null: the working directory")
    timeout: float = Field(60.0, gt=0, description="seconds that one batch may take; the first call also imports")

    @model_validator(mode="after")
    def _module_and_class(self) -> CustomSettings:
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.class_):
            raise ValueError(f"`class` must be of the form module:Class, not {self.class_!r}")
        return self


class RewardSettings(Settings):
    """A weighted sum of rewards; by default minus the energy per atom, as a MatGL potential gives it."""

    potential: PotentialName | None = Field(
        None, description="MatGL potential: a folder, or a name that MatGL can fetch"
    )
    invalid_energy: float = Field(
        3.0, description="eV/atom that an invalid structure counts; valid ones are squeezed below it, in order"
    )
    chunk_edges: int | None = Field(
        None,
        ge=1,
        description="pairs of neighbours that the potential evaluates at once; null: 2,000 on a CPU, 100,000 on a GPU",
    )
    weights: dict[str, float] = Field(
        {},
        description=f"weights of the rewards by name, at least 0: {', '.join(BUILT_IN)}, and those of `custom`; "
        "0: only monitored; what is not named is not computed; none at all: {energy: 1}",
    )
    relax_steps: int = Field(
        0, ge=0, description="steps of relaxation (positions and cell) before the energy; the crystal itself stays"
    )
    second_potential: PotentialName | None = Field(
        None, description="an independent MatGL potential that is monitored, never rewarded"
    )
    symprec: float = Field(0.1, gt=0, description="spglib's tolerance in Å, of the symmetry rewards")
    workers: int = Field(
        1, ge=1, description="processes that match structures or find symmetries, of every reward actor"
    )
    timeout: float = Field(10.0, gt=0, description="seconds that one match or symmetry may take")
    hull: HullSettings = Field(HullSettings(), description="energy above the hull")
    crmse: CRMSESettings = Field(CRMSESettings(), description="matching with known polymorphs")
    density: TargetSettings = Field(TargetSettings(), description="density in g/cm³")
    volume: TargetSettings = Field(TargetSettings(), description="volume in Å³ per atom")
    custom: dict[str, CustomSettings] = Field({}, description="rewards of your own by name")

    @model_validator(mode="after")
    def _consistent(self) -> RewardSettings:
        taken = (*BUILT_IN, SECOND, *ENERGY_VALUES)
        for name in self.custom:
            if name in taken or not NAME.fullmatch(name):
                raise ValueError(f"custom.{name}: name it by letters, digits and _, and not one of {', '.join(taken)}")
            if name not in self.weights:
                raise ValueError(f"custom.{name} has no weight; set weights.{name} (0 only monitors it)")
        known = (*BUILT_IN, *self.custom)
        for name, weight in self.weights.items():
            if name not in known:
                raise ValueError(f"weights.{name}: there is no such reward; there are {', '.join(known)}")
            if weight < 0:
                # A negative one would put the worst, which invalid structures get, above all else.
                raise ValueError(f"weights.{name}: {weight} is below 0")
        for name in (DENSITY, VOLUME):
            if name in self.weighted and getattr(self, name).target is None:
                raise ValueError(f"weights.{name} asks for {name}.target, which is not set")
        if not any(self.weighted.values()):
            raise ValueError("weights: at least one must not be 0")
        return self

    @property
    def weighted(self) -> dict[str, float]:
        """The weights, with their default: kept apart, as what is given would be added to it."""
        return self.weights or {ENERGY: 1.0}

    @property
    def energy_alone(self) -> bool:
        """Whether nothing is rewarded but the energy of the crystals as they are."""
        rewarded = {name for name, weight in self.weighted.items() if weight}
        return rewarded == {ENERGY} and not self.relax_steps

    @property
    def needs_potential(self) -> bool:
        """Whether anything asked for is made of energies."""
        return bool({ENERGY, HULL} & self.weighted.keys()) or self.second_potential is not None

    def placed(
        self, potential: Callable[[str | None], str | None], file: Callable[[Path, str], Path]
    ) -> RewardSettings:
        """The same with potentials, and files and folders (given with their keys), where others say that they lie."""

        def at(path: Path | None, key: str) -> Path | None:
            return None if path is None else file(path, f"reward.{key}")

        hull = {name: at(getattr(self.hull, name), f"hull.{name}") for name in ("entries", "crystals")}
        references = at(self.crmse.references, "crmse.references")
        return self.model_copy(
            update={
                "potential": potential(self.potential),
                "second_potential": potential(self.second_potential),
                "hull": self.hull.model_copy(update=hull),
                "crmse": self.crmse.model_copy(update={"references": references}),
                "custom": {
                    name: custom.model_copy(update={"path": at(custom.path, f"custom.{name}.path")})
                    for name, custom in self.custom.items()
                },
            }
        )
