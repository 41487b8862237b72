"""`scripts/studies/search_methods.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.search.archive import Archive
from tests.small import rock_salt


def test_the_first_hit_is_the_earliest_sample_low_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    import search_methods

    archive, samples, energies = Archive(), [5, 9, 2, 7], [-3.002, -3.2, -2.9, -3.1]
    crystals = CrystalBatch.from_structures([rock_salt(5.0 + sample) for sample in samples], torch.float64)
    archive.add(crystals, torch.tensor(energies, dtype=torch.float64), torch.ones(4, dtype=torch.bool), samples)
    cell = {"energy": -3.0, "confirmed": -3.5}
    assert search_methods.first_hit(cell, archive.all, None, 64) == 5
    assert search_methods.first_hit({"energy": -3.3}, archive.all, None, 64) is None
    assert search_methods.first_hit(cell, archive.all, None, 4) is None, "too late"
    # Another potential takes the crystals of samples 5 and 7 for holes.
    lengths = {5.0 + 9: -3.495}
    monkeypatch.setattr(
        search_methods,
        "by",
        lambda _, crystal: lengths.get(round(float(crystal.cell[0].norm(dim=1).max()), 3), 0.0),
    )
    assert search_methods.first_hit(cell, archive.all, None, 64) == 9
    assert search_methods.first_hit({"energy": -3.0, "confirmed": -3.6}, archive.all, None, 64) is None


def test_a_study_is_not_repeated_and_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import search_methods

    words = f"search_methods.py --out {tmp_path} --limit 1 --atoms 2 8 --samples 2 --batch 1 --steps 4 --relax 1"
    monkeypatch.setattr(sys, "argv", words.split())
    search_methods.main()
    said = capsys.readouterr().out
    assert "sample: 1 searches" in said and "reinforce: 1 searches" in said
    (target,) = json.loads((tmp_path / "targets.json").read_text())
    assert target["known"] > 1 and 2 <= len(target["species"]) <= 8
    row = json.loads((tmp_path / "0_reinforce_0.json").read_text())
    assert row["samples"] in (1, 2) and row["hit"] == (row["above"] <= search_methods.HIT)
    monkeypatch.setattr(search_methods, "searched", None)
    search_methods.main()
    assert capsys.readouterr().out == said
    monkeypatch.setattr(sys, "argv", [*words.split(), "--model", "bundled/base"])
    with pytest.raises(SystemExit):
        search_methods.main()
    assert "other options" in capsys.readouterr().err
