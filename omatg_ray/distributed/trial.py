"""A trial of Ray Tune around a run that knows nothing of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune

from omatg_ray.distributed.software import refuse_other
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import software


class Run(Protocol):
    """A run that is driven from outside."""

    def step(self) -> dict[str, Any]:
        """Goes on to the next result; `done` in it says whether it is the last."""

    def save(self, path: Path) -> None:
        """Writes all that it goes on from, exactly, into a folder."""

    def load(self, path: Path) -> None:
        """Goes on from what `save` of this or another run wrote."""

    def close(self) -> None:
        """Gives back what it holds."""


class Work(Protocol):
    """Makes the runs of a sweep. Travels to every trial."""

    @property
    def software(self) -> Mapping[str, str]:
        """What the driver runs, and every trial has to."""

    def bundles(self, values: Mapping[str, Any]) -> Sequence[tuple[str, Mapping[str, float]]]:
        """Role and resources of a trial's own process, then of its actors, in the order in which they start."""

    def strategy(self, values: Mapping[str, Any]) -> str:
        """How they are placed: PACK or SPREAD."""

    def start(self, values: Mapping[str, Any], name: str) -> Run:
        """A run at its beginning, for some values of the keys that are varied."""

    def history(self, name: str) -> Sequence[float]:
        """The objectives that a run has logged so far, in their order."""


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
        work: Work = config["work"]
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
        work: Work = config["work"]
        values = config["values"]
        bundles = [dict(bundle) for _, bundle in work.bundles(values)]
        return tune.PlacementGroupFactory(bundles, strategy=work.strategy(values))
