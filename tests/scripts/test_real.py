"""`scripts/studies/real.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from omatg_ray.assets import crystals
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures


def test_seeds_are_taken_together_row_by_row() -> None:
    from real import together

    one = {"per_structure": {"id": ["a", "b"], "rmse": [0.1, None], "polymorph": ["a", None]}}
    other = {"per_structure": {"id": ["a", "b"], "rmse": [None, 0.2]}}
    assert together([one, other]) == {"id": ["a", "b", "a", "b"], "rmse": [0.1, None, None, 0.2]}


def test_crystals_that_do_not_match_are_sorted_by_their_energies() -> None:
    from real import FATES, fates

    rmse = [0.1, None, None, None, None, 0.2, None, None]
    energy = [0.3, -0.06, -0.04, 0.04, 0.06, None, None, 2.0]
    found = fates({"relaxed_rmse": rmse, "relaxed_relative_energy": energy})
    assert [8 * found[fate] for fate in FATES] == [2, 1, 2, 2, 1]


@pytest.mark.long
def test_the_study_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import real

    folder = tmp_path / "crystals"
    for part in ("train", "val", "test"):
        dataset = read_dataset(crystals(part)).select(range(0, 60, 6))
        rows = [{"material_id": name} for name in dataset.ids]
        for name in (part, "real_test")[: 1 + (part == "test")]:
            write_structures(folder / f"{name}.extxyz", dataset.crystals.to_structures(), rows)
    words = f"real.py --crystals {folder} --teacher bundled --second bundled-prototypes --seeds 0 --hours 0 --limit 4"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--out", str(tmp_path / "out")])
    monkeypatch.setattr(real, "SHARED", [*real.SHARED, "validation.limit=2", "rollout.groups=2"])
    monkeypatch.setitem(real.WAYS, "policy gradient", real.Way("perov5_velocity", ["rollout.groups=2"]))
    real.main()
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert tables.count("\n## ") == len(real.QUESTIONS) - 1 and "reward gradient:" in tables and "coverage" in tables
    assert "| match | other, lower |" in tables and "from base, learned schedule, paired: match rate" in tables
    real.main()
    assert (tmp_path / "out" / "tables.md").read_text() == tables
