"""What schedulers remember of trials, also of sweeps that an earlier version began."""

from __future__ import annotations

import pytest

from omatg_ray.tune.memory import keep_within
from omatg_ray.tune.settings import SweepSettings

OLD = "policy.annealing.pos"


def test_mutated_values_are_limited_also_under_old_names_of_keys():
    space = {OLD: {"uniform": [1.0, 3.0]}, "learner.lr": {"uniform": [0.0, 1.0]}}
    with pytest.warns(UserWarning, match=r"policy\.annealing is now policy\.fixed_schedule"):
        sweep = SweepSettings.model_validate({"config": {}, "space": space})
    config = {"values": {OLD: 9.0, "learner.lr": 0.5}}
    with pytest.warns(UserWarning, match=r"policy\.annealing is now"):
        assert keep_within(sweep.space, config) == {"values": {OLD: 3.0, "learner.lr": 0.5}}
