"""Actors that die in mid-run: the run ends with a message that names them, and goes on from its last checkpoint."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import train
from omatg_ray.distributed.bench import RayBench
from omatg_ray.distributed.crew import RayCrew
from omatg_ray.distributed.pool import Pool, Timed
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.distributed.staff import Staff, sampling_roles, staffed
from omatg_ray.errors import ClusterError
from omatg_ray.evaluate.bench import Block
from omatg_ray.model import FlowModel
from omatg_ray.reward.build import Judges
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.metrics import read_metrics
from tests.distributed.conftest import CORES, SMALL, Run, Workshop


def kill_after_two_iterations(run: Path, role: str) -> None:
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and sum(line["kind"] == "train" for line in read_metrics(metrics)) >= 2):
        time.sleep(0.02)
    actors = json.loads((run / "actors.json").read_text())
    os.kill(next(actor["pid"] for actor in actors if actor["role"] == role), signal.SIGKILL)


@pytest.mark.parametrize("role", ["rollout", "reward", "learner"])
def test_a_killed_actor_ends_the_run_which_goes_on_exactly(
    role: str, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [f"run={run}", f"base={base}", *SMALL]
    killer = threading.Thread(target=kill_after_two_iterations, args=(run, role), daemon=True)
    killer.start()
    with pytest.raises(ClusterError, match=rf"(?s)^{role} actor 0 (died|cannot be reached).*last checkpoint is {run}/"):
        train(workshop.load(*words, "iterations=1000", "ray.rollout.workers=1"), progress=False)
    killer.join(timeout=10)
    deadline = time.monotonic() + 10
    while not math.isclose(ray.available_resources()["CPU"], 2 * CORES):
        assert time.monotonic() < deadline, "its room was not given back"
        time.sleep(0.1)
    done = json.loads((run / "checkpoints" / "last" / "state.json").read_text())["iteration"]
    total = f"iterations={done + 2}"
    resumed = Run(config := workshop.load(*words, total), train(config, resume=True, progress=False))
    config = workshop.load(f"run={tmp_path / 'undisturbed'}", *words[1:], total)
    undisturbed = Run(config, train(config, progress=False)).weights()
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.weights().items())


def test_a_model_that_does_not_arrive_is_an_error_and_not_the_one_before(
    workshop: Workshop, base: Path, cluster: Cluster
) -> None:
    """Otherwise validation and the test would measure something else than they say."""
    model = FlowModel.load(base)
    block = Block(species=[[11, 17]], indices=[0], steps=3)
    settings = RaySettings.model_validate({"rollout": {"workers": 1}})
    with staffed(settings, sampling_roles(settings, model, Judges(None, None), 10.0), progress=False) as staff:
        bench = RayBench(staff, None)
        (first,) = bench.measure(model, [block])
        assert torch.equal(first.crystals.pos, block.generate(model).pos)
        with pytest.raises(ClusterError, match=r"(?s)^rollout actor 0 failed:.*no attribute 'to'"):
            list(bench.measure("no model at all", [block]))  # type: ignore[arg-type]


ITEM = WorkItem(0, ((11, 17),), (0, 1))


class Clockwork:
    """Answers everything with a trajectory of nothing, and says that it took a tenth of a second."""

    def rollout(self, *_: Any) -> tuple[int, int, Timed]:
        time.sleep(0.1)
        return 0, 0, Timed(None, 0.1)

    def judge(self, *_: Any) -> Timed:
        time.sleep(0.3)
        return Timed(None, 0.3)

    def update(self, *_: Any) -> tuple[dict[str, Any], Timed]:
        time.sleep(0.2)
        return {}, Timed({"loss": 1.0}, 0.2)


def test_stages_and_idle_shares_add_up(base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor of each kind; two items, of 0.1 s to roll out and 0.3 s to judge each, and 0.2 s of learning."""
    started = {role: ray.remote(Clockwork).options(num_cpus=0.1).remote() for role in ("rollout", "reward", "learner")}
    pools = {role: Pool(role, 2, [actor]) for role, actor in started.items()}
    crew = RayCrew(Staff(pools, [], {"startup_cluster": 1.0, "startup_actors": 2.0}), FlowModel.load(base), 2, False)
    monkeypatch.setattr(crew.model.network, "load_state_dict", lambda weights: None)
    puts: list[Any] = []
    put = ray.put
    monkeypatch.setattr("omatg_ray.distributed.crew.ray.put", lambda value: puts.append(value) or put(value))
    crew.sample([ITEM], version=0)  # the processes have started
    crew.timings()
    for version in range(1, 3):
        samples = crew.sample([ITEM, ITEM], version)
        crew.learn(samples.trajectories, torch.zeros(1), torch.zeros(1))
        timings = crew.timings()
    assert len(puts) == 2  # one for each new version
    total = sum(timings[f"time_{stage}"] for stage in ("rollout", "reward", "learn", "weights"))
    assert timings["time_rollout"] >= 0.2
    # The first item is judged while the second rolls out.
    assert timings["time_reward"] >= 0.45
    assert timings["time_learn"] >= 0.2
    for role, busy in (("rollout", 0.2), ("reward", 0.6), ("learner", 0.2)):
        assert timings[f"idle_{role}_0"] == pytest.approx(1 - busy / total, abs=0.1)
    for actor in started.values():
        ray.kill(actor)
