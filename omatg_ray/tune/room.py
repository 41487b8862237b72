"""Detection of a sweep that no longer has room on its cluster. Ray Tune itself would wait forever, silently."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial

from omatg_ray.distributed.cluster import describe_room, has_room, no_room_error
from omatg_ray.distributed.event_loop import PATIENCE, TICK
from omatg_ray.distributed.settings import RaySettings

if TYPE_CHECKING:
    from omatg_ray.tune.trial import SweepRuns

logger = logging.getLogger(__name__)


class RoomWatch(tune.Callback):
    """Callback that reports every minute that there is no room for any trial, and ends the sweep after `ray.wait`.

    Args:
        work: The runs of the sweep, with the resources of a trial.
        settings: The cluster.
    """

    def __init__(self, work: SweepRuns, settings: RaySettings) -> None:
        self._work, self._settings = work, settings
        self._looked = self._said = 0.0
        self._since: float | None = None

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Check for room, at most once a second.

        Raises:
            ClusterError: There was no room for `ray.wait` seconds; says what was asked for and what there is.
        """
        now = time.monotonic()
        if now - self._looked < TICK:
            return
        self._looked = now
        waiting = [trial for trial in trials if not trial.is_finished()]
        if not waiting or any(trial.status == Trial.RUNNING for trial in waiting) or has_room():
            self._since = None
            return
        if self._since is None:
            self._since = self._said = now
        bundles = self._work.bundles(waiting[0].config["values"])
        if now - self._since > self._settings.wait:
            raise no_room_error("a trial", bundles, self._settings)
        if now - self._said >= PATIENCE:
            self._said = now
            logger.warning(
                "no room for any trial for %.0f s; the sweep ends after %g s (ray.wait). %s",
                now - self._since,
                self._settings.wait,
                describe_room(bundles),
            )
