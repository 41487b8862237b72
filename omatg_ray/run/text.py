"""Text for people: terminal tables and counted nouns."""

from __future__ import annotations

from collections.abc import Container, Sequence

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
