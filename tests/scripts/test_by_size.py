"""`scripts/studies/by_size.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


def test_crystals_are_counted_by_size_and_elements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from by_size import main

    each = {
        "formula": ["Na4Cl4", "NaCl", "Ca12Fe8O20", "Li4Fe4P4O16"],
        "composition": ["NaCl", "NaCl", "Ca3Fe2O5", "LiFePO4"],
        "rmse": [0.1, None, 0.3, None],
        "reference_recalled": [1.0, 1.0, 1.0, 0.0],
        "valid": [True, True, True, False],
        "relative_energy": [0.0, 0.5, 0.2, None],
        "relative_energy_capped": [0.0, 0.5, 0.2, 9.0],
    }
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"label": "base", "steps": 10, "potential": "P", "per_structure": each}))
    monkeypatch.setattr(sys, "argv", ["by_size.py", str(path)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "base, 10 steps, P"
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines[4:]}
    assert list(rows) == ["all", "1 to 10 atoms", "21 to 30", "31 and more", "1 or 2 elements", "3", "4"]
    assert [values[0] for values in rows.values()] == ["4", "2", "1", "1", "2", "1", "1"]
    # Both crystals of NaCl are one composition: their means have no interval.
    assert rows["1 to 10 atoms"][1:] == ["0.500", "1.000", "0.100", "0.300", "+0.250", "+0.250", "0.000"]
    assert rows["21 to 30"][1:] == ["0.000", "0.000", "–", "0.500", "+9.000", "–", "1.000"]
    assert rows["all"][1].startswith("0.500 [") and rows["all"][6] == "+0.200"
