"""Reports without the strokes of their pictures, which take three quarters of what a small run takes.

All that a report says is put together as ever. Tests that look at its pictures are marked, `@pytest.mark.pictures`, and
fixtures have them `drawn`. What draws them is tested in `tests/report`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

PAGE = "omatg_ray.report.page"

_drawing: dict[str, Any] = {}


def _blank() -> dict[str, Any]:
    from matplotlib.figure import Figure

    return {"svg": lambda figure: "<svg></svg>", "draw_crystals": lambda drawn: Figure()}


def _draw(drawn: bool) -> None:
    page = sys.modules.get(PAGE)
    if page is None:
        return
    blank = _blank()
    if not _drawing:
        _drawing.update({name: getattr(page, name) for name in blank})
    for name, function in (_drawing if drawn else blank).items():
        setattr(page, name, function)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before all fixtures, those of a session included."""
    _draw(item.get_closest_marker("pictures") is not None)


@contextmanager
def drawn() -> Iterator[None]:
    """For a fixture that tests share."""
    _draw(True)
    try:
        yield
    finally:
        _draw(False)
