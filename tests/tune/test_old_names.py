from __future__ import annotations

import pickle
import sys

import pytest

from omatg_ray.tune.guards import GuardSettings
from omatg_ray.tune.old_names import MOVED, known_by_old_names
from omatg_ray.tune.settings import SweepSettings
from omatg_ray.tune.space import Domain
from omatg_ray.tune.trainable import name_in_tune
from omatg_ray.tune.trial import SweepRuns

# As the pickles of earlier versions name them.
NAMES = {
    ("omatg_ray.commands.sweep", "SweepSettings"): SweepSettings,
    ("omatg_ray.commands.trial", "Work"): SweepRuns,
    ("omatg_ray.tune.trial", "Work"): SweepRuns,
    ("omatg_ray.distributed.sweep", "_named"): name_in_tune,
    ("omatg_ray.distributed.tuning", "Domain"): Domain,
    ("omatg_ray.rl.guards", "GuardSettings"): GuardSettings,
}


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_what_earlier_versions_have_pickled_is_found(module: str, name: str) -> None:
    by_name = f"c{module}\n{name}\n.".encode()
    with known_by_old_names():
        assert pickle.loads(by_name) is NAMES[module, name]
    assert not MOVED.keys() & sys.modules.keys()
    with pytest.raises((ModuleNotFoundError, AttributeError)):
        pickle.loads(by_name)


def test_what_never_was_there_is_not() -> None:
    with known_by_old_names(), pytest.raises(AttributeError, match="Nothing"):
        pickle.loads(b"comatg_ray.rl.guards\nNothing\n.")
