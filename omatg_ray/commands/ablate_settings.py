"""Settings of an ablation (`omatg-ray ablate`), in a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from omatg_ray.distributed.settings import RaySettings
from omatg_ray.evaluate.settings import BEST, TuningSettings, ways_of
from omatg_ray.model.schedule import NONE
from omatg_ray.run.config_file import read_tree
from omatg_ray.run.location import Location
from omatg_ray.run.location_keys import CrystalsLocation, LocalFolder, ModelLocation, PotentialLocation
from omatg_ray.settings import Settings, explain_errors

Kind = Literal["linear", "quadratic", "cosine", "constant", "steps"]
KINDS: list[Kind] = list(get_args(Kind))


class SetSettings(Settings):
    """A base model with its crystals, and the schedules that were learned for it."""

    model: ModelLocation = Field(description="base model: model or run folder, its URL, or bundled")
    val: CrystalsLocation | None = Field(
        None, description="crystals to tune on; null: the validation split of the model's run"
    )
    test: CrystalsLocation | None = Field(
        None, description="crystals to report on; null: the test split of the model's run"
    )
    potential: PotentialLocation | None = Field(
        None, description="potential of the energies; null: the potential of the model, if any; none: no energies"
    )
    learned: dict[str, Annotated[list[ModelLocation], Field(min_length=1)]] = Field(
        {},
        description="learned schedules by name, one for each seed: their folders, the runs they come from, or bundled",
    )


class AblationSettings(Settings):
    """Settings of `omatg-ray ablate`."""

    run: LocalFolder = Field(
        Path("runs/ablation"), description="folder of the results; those already there are not computed again"
    )
    sets: dict[str, SetSettings] = Field(min_length=1, description="base models with their crystals, by name")
    steps: list[int] = Field([5, 10, 20, 50, 100, 500], min_length=1, description="grid points")
    kinds: list[Kind] = Field(KINDS, description="hand-made schedules; steps: unequal steps in place of a scale")
    tuning: TuningSettings = Field(TuningSettings(), description="tuning of hand-made schedules")
    samples: int = Field(1, ge=1, description="crystals generated for each reference")
    limit: int | None = Field(None, ge=1, description="test crystals, spread over the file; null: all")
    seed: int = Field(0, ge=0, description="seed of x_0")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; actors have ray.*.gpus instead")
    threads: int | None = Field(None, ge=1, description="PyTorch's CPU threads; null: PyTorch's choice")
    workers: int = Field(2, ge=0, description="processes that match structures; 0: in this process")
    ray: RaySettings = Field(RaySettings(), description="actors that generate and measure; without workers: none")

    @model_validator(mode="after")
    def _check(self) -> AblationSettings:
        for name, entry in self.sets.items():
            ways = [NONE, BEST, *KINDS]
            for learned, paths in entry.learned.items():
                new = ways_of(learned, len(paths))
                if set(new) & set(ways):
                    raise ValueError(f"sets.{name}.learned.{learned}: that name is taken; choose another")
                ways += new
        if min(self.steps) < 2 or len(set(self.steps)) != len(self.steps):
            raise ValueError("`steps` must be different numbers of at least 2 grid points")
        if not any(steps <= self.tuning.most_steps for steps in self.steps) and self.kinds:
            raise ValueError("`tuning.most_steps` is below all `steps`, so nothing could be tuned")
        return self

    @classmethod
    def load(cls, path: Location, overrides: Sequence[str] = ()) -> AblationSettings:
        """Read a YAML file and apply `key=value` overrides.

        Raises:
            ConfigError: The file cannot be read, or a key is unknown, mistyped or out of range; names the key.
        """
        tree, source = read_tree(path, overrides, cls)
        with explain_errors(source, cls):
            return cls.model_validate(tree)
