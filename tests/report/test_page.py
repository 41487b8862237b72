from __future__ import annotations

import re

from omatg_ray.report.page import CHARACTER, FITS, PADDING, table, with_warning


def heads(html: str) -> list[list[str]]:
    return [re.findall("<th>(.*?)</th>", part) for part in re.findall("<table>.*?</table>", html, re.DOTALL)]


def test_a_wide_table_is_divided_into_parts_that_fit() -> None:
    """All parts say which row is which, and together they have every column once, in order."""
    names, metrics = ["model", "steps"], [f"m{number}" for number in range(20)]
    row = ["base", "10", *["[−0.314, +0.496]\n+0.1"] * 20]
    html = table([*names, *metrics], [row], "below", names=2)
    parts = heads(html)
    assert len(parts) > 1 and all(part[:2] == names for part in parts)
    assert [column for part in parts for column in part[2:]] == metrics
    width = 16 * CHARACTER + PADDING
    assert all(7 * CHARACTER + 2 * PADDING + width * (len(part) - 2) <= FITS for part in parts)
    assert html.count("<td>base</td>") == len(parts) and html.endswith("</table>below</div>")


def test_a_table_that_fits_stays_whole() -> None:
    assert heads(table(["", *"abcdefgh"], [["base", *["0.123"] * 8]])) == [["", *"abcdefgh"]]
    assert heads(table(["", "a column that wraps"], [])) == [["", "a column that wraps"]]


def test_a_column_wider_than_a_window_has_a_part_of_its_own() -> None:
    assert heads(table(["", "a", "b", "c"], [["base", "1", "x" * 300, "2"]])) == [["", "a"], ["", "b"], ["", "c"]]


def test_absurd_energies_are_marked() -> None:
    assert with_warning(6.3, "{:+.1f}") == "⚠ +6.3" and with_warning(-40.0, "{:+.0f}") == "⚠ −40"
    assert with_warning(4.9, "{:+.1f}") == "+4.9"
