from __future__ import annotations

from omatg_ray.run.text import aligned


def test_columns_are_as_wide_as_their_widest_cells_and_lines_end_without_spaces() -> None:
    lines = [["", "steps", "schedule"], ["base", "5", "none"], ["longer", "500", "-"]]
    assert aligned(lines, left=[0, 2]).splitlines() == [
        "        steps  schedule",
        "base        5  none",
        "longer    500  -",
    ]
    assert aligned(lines, left=[]).splitlines()[2] == "longer    500         -"
