"""Inputs of a learned schedule besides time: numbers of order one that describe a structure or a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ModelError
from omatg_ray.policy.settings import Feature

STEPS_SHOWN = (5, 20, 100)


def features_of(names: Sequence[Feature], t: Tensor, crystals: CrystalBatch | None, dt: Tensor | None) -> Tensor:
    """Return features (B, F), or (F,) if none depends on the crystals and t and dt are single numbers.

    - atoms: log2(N / 8) of N atoms in the cell.
    - electronegativity: mean |χ − χ_mean| over the atoms of the cell, on Pauling's scale.
    - steps: −log10(dt) − 1, which is 0 for ten steps and 1 for a hundred.

    Args:
        names: Names of the features, in order.
        t: Times () or (B,), which set type and device.
        crystals: Structures.
        dt: Lengths of steps () or (B,).

    Raises:
        ModelError: Crystals or dt are needed but not given.
    """
    columns = []
    for name in names:
        if name == "steps":
            if dt is None:
                raise ModelError("the schedule depends on the length of the steps, so it needs Euler steps")
            columns.append(-torch.log10(dt.to(t)) - 1.0)
            continue
        if crystals is None:
            raise ModelError(f"the schedule depends on the {name} of a crystal, but no crystals are given")
        atoms = torch.log2(crystals.n_atoms.to(t) / 8.0)
        columns.append(atoms if name == "atoms" else _electronegativity(crystals, t))
    shape = torch.broadcast_shapes(t.shape, *(column.shape for column in columns))
    return torch.stack([column.expand(shape) for column in columns], dim=-1)


def examples(names: Sequence[Feature]) -> list[tuple[str, list[float]]]:
    """Return labels and features (F,) to show a schedule for: each low, middle and high, the others in the middle."""
    shown: dict[Feature, list[tuple[str, float]]] = {
        "atoms": [(f"{n} atoms", math.log2(n / 8.0)) for n in (2, 8, 20)],
        "electronegativity": [(f"mean difference {x:g}", x) for x in (0.2, 0.6, 1.0)],
        "steps": [(f"{n} steps", math.log10(n) - 1.0) for n in STEPS_SHOWN],
    }
    middle = [shown[name][1][1] for name in names]
    return [
        (label, [*middle[:index], value, *middle[index + 1 :]])
        for index, name in enumerate(names)
        for label, value in shown[name]
    ]


def _electronegativity(crystals: CrystalBatch, like: Tensor) -> Tensor:
    chi = _pauling().to(like)[crystals.species]
    layout = crystals.layout
    known = ~chi.isnan()
    count = layout.sum(known.to(like)).clamp(min=1.0)
    mean = layout.sum(chi.nan_to_num(0.0)) / count
    return layout.sum((chi - mean.index_select(0, crystals.batch)).abs().nan_to_num(0.0)) / count


@cache
def _pauling() -> Tensor:
    """Return the electronegativity by atomic number, NaN where there is none (also for 0, a masked atom)."""
    import warnings

    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns about every element without one
        values = [math.nan, *(float(Element.from_Z(z).X) for z in range(1, 119))]
    return torch.tensor(values, dtype=torch.float64)
