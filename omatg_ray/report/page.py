"""Style and building blocks of reports: each is one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from omatg_ray.evaluate.verdict import significant
from omatg_ray.report.drawing import draw_crystals, element_colours
from omatg_ray.report.plots import svg

if TYPE_CHECKING:
    from ase import Atoms

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6676; --line: #d9dee7; --card: #ffffff; --page: #f5f7fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ef; --soft: #9aa4b5; --line: #333b49; --card: #1b2029; --page: #12161d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 86rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; } h2 { margin: 2.5rem 0 .8rem; font-size: 1.2rem; }
h3 { margin: 0 0 .4rem; font-size: 1rem; font-weight: 600; }
p { margin: .3rem 0; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
figure, .wide, details { margin: 0; padding: 1rem 1.1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem; }
.wide { overflow-x: auto; } details { margin-bottom: .6rem; }
figure + .wide, .wide + figure { margin-top: 1rem; } summary { cursor: pointer; font-weight: 600; }
svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit !important; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: pre; } th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tr:last-child td { border-bottom: 0; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
td:first-child { white-space: normal; min-width: 8rem; } td:last-child, th:last-child { padding-right: 0; }
table + table { margin-top: 1.2rem; }
pre { overflow-x: auto; font-size: .85rem; } .element { margin-right: .9rem; white-space: nowrap; }
.dot { display: inline-block; width: .75em; height: .75em; margin-right: .35em; border-radius: 50%;
  border: 1px solid #555; }
"""


ABSURD = 5.0
"""eV/atom; no crystal is that far above or below a known one of the same atoms. Histograms end there."""
ABSURD_NOTE = (
    f"⚠: more than {ABSURD:g} eV/atom from the reference. Such an energy is absurd: atoms overlap, or the potential "
    "fails there."
)
CHARACTER, PADDING = 9.3, 19.2
"""Pixels of a digit in a table, in a wide font, and of the padding of a cell."""
FITS = 1280.0
"""Pixels that a table may take, in a window of 1,400."""


def page(title: str, summary: str, sections: Sequence[tuple[str, str]], notes: str = "") -> str:
    """Build a whole page.

    Args:
        title: Plain text.
        summary: HTML below the title.
        sections: Headings and their HTML; empty sections are left out.
        notes: HTML at the end.
    """
    body = "\n".join(f"<h2>{name}</h2>\n{content}" for name, content in sections if content)
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{summary}\n{body}\n{notes}\n</body>\n</html>\n"
    )


def card(title: str, figure: Figure | None, caption: str = "") -> str:
    """Put a picture in a box, with HTML above and below; return nothing without a picture."""
    if figure is None:
        return ""
    head = f"<h3>{title}</h3>" if title else ""
    foot = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{head}{svg(figure)}{foot}</figure>"


def grid(boxes: Iterable[str], above: str = "") -> str:
    """Lay out boxes side by side, below HTML; return nothing without boxes."""
    shown = "".join(boxes)
    return f'{above}<div class="grid">{shown}</div>' if shown else ""


def soft(text: str) -> str:
    """Return a paragraph of plain text, set back from the rest."""
    return f'<p class="soft">{escape(text)}</p>'


def crystal_card(formula: str, drawn: dict[str, tuple[Atoms, str]], caption: str) -> str:
    """Draw crystals of one composition side by side, with a legend of element colours.

    Args:
        formula: Formula of the composition.
        drawn: Structure and caption, by title.
        caption: HTML below the picture.
    """
    colours = element_colours(next(iter(drawn.values()))[0].get_chemical_symbols())
    legend = "".join(
        f'<span class="element"><span class="dot" style="background: {colour}"></span>{symbol}</span>'
        for symbol, colour in colours.items()
    )
    title = re.sub(r"(\d+)", r"<sub>\1</sub>", formula)
    return card(title, draw_crystals(drawn), f"{legend}{caption}")


def spread(names: Sequence[object], count: int = 6) -> list[int]:
    """Choose up to `count` rows with different names, evenly spaced."""
    first = [index for index, name in enumerate(names) if name not in names[:index]]
    chosen = np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)
    return [first[position] for position in chosen]


def format_number(value: float | None, form: str) -> str:
    """Format a number with a typographic minus sign; a dash for None."""
    return "–" if value is None else form.format(value).replace("-", "−")


def with_warning(relative: float, form: str) -> str:
    """Format an energy relative to the reference, in eV/atom, marked if it is absurd (`ABSURD`)."""
    text = format_number(relative, form)
    return f"⚠ {text}" if abs(relative) > ABSURD else text


def with_interval(interval: Mapping[str, Any], form: str, mark: str = "") -> str:
    """Format a mean with its interval below, both as in `interval_dict`; `mark` stands behind if it is significant."""
    mean, low, high = (interval.get(name) for name in ("mean", "low", "high"))
    text = format_number(mean, form)
    if mean is None or low is None or high is None:
        return text
    sure = mark if significant(interval) else ""
    return f"{text}{sure}\n[{format_number(low, form)}, {format_number(high, form)}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], below: str = "", folded: str = "", names: int = 1) -> str:
    """Put a table of plain texts, which may have several lines, in a box with HTML below.

    A table that is too wide for a window becomes several, one below the other.

    Args:
        head: Titles of the columns.
        rows: Cells of every row.
        below: HTML below the table.
        folded: Title of a table that is folded away.
        names: Number of columns at the left that say what a row is; every part of a wide table has them.
    """
    lines = list(rows)
    parts = []
    for columns in _parts(head, lines, names):
        header = "".join(f"<th>{escape(head[column])}</th>" for column in columns)
        cells = ("".join(f"<td>{escape(line[column])}</td>" for column in columns) for line in lines)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        parts.append(f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>")
    content = "".join(parts) + below
    if folded:
        return f'<details class="wide"><summary>{folded}</summary>{content}</details>'
    return f'<div class="wide">{content}</div>'


def _parts(head: Sequence[str], lines: Sequence[Sequence[str]], names: int) -> list[list[int]]:
    """Divide the columns of a table into parts that fit a window, each with the first `names` columns."""
    # Titles wrap at spaces, cells only where they have several lines.
    cells = list(zip(*lines, strict=True)) or [()] * len(head)
    texts = [
        [*title.split(), *(text for cell in column for text in cell.split("\n"))]
        for title, column in zip(head, cells, strict=True)
    ]
    widths = [PADDING + CHARACTER * max(map(len, column), default=0) for column in texts]
    room = FITS - sum(widths[:names])
    parts: list[list[int]] = []
    left = 0.0
    for column in range(names, len(head)):
        if not parts or widths[column] > left:
            parts.append(list(range(names)))
            left = room
        parts[-1].append(column)
        left -= widths[column]
    return parts or [list(range(len(head)))]
