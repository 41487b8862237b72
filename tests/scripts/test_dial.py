"""`scripts/studies/dial.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("runs/a (b)/c", "1"),
        ("runs/a", "1"),
        ("runs/a (2.0,)", "2"),
        ("runs/a (2.0, 2.0, -1.0)", "2:2,-1"),
        ("x (0.5, 0.0)", "0.5,0"),
    ],
)
def test_rows_are_labelled_as_guidance_is_given(name: str, expected: str) -> None:
    from dial import label

    assert label(name) == expected


def test_every_row_is_a_point_of_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dial import main

    def row(lowest: float, coverage: float) -> dict[str, object]:
        share = {"lowest": lowest, "coverage": coverage}
        return {"k": 16, "compositions": 143} | {
            name: {"mean": value, "low": value - 0.05, "high": value + 0.05} for name, value in share.items()
        }

    paths = [tmp_path / f"{number}.json" for number in range(2)]
    paths[0].write_text(json.dumps({"run (0.0,)": row(0.4, 0.9), "run": row(0.5, 0.8)}))
    paths[1].write_text(json.dumps({"run (2.0, 2.0, -1.0)": row(0.5, 0.95)}))
    out = tmp_path / "dial.svg"
    monkeypatch.setattr("sys.argv", ["dial.py", *map(str, paths), "--figure", str(out)])
    main()
    drawn = out.read_text()
    assert all(f"<!-- {text} -->" in drawn for text in ("0", "1", "2:2,-1", "share of samples that are the lowest one"))
