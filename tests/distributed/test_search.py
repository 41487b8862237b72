"""A search on actors finds what one process finds, whoever is killed."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from omatg_ray.distributed.actor_set import start_actors
from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.evaluate.backend import local_backend
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.build import Scorers
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.search.loop import SearchLoop, Work
from omatg_ray.search.sampler import Learning, LearningSampler
from tests.distributed.conftest import Command, Workshop

FORMULAS = {"NaCl": [[11, 17], [11, 11, 17, 17]], "MgO": [[12, 8]], "KBr": [[19, 35]]}
WORK = Work(Sampling(4), relax=2, batch=4, block=2)


def loop(base: Path, energy: MatGLEnergy | None = None) -> SearchLoop:
    sampler = LearningSampler(FlowModel.load(base), 3, Learning(updates=2, crystals=4))
    return SearchLoop(FORMULAS, sampler, WORK, energy)


def state(one: SearchLoop) -> dict[str, torch.Tensor]:
    return {**one.archive.state_dict(), **one.sampler.state_dict()}


@pytest.mark.usefixtures("cluster")
def test_search(workshop: Workshop, base: Path, command: Command, tmp_path: Path) -> None:
    words = ["search", base, "--formula", "NaCl", "MgO", "KBr", "--z", "1,2", "--potential", workshop.potential]
    words += [
        "--steps",
        4,
        "--relax",
        2,
        "--batch",
        4,
        "--block",
        2,
        "--evaluations",
        400,
        "--threads",
        1,
        "--workers",
        0,
    ]
    alone = command(*words, "--to", tmp_path / "alone")
    actors = command(*words, "--to", tmp_path / "ray", "--ray", "rollout.workers=1,reward.workers=2")
    assert alone.code == actors.code == 0, actors.err
    assert "1 rollout, 2 reward actors" in actors.err
    assert alone.out.replace("alone", "ray") == actors.out
    assert (tmp_path / "alone" / "found.extxyz").read_bytes() == (tmp_path / "ray" / "found.extxyz").read_bytes()
    first, second = (load_file(tmp_path / name / "state" / "state.safetensors") for name in ("alone", "ray"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    with (tmp_path / "ray" / "rounds.csv").open() as file:
        assert {row["formula"] for row in csv.DictReader(file)} == {"NaCl", "MgO", "KBr"}


@pytest.mark.parametrize("role", ["rollout", "reward"])
def test_a_killed_actor_changes_nothing(workshop: Workshop, base: Path, cluster: Cluster, role: str) -> None:
    energy = MatGLEnergy(workshop.potential)
    alone, one = loop(base), loop(base)
    with local_backend(0, 10.0, energy) as backend:
        rounds = alone.run(backend.evaluate)
        for _ in range(5):
            next(rounds)
    settings = RaySettings.model_validate({"rollout": {"workers": 2}, "reward": {"workers": 2}})
    roles = {"rollout": (FlowModel.load(base),), "reward": (Scorers(None, energy), 10.0)}
    with start_actors(settings, roles, progress=False) as started:
        rounds = one.run(RayEvaluationBackend(started, energy))
        for number in range(5):
            next(rounds)
            if number == 1:
                killed = next(actor["pid"] for actor in started.info if actor["role"] == role)
                os.kill(killed, signal.SIGKILL)
        assert started.pools[role].take_failures()[f"replaced_{role}"] == 1
    first, second = state(alone), state(one)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert one.courses["NaCl"].history[-1][:2] == alone.courses["NaCl"].history[-1][:2]
