"""The cell of a run's own crystals that `What to try next` generates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from omatg_ray.commands.train import TrainResult, example_cell
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import Domain
from omatg_ray.crystal.formula import cell_species
from omatg_ray.train.components import RunComponents


def cells(*formulas: str) -> CrystalBatch:
    """Crystals of which only the atoms matter."""
    species = [cell_species(formula) for formula in formulas]
    numbers = torch.tensor([z for cell in species for z in cell])
    sizes = torch.tensor([len(cell) for cell in species])
    return CrystalBatch(numbers, torch.rand(len(numbers), 3), torch.eye(3).expand(len(species), 3, 3), sizes)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["NaCl", "KCl"], "KCl"),  # NaBr, the commonest, has a pair that the model has not seen
        (["NaBr", "KBr"], "NaBr"),
        (["MgO", "KBr"], "MgO"),  # none of the test split
        (["LiF"], "NaBr"),  # none at all
        ([], "NaBr"),  # the model does not say what it knows
    ],
)
def test_the_example_is_a_cell_that_the_model_knows(known: list[str], expected: str) -> None:
    splits = {"test": ("NaBr", "NaCl", "KCl", "NaBr", "KCl"), "train": ("CaO", "MgO")}
    model = SimpleNamespace(
        description=SimpleNamespace(domain=Domain.of(cells(*known)) if known else None), generates_species=False
    )
    split = SimpleNamespace(**{name: SimpleNamespace(crystals=cells(*formulas)) for name, formulas in splits.items()})
    parts = SimpleNamespace(model=model, scorers=SimpleNamespace(energy=None), split=split)
    assert example_cell(cast(RunComponents, parts)) == expected


def test_a_run_names_one_of_its_own(trained: TrainResult) -> None:
    halides = {f"{a}{b}" for a in ("Na", "K", "Rb") for b in ("F", "Cl", "Br")}
    assert trained.example in halides | {f"{a}{b}2" for a in ("Mg", "Ca") for b in ("O", "S")}
