"""Pretraining on Ray Train: data-parallel workers around the same loop that otherwise runs in one process.

Checkpoints and metrics are those of the run folder, with or without Ray. Ray Train starts and connects the workers. If
one dies it restarts them all, and they resume from the last checkpoint of the run folder.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from threading import Thread
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.exceptions import RayActorError
from ray.train import ScalingConfig, TrainingFailedError, UserCallback, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device, prepare_model

from omatg_ray.distributed.cluster import join_cluster, reserve_room
from omatg_ray.distributed.settings import RaySettings, Share
from omatg_ray.errors import ClusterError, OmatgRayError, TrainingError
from omatg_ray.flow.pretrain import Losses, Pretrainer, Recipe
from omatg_ray.flow.process_group import DefaultProcessGroup
from omatg_ray.run.progress import print_line
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import refuse_other, software
from omatg_ray.train.pretrain_loop import PretrainLoop

# At run time this module exports the classes of Ray Train V2, which type checkers do not know.
V2: Any = ray.train

RESTARTS = 3
"""How many times dead workers are replaced in a run. Preempted nodes do not count."""
GO = "go"


Job = tuple[Recipe, Share, Mapping[str, str], Path]
"""Input of every worker: what makes the trainer, its share of its node, the software of the driver, and a folder.

The driver made the folder inside the run folder. It holds the file `go` until the run is asked to stop.
"""


@contextmanager
def joined_with_room(settings: RaySettings, progress: bool = False) -> Iterator[None]:
    """Join the cluster for the duration of the context, and check that it has room for the workers.

    Raises:
        ClusterError: The cluster cannot be reached, or has no room for the workers.
    """
    share = settings.pretrain
    with join_cluster(settings, progress) as (address, grows):
        # Otherwise Ray Train would wait for room, a minute at a time.
        with reserve_room([("pretraining worker", share.bundle)] * share.workers, settings, grows):
            pass
        if progress:
            print_line(f"{address}: room for {share.workers} workers")
        yield


def train_on_workers(recipe: Recipe, loop: PretrainLoop, settings: RaySettings, stopped: Callable[[], bool]) -> None:
    """Train on workers of the joined cluster; rank 0 runs the loop.

    Args:
        recipe: Makes the trainer, on every worker.
        loop: The epochs and what they write.
        settings: The cluster.
        stopped: Returns whether the user asked for a stop.

    Raises:
        OmatgRayError: Any error raised by the loop.
        ClusterError: The workers could not be kept alive.
    """
    share = settings.pretrain
    # The watcher announces nodes that are about to be preempted. Nothing here uses that, and it costs an actor.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    # Each search of Ray Train for room for new workers takes a minute, without any output.
    searches = max(2, math.ceil(settings.wait / 60))
    # If this process is killed, the next run in this folder removes a folder of this name.
    with TemporaryDirectory(dir=loop.path, prefix=".ray_train.", suffix=".tmp") as name:
        signals = Path(name)
        (signals / GO).touch()

        def look() -> None:
            if stopped():
                (signals / GO).unlink(missing_ok=True)

        trainer = _Trainer(
            _work,
            train_loop_config={"job": ray.put((recipe, share, software(), signals)), "loop": ray.put(loop)},
            # NCCL refuses two ranks on one GPU.
            torch_config=TorchConfig(backend="nccl" if share.gpus == 1 else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=share.workers,
                use_gpu=share.gpus > 0,
                resources_per_worker=share.bundle,
                placement_strategy=settings.strategy.upper(),
            ),
            run_config=V2.RunConfig(
                name="pretrain",
                storage_path=name,
                failure_config=V2.FailureConfig(max_failures=RESTARTS, controller_failure_limit=searches),
                callbacks=[_Restarts()],
                # Hides tracebacks of workers that lost another one; the error that ends the run is raised below.
                logging_config=V2.LoggingConfig(log_level="CRITICAL"),
            ),
        )
        error = _watch(trainer, look).return_value
    if error is not None:
        raise error


class _Trainer(TorchTrainer):
    """`TorchTrainer` without the actor that returns the workers' resources if the controller is killed.

    The end of the job returns them anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        # That actor queries the dashboard, and prints a traceback if there is none.
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _watch(trainer: TorchTrainer, look: Callable[[], None]) -> Any:
    """Run `fit` in a thread and return its result; in the main thread it would treat Ctrl-C as an abort."""
    future: Future[Any] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - raised again by future.result()
            future.set_exception(error)

    # A daemon thread, so that a second Ctrl-C does not wait for it.
    Thread(target=fit, name="ray-train", daemon=True).start()
    while not wait([future], timeout=0.2).done:
        look()
    try:
        return future.result()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, OmatgRayError):
                raise failure from error
        raise ClusterError(f"pretraining's workers failed more than {RESTARTS} times. {error}") from error
    except (TrainingFailedError, RayActorError) as error:
        raise ClusterError(f"pretraining on Ray Train failed. {error}") from error


