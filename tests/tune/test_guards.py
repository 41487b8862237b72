from __future__ import annotations

import math
from typing import Any

import pytest

from omatg_ray.train.callback import APART
from omatg_ray.tune.guards import Guards, GuardSettings

VALIDATION = {"invalid_share": 0.1, "unique_share": 0.8, "match_rate": 0.5}


def scored(
    settings: GuardSettings, before: dict[str, Any], diversity: float, after: dict[str, Any], apart: bool = False
) -> tuple[int, list[str]]:
    """By guards that saw everything, and by those of a run that goes on after its first iteration."""
    whole = Guards(settings)
    assert whole.validated(0, before) == {"hacked": 0}
    whole.iterated(1, {"diversity": 2.0})
    lines = [{"kind": "validation", "step": 0, **before}, {"kind": "train", "step": 1, "diversity": 2.0}]
    resumed = Guards(settings, lines)
    found = []
    for guards in (whole, resumed):
        guards.iterated(2, {"diversity": diversity})
        found.append((int(guards.validated(2, after | {APART: float(apart)})["hacked"]), guards.reasons))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("after", "diversity", "apart", "reason"),
    [
        ({}, 2.0, False, None),
        ({"invalid_share": 0.19}, 1.01, False, None),
        ({"invalid_share": 0.21}, 2.0, False, "11.0% more crystals are invalid"),
        ({"unique_share": 0.39}, 2.0, False, "unique_share fell from 0.8 to 0.39"),
        ({"unique_share": math.nan}, math.nan, False, None),
        ({"match_rate": 0.41}, 2.0, False, None),
        ({"match_rate": 0.39}, 2.0, False, "match_rate fell from 0.5 to 0.39"),
        ({"match_rate": None}, 2.0, False, None),
        ({}, 0.99, False, "diversity fell from 2 to 0.99"),
        ({}, 2.0, True, "the second potential disagrees"),
    ],
)
def test_each_guard_objects_to_its_own(
    after: dict[str, Any], diversity: float, apart: bool, reason: str | None
) -> None:
    hacked, reasons = scored(GuardSettings(), VALIDATION, diversity, VALIDATION | after, apart)
    assert (hacked, len(reasons)) == (int(reason is not None), int(reason is not None))
    assert reason is None or reason in reasons[0]
    off = GuardSettings(invalid_share=None, diversity=None, unique_share=None, match_rate=None, second_potential=False)
    assert scored(off, VALIDATION, diversity, VALIDATION | after, apart) == (0, [])


def test_nothing_is_missed_where_nothing_is_measured() -> None:
    guards = Guards(GuardSettings())
    guards.validated(0, {"invalid_share": 0.0, "unique_share": math.nan})
    guards.iterated(1, {})
    assert guards.validated(0, {"invalid_share": 0.0, "unique_share": math.nan}) == {"hacked": 0}
