"""What is said of a model before it generates."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest

from omatg_ray.model.checks import recovery_of
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel, bundled_model


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([2, 10], "40% of those of 1 to 10 atoms"),
        ([20, 11, 4], "40% of those of 1 to 10 atoms, 5% of those of 11 to 20 atoms"),
        ([21], "an unknown share of those of more than 20 atoms"),
    ],
)
def test_the_share_of_crystals_of_such_sizes_that_are_recovered(sizes: list[int], said: str) -> None:
    model = cast("FlowModel", SimpleNamespace(description=SimpleNamespace(recovery={20: 0.05, 10: 0.4})))
    assert recovery_of(model, "mine", sizes) == f"trust: of held-out crystals, one sample of mine matched {said}"


def test_a_model_that_says_nothing_of_it_is_described_as_before() -> None:
    model = cast("FlowModel", SimpleNamespace(description=SimpleNamespace(recovery={})))
    assert recovery_of(model, "mine", [2]) == ""
    described = bundled_model().description.model_copy(update={"recovery": {}})
    assert "recovery" not in described.model_dump_json()
    told = described.model_copy(update={"recovery": {10: 0.25}})
    assert ModelDescription.model_validate(json.loads(told.model_dump_json())).recovery == {10: 0.25}