class _Restarts(UserCallback):
    """Callback that prints why training goes back to a checkpoint; runs in Ray Train's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # Ray Train wraps the error of a dead worker; the other workers only report a lost connection.
        causes = {rank: getattr(error, "health_check_failure", error) for rank, error in worker_exceptions.items()}
        dead = {rank: error for rank, error in causes.items() if isinstance(error, RayActorError)}
        reasons = (f"worker {rank}: {' '.join(str(error).split())}" for rank, error in (dead or causes).items())
        print_line(f"pretraining lost workers and resumes from its last checkpoint; {shorten('; '.join(reasons), 300)}")


def _work(config: dict[str, Any]) -> Any:
    """Run a worker. Rank 0 returns the error that ends the run, if any.

    An error that is raised instead makes Ray Train restart all workers; a worker that loses another one ends like that.
    """
    job: Job = ray.get(config["job"])
    recipe, share, expected, signals = job
    quiet_libraries()
    torch.set_num_threads(share.n_threads)
    refuse_other(software(), "a pretraining worker", ray.util.get_node_ip_address(), expected)
    device = get_device()
    if share.gpus and device.type == "cpu":
        where = f"node {socket.gethostname()} lends {share.gpus:g} GPU"
        raise ClusterError(f"{where}, but PyTorch sees none; install its CUDA build there")
    try:
        trainer = recipe(device=device, process_group=DefaultProcessGroup(), wrap=prepare_model)
    except OmatgRayError as error:
        return error  # the same on all ranks
    if trainer.process_group.rank == 0:
        return _lead(trainer, ray.get(config["loop"]), signals)
    _follow(trainer)
    return None


def _lead(trainer: Pretrainer, loop: PretrainLoop, signals: Path) -> OmatgRayError | None:
    """Run the loop on rank 0, and announce every epoch to the other ranks."""
    announced = False

    def run_epoch() -> Losses:
        nonlocal announced
        state = {} if announced else {name: value.cpu() for name, value in trainer.state_dict().items()}
        _from_first(trainer, state)
        announced = True
        return trainer.run_epoch()

    error: OmatgRayError | None = None
    try:
        if not signals.is_dir():
            raise ClusterError(
                f"the run folder {loop.path} does not exist on node {socket.gethostname()}, whose worker has to "
                "write it; with ray.pretrain.workers, run= must lie on storage that all nodes share"
            )
        loop.run(trainer, run_epoch, lambda: not (signals / GO).exists())
    except OmatgRayError as failure:
        error = failure
    except torch.OutOfMemoryError as failure:
        if trainer.process_group.size > 1:
            raise  # the others wait for this rank in the middle of an epoch, and notice only its end
        error = TrainingError(f"{failure}; lower pretrain.batch_size, or use more workers")
    _from_first(trainer, None)
    return error


def _follow(trainer: Pretrainer) -> None:
    """Run an epoch whenever rank 0 announces one; the first starts from the state of rank 0."""
    state: dict[str, torch.Tensor] | None = None
    while (state := _from_first(trainer, state)) is not None:
        if state:
            trainer.load_state_dict(state)
        # Rank 0 raises and reports the same error.
        with contextlib.suppress(TrainingError):
            trainer.run_epoch()


def _from_first(trainer: Pretrainer, state: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """Broadcast the state of rank 0 and return it; the arguments of other ranks are ignored."""
    if trainer.process_group.size == 1:
        return state
    box = [state]
    dist.broadcast_object_list(box, src=0)
    return box[0]
