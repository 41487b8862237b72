"""`scripts/studies/ground_states.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from omatg_ray.crystal.formula import cell_species
from tests.conftest import ROOT


def row(rank: int, group: str, looser: str | None = None, copies: int = 1) -> dict[str, object]:
    return {"rank": rank, "energy_above_best": 0.1 * (rank - 1), "space_group": group, "space_group_looser": looser} | {
        "copies": copies
    }


def test_what_is_found_and_what_is_first() -> None:
    from ground_states import judge, table

    one = {"formula": "TiN", "z": 1, "space_group": "Fm-3m", "prototype": "rock salt"}
    first = judge(one, {"crystals": [row(1, "P1", "Fm-3m", 3), row(2, "Fm-3m", copies=2)]})
    assert (first["found"], first["first"], first["said"]) == (True, True, "first, 5 samples")
    later = judge(one, {"crystals": [row(1, "P1"), row(2, "Fm-3m")]})
    assert (later["found"], later["first"], later["said"]) == (True, False, "rank 2, +0.100 eV/atom, 1 samples")
    missed, nothing = judge(one, {"crystals": [row(1, "P1")]}), judge(one, {"crystals": []})
    assert [found["said"] for found in (missed, nothing)] == ["not found; lowest: P1", "not found; nothing valid"]
    lines = table([one, one], {"base": [first, later], "better": [missed, later]})
    assert lines[-1] == "| found, and first, of 2 | | 2, 1 | 1, 0 |"


def test_a_search_says_which_sample_was_the_first_hit() -> None:
    from ground_states import judge

    one = {"formula": "TiN", "z": 1, "space_group": "Fm-3m", "prototype": "rock salt"}
    rows = [row(1, "Fm-3m") | {"first_sample": 9}, row(2, "P1", "Fm-3m") | {"first_sample": 3}]
    assert judge(one, {"crystals": rows})["said"] == "first, 2 samples from number 3 on"


def test_the_ten_of_searches_are_of_cells_that_models_know() -> None:
    ten = yaml.safe_load((ROOT / "scripts" / "studies" / "search_formulas.yaml").read_text(encoding="utf-8"))
    assert len({one["formula"] for one in ten}) == 10
    assert all(len(cell_species(one["formula"], one["z"])) <= 52 for one in ten)


def test_the_formulas_are_of_all_families_and_of_cells_that_models_know() -> None:
    formulas = yaml.safe_load((ROOT / "scripts" / "studies" / "ground_states.yaml").read_text(encoding="utf-8"))
    assert len(formulas) == len({one["formula"] for one in formulas}) == 20
    assert len({one["family"] for one in formulas}) == 6
    assert all(len(cell_species(one["formula"], one["z"])) <= 52 for one in formulas)


def test_a_search_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ground_states

    words = "ground_states.py --models bundled/base --formulas TiN -n 2 --steps 4 --relax 1 --workers 0 --methods"
    monkeypatch.setattr(sys, "argv", [*words.split(), "generate", "random", "--out", str(tmp_path)])
    ground_states.main()
    path = tmp_path / "bundled-base" / "TiN.json"
    searched = json.loads(path.read_text())
    assert searched["invalid"] + sum(one["copies"] for one in searched["crystals"]) == 2
    random = json.loads((tmp_path / "bundled-base-random" / "TiN.json").read_text())
    assert random["history"][-1][0] == ground_states.BATCH, "searches stop after a round"
    assert 1 <= random["crystals"][0]["first_sample"] <= ground_states.BATCH
    monkeypatch.setattr(ground_states, "make", None)
    ground_states.main()
    assert "TiN (z = 1)" in (tmp_path / "tables.md").read_text()
