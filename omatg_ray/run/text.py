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


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
