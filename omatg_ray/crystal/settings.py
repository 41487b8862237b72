"""Settings of crystals to learn from, and of compositions to sample."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from omatg_ray.run.location_keys import CrystalsLocation, LocalFile
from omatg_ray.settings import Settings

UNNAMED_DATA = "data: name a file to split (data.file=...) or three files (data.train, data.val, data.test)"


class DataSettings(Settings):
    """Crystals to learn from: one file to be split by composition, or three files that are already split."""

    file: CrystalsLocation | None = Field(
        None, description="crystals to split: CSV with a cif column, extxyz, CIF, POSCAR, JSON, folder, ...; or a URL"
    )
    train: CrystalsLocation | None = Field(None, description="training split, in place of `file`")
    val: CrystalsLocation | None = Field(None, description="validation split, in place of `file`")
    test: CrystalsLocation | None = Field(None, description="test split, in place of `file`")
    val_compositions: float = Field(0.1, gt=0, description="validation compositions: a share below 1, or a number")
    test_compositions: float = Field(0.1, gt=0, description="test compositions: a share below 1, or a number")
    split_seed: int = Field(0, description="seed of the split")
    on_error: Literal["refuse", "skip"] = Field("refuse", description="crystals that cannot be used: refuse or skip")
    drop_unknown: bool = Field(
        False,
        description="leave out crystals with elements that the base or reward.potential does not know, and say how "
        "many; pretrain: that reward.potential does not know",
    )

    @field_validator("val_compositions", "test_compositions")
    @classmethod
    def _share_or_number(cls, size: float) -> float:
        if size > 1 and size != int(size):
            raise ValueError(f"give a share below 1 or a whole number of compositions, not {size}")
        return size

    @model_validator(mode="after")
    def _one_or_three(self) -> DataSettings:
        parts = [self.train, self.val, self.test]
        if self.file is not None and any(parts):
            raise ValueError("give either `file` or the three of `train`, `val` and `test`, not both")
        if any(parts) and not all(parts):
            raise ValueError("`train`, `val` and `test` go together")
        return self


class RandomFormulas(Settings):
    """Formulas to draw: charge-neutral with common oxidation states, or of metals alone."""

    elements: list[str] = Field(min_length=1, description="symbols of the elements to take")
    count: int = Field(1000, ge=1, description="how many formulas")
    kinds: list[PositiveInt] = Field(
        [2, 3], min_length=1, description="numbers of elements of a formula, which take turns while there are any"
    )
    atoms: int = Field(20, ge=1, description="most atoms of a cell")

    @model_validator(mode="after")
    def _enough_elements(self) -> RandomFormulas:
        if len(set(self.elements)) < len(self.elements):
            raise ValueError(f"elements: one is named twice in {', '.join(self.elements)}")
        if max(self.kinds) > len(self.elements):
            raise ValueError(f"kinds: {len(self.elements)} elements make no formula of {max(self.kinds)}; lower kinds")
        return self


class CompositionSettings(Settings):
    """Cells to sample, in place of those of the training crystals. Energies need no references."""

    formulas: list[str] = Field([], description="formulas, such as [TiO2, SrTiO3]")
    formulas_from: LocalFile | None = Field(None, description="text file of formulas, one per line")
    random: RandomFormulas | None = Field(None, description="formulas to draw over some elements")
    z: list[PositiveInt] = Field(
        [1], min_length=1, description="formula units per cell; every formula is sampled with each"
    )

    @model_validator(mode="after")
    def _some(self) -> CompositionSettings:
        if not (self.formulas or self.formulas_from or self.random):
            raise ValueError("name formulas, a file of them, or random ones, for example {formulas: [TiO2], z: [2, 4]}")
        return self
