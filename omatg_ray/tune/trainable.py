"""A trial as Ray Tune knows it: around a run that knows nothing of Tune."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from omatg_ray.distributed.software import refuse_other
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import software

if TYPE_CHECKING:
    from omatg_ray.tune.trial import SweepRuns

NAME = "name"
"""Key of the configuration that Tune keeps of a trial, where a searcher gave it a number."""


def name_of(trial_id: str, config: Mapping[str, Any]) -> str:
    """What a trial is called: its number, with which the identity ends that Tune gives trials without a searcher."""
    return str(config.get(NAME) or trial_id.rpartition("_")[2])


class Trial(tune.Trainable):
    """Runs what `config["work"]` starts for `config["values"]`."""

    def setup(self, config: dict[str, Any]) -> None:
        quiet_libraries()
        # They say where every checkpoint lies.
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
        """The process goes on as another trial, which saves the seconds that its imports take."""
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
    """What one of Tune's trials is called."""
    return name_of(trial.trial_id, trial.config)
