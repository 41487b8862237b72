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


def test_the_formulas_are_of_all_families_and_of_cells_that_models_know() -> None:
    formulas = yaml.safe_load((ROOT / "scripts" / "studies" / "ground_states.yaml").read_text(encoding="utf-8"))
    assert len(formulas) == len({one["formula"] for one in formulas}) == 20
    assert len({one["family"] for one in formulas}) == 6
    assert all(len(cell_species(one["formula"], one["z"])) <= 52 for one in formulas)


def test_a_search_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ground_states

    words = (
        f"ground_states.py --models bundled/base --formulas TiN -n 2 --steps 4 --relax 1 --workers 0 --out {tmp_path}"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    ground_states.main()
    path = tmp_path / "bundled-base" / "TiN.json"
    searched = json.loads(path.read_text())
    assert searched["invalid"] + sum(one["copies"] for one in searched["crystals"]) == 2
    monkeypatch.setattr(ground_states, "search", None)
    ground_states.main()
    assert "TiN (z = 1)" in (tmp_path / "tables.md").read_text()
