"""Reports without the strokes of their pictures, which take three quarters of what a small run takes.

All that a report says is put together as ever. Tests that look at its pictures are marked: `@pytest.mark.pictures`.
What draws them is tested in `tests/report`.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from matplotlib.figure import Figure

PAGE = "omatg_ray.report.page"
BLANK = {"svg": lambda figure: "<svg></svg>", "draw_crystals": lambda drawn: Figure()}

_drawn: dict[str, Any] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before all fixtures, those of a session included."""
    page = sys.modules.get(PAGE)
    if page is None:
        return
    if not _drawn:
        _drawn.update({name: getattr(page, name) for name in BLANK})
    for name, function in (_drawn if item.get_closest_marker("pictures") else BLANK).items():
        setattr(page, name, function)
