"""Text for people: terminal tables and counted nouns."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

LINE = 120
"""Characters in a line of text below a table."""


def aligned(lines: Sequence[Sequence[str]], left: Container[int]) -> str:
    """Align cells in columns, two spaces apart.

    Args:
        lines: Cells of every line, the header first; all lines have the same number.
        left: Indices of left-aligned columns; the others are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


MOST_NAMED = 20
"""Most lines of one kind that a message shows."""


def listed(title: str, lines: Sequence[str]) -> str:
    """Return a title with up to `MOST_NAMED` indented lines below it, and the number of the others."""
    more = [f"and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    return "\n  ".join([title, *lines[:MOST_NAMED], *more])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_ranges(numbers: Iterable[int]) -> str:
    """Return numbers in ascending order as text, where three and more in a row become '4 to 9'."""
    rows: list[list[int]] = []
    for number in sorted(set(numbers)):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ", ".join(f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)
