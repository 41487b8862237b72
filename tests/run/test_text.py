from __future__ import annotations

from omatg_ray.run.text import aligned, as_ranges


def test_columns_are_as_wide_as_their_widest_cells_and_lines_end_without_spaces() -> None:
    lines = [["", "steps", "schedule"], ["base", "5", "none"], ["longer", "500", "-"]]
    assert aligned(lines, left=[0, 2]).splitlines() == [
        "        steps  schedule",
        "base        5  none",
        "longer    500  -",
    ]
    assert aligned(lines, left=[]).splitlines()[2] == "longer    500         -"


def test_three_numbers_in_a_row_become_a_range() -> None:
    assert as_ranges([9, 2, 3, 5, 8, 7, 7, 20]) == "2, 3, 5, 7 to 9, 20"
    assert as_ranges([]) == ""
