"""The rule by which a change counts, and its one application in train's lines and evaluate's stars."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omatg_ray.evaluate.change import changes
from omatg_ray.evaluate.compositions import ByComposition, interval_dict
from omatg_ray.evaluate.verdict import significant, verdict
from omatg_ray.report.page import with_interval

NAN = float("nan")


def change(low: float | None, high: float | None, compositions: int = 10) -> dict[str, Any]:
    mean = None if low is None or high is None else (low + high) / 2
    return {"mean": mean, "low": low, "high": high, "n": 4 * compositions, "compositions": compositions}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (change(0.1, 0.3), "higher"),
        (change(-0.3, -0.1), "lower"),
        (change(-0.1, 0.3), "no significant change"),
        (change(0.0, 0.3), "no significant change"),
        (change(0.1, 0.3, 9), "too few to tell (9 compositions)"),
        (change(None, None, 1), "too few to tell (1 composition)"),
        ({"mean": 1.0, "low": 0.5, "high": 2.0, "n": 100}, "too few to tell (0 compositions)"),
    ],
)
def test_a_change_needs_an_interval_without_zero_and_ten_compositions(found: dict[str, Any], said: str) -> None:
    assert verdict(found) == said
    assert significant(found) == (said in ("higher", "lower"))


@pytest.mark.parametrize("compositions", [4, 9, 10, 16])
def test_train_and_evaluate_say_the_same_of_sixteen_crystals(compositions: int) -> None:
    """The lines after training come from rows of JSON, the stars from sums by composition."""
    names = [f"C{row % compositions}" for row in range(16)]
    before, after = torch.rand(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after = before + 0.5 + 0.1 * after
    rows = {"id": [str(row) for row in range(16)], "composition": names, "rmse": [None] * 16}
    line, *_ = changes(*({"per_structure": rows | {"relative_energy_capped": e.tolist()}} for e in (before, after)))
    old, new = (ByComposition.of(names).with_rows({"relative_energy_mean_capped": e}) for e in (before, after))
    star = interval_dict(new.differences(old)["relative_energy_mean_capped"])
    assert (line.interval.mean, line.interval.low, line.interval.high) == pytest.approx(
        (star["mean"], star["low"], star["high"]), abs=1e-12
    )
    assert line.verdict == ("higher" if compositions >= 10 else f"too few to tell ({compositions} compositions)")
    assert ("*" in with_interval(star, "{:+.3f}", " *")) == (line.verdict == "higher")


def test_compositions_without_values_on_both_sides_do_not_count() -> None:
    names = [f"C{row}" for row in range(12)]
    old = ByComposition.of(names).with_rows({"rmse": torch.tensor([NAN] * 2 + [0.1] * 10)})
    new = ByComposition.of(names).with_rows({"rmse": torch.tensor([0.2] * 11 + [NAN])})
    found = new.differences(old)["rmse"]
    assert (found.compositions, found.n) == (9, 9)
    assert verdict(interval_dict(found)) == "too few to tell (9 compositions)"
