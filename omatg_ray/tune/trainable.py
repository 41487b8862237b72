"""A trial as Ray Tune sees it; the run inside it does not depend on Tune."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import refuse_other, software

if TYPE_CHECKING:
    from omatg_ray.tune.trial import SweepRuns

NAME = "name"
"""Key of a trial's configuration in Tune, for the number given by a searcher."""


def name_of(trial_id: str, config: Mapping[str, Any]) -> str:
    """Return the name of a trial: its number. Without a searcher, Tune appends it to the trial's identity."""
    return str(config.get(NAME) or trial_id.rpartition("_")[2])


class Trial(tune.Trainable):
    """Tune's wrapper of the run that `config["work"]` starts for `config["values"]`."""

    def setup(self, config: dict[str, Any]) -> None:
        quiet_libraries()
        # These loggers report the location of every checkpoint.
        for name in ("ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.WARNING)
        work: SweepRuns = config["work"]
        name = name_of(self.trial_id, config)
        refuse_other(software(), f"trial {name}", ray.util.get_node_ip_address(), work.software)
        self._run = work.start(config["values"], name)

    def step(self) -> dict[str, Any]:
        return self._run.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        self._run.save(Path(checkpoint_dir))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self._run.load(Path(checkpoint))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Reuse the process for another trial, which saves the seconds of its imports."""
        self._run.close()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._run.close()

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        work: SweepRuns = config["work"]
        values = config["values"]
        bundles = [dict(bundle) for _, bundle in work.bundles(values)]
        return tune.PlacementGroupFactory(bundles, strategy=work.strategy(values))


def name_in_tune(trial: Any) -> str:
    """Return the name of one of Tune's trials."""
    return name_of(trial.trial_id, trial.config)
