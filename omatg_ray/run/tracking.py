"""Metrics sent to Weights & Biases and MLflow, if a configuration asks for them.

Both are set up as their own documentation says: WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT and so on;
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME. They get a copy of the metrics: if a service fails, nothing more is sent to
it, and the run continues.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from omatg_ray.errors import ConfigError
from omatg_ray.run.advice import install
from omatg_ray.run.atomic import write_json

Tracker = Literal["wandb", "mlflow"]
PROJECT = "omatg_ray"
IDS_FILE = "tracking.json"
"""File in a run folder with the ids of the run at the services, so that a resumed run continues there."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tracking:
    """The services that get the metrics of a run. Can be sent to another process.

    Attributes:
        trackers: Names of the services.
        name: Name of the run.
        settings: The run's settings by dotted key.
    """

    trackers: tuple[Tracker, ...] = ()
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def require(self) -> None:
        """Check that the packages of the services are installed.

        Raises:
            ConfigError: One is not; the message names the extra that provides it.
        """
        for tracker in self.trackers:
            try:
                import_module(tracker)
            except ImportError as error:
                raise ConfigError(f"tracking: {tracker} is not installed here ({error}): {install(tracker)}") from error

    def start(self, folder: Path) -> list[Sink]:
        """Open the run in a folder at the services; a file in the folder keeps its ids there.

        Raises:
            ConfigError: A service cannot be reached or refuses.
        """
        path = folder / IDS_FILE
        ids: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        sinks: list[Sink] = []
        try:
            for tracker in self.trackers:
                run = self._open(tracker, ids.get(tracker), folder)
                sinks.append(Sink(tracker, run))
                if ids.get(tracker) != run.ident:
                    ids[tracker] = run.ident
                    write_json(path, ids)
        except BaseException:
            # The run ends here: services that accepted it must not wait for more.
            for opened in sinks:
                opened.close(failed=True)
            raise
        return sinks

    def _open(self, tracker: Tracker, ident: str | None, folder: Path) -> WandbRun | MlflowRun:
        try:
            return RUNS[tracker](ident, folder, self)
        except Exception as error:  # each raises errors of its own and of its dependencies
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"tracking: {tracker} cannot accept the run: {reason}") from error


class Sink:
    """A receiver of metrics. Its failure does not end the run: it is warned of once, and nothing more is sent."""

    def __init__(self, name: str, run: WandbRun | MlflowRun) -> None:
        self._name, self._run, self._failed = name, run, False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send finite numbers by names such as `train/loss`."""
        self._try(self._run.log, step, values)

    def close(self, failed: bool) -> None:
        """End the run at the receiver."""
        self._try(self._run.close, failed)

    def _try(self, act: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a service raises, the run continues
            self._failed = True
            logger.warning(
                "%s no longer accepts metrics (%s); metrics.jsonl has them all",
                self._name,
                " ".join(str(error).split()),
            )


class WandbRun:
    """A run of Weights & Biases, in the project that WANDB_PROJECT names, else `omatg_ray`.

    Attributes:
        ident: Id of the run there.
    """

    def __init__(self, ident: str | None, folder: Path, tracking: Tracking) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=tracking.name,
            id=ident,
            resume=None if ident is None else "allow",
            dir=str(folder),
            config=dict(tracking.settings),
            # Leave the terminal to the progress of the run.
            settings=wandb.Settings(console="off", silent=True),
        )
        self.ident = str(self._run.id)
        # W&B's own step only grows: a run resumed from an earlier step would be ignored until it passes the last one.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class MlflowRun:
    """A run of MLflow, in the experiment that MLFLOW_EXPERIMENT_NAME names, else `omatg_ray`.

    Attributes:
        ident: Id of the run there.
    """

    def __init__(self, ident: str | None, folder: Path, tracking: Tracking) -> None:
        # An unreachable server should delay the run by seconds, not minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient()
        if ident is not None:
            self.ident = ident
            self._client.update_run(ident, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        self.ident = str(self._client.create_run(experiment, run_name=tracking.name).info.run_id)
        settings = [Param(key, str(value)) for key, value in tracking.settings.items()]
        # One request may hold at most 100.
        for start in range(0, len(settings), 100):
            self._client.log_batch(self.ident, params=settings[start : start + 100])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.ident, metrics=[Metric(key, value, now, step) for key, value in values.items()])

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self.ident, "FAILED" if failed else "FINISHED")


RUNS: dict[Tracker, type[WandbRun] | type[MlflowRun]] = {"wandb": WandbRun, "mlflow": MlflowRun}
