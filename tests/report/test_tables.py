from __future__ import annotations

import math

import pytest

from omatg_ray.evaluate.compositions import interval_dict
from omatg_ray.evaluate.metrics import Interval
from omatg_ray.report.tables import plus_minus

NAN = math.nan


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.25, 0.2, 0.3, 8), "0.250 ±0.050"),
        (Interval(0.25, NAN, NAN, 1), "0.250"),
        # Such as the RMSE of what matches, where nothing does.
        (Interval(NAN, NAN, NAN, 0), "-"),
    ],
)
def test_half_the_width_of_an_interval_is_behind_its_mean(interval: Interval, text: str) -> None:
    assert plus_minus(interval_dict(interval), "{:.3f}") == text
