"""Evaluation and generation on actors give the numbers of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import TrainResult
from omatg_ray.distributed.actor_set import start_actors
from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.evaluate.backend import LocalEvaluationBackend
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.build import Scorers
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from tests.distributed.conftest import Command, Workshop
from tests.evaluate.sodium_chloride import OTHERS, POLYMORPHS, Prepared

BLOCKS = ("--block", 2)
"""Several blocks even of few crystals, so that they spread over actors."""
ACTORS = ("--ray", "rollout.workers=2,reward.workers=1")


@pytest.mark.usefixtures("cluster")
def test_evaluate(workshop: Workshop, trained: TrainResult, command: Command, tmp_path: Path) -> None:
    words = ["evaluate", trained.model, "--data", workshop.data, "--steps", 5, "--noise", "policy"]
    words += ["--threads", 1, *BLOCKS]
    alone = command(*words, "--json", tmp_path / "alone.json", "--out", tmp_path / "alone.extxyz")
    actors = command(*words, "--json", tmp_path / "ray.json", "--out", tmp_path / "ray.extxyz", *ACTORS)
    assert alone.code == actors.code == 0, actors.err
    assert "2 rollout, 1 reward actors" in actors.err
    assert alone.out == actors.out
    assert json.loads((tmp_path / "alone.json").read_text()) == json.loads((tmp_path / "ray.json").read_text())
    assert (tmp_path / "alone.extxyz").read_bytes() == (tmp_path / "ray.extxyz").read_bytes()


@pytest.mark.usefixtures("cluster")
def test_evaluate_by_ones_own_reward(workshop: Workshop, base: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "reward.yaml").write_text(
        f"reward: {{potential: {workshop.potential}, weights: {{energy: 1, volume: 2}}, volume: {{target: 20}}}}\n"
    )
    words = ["evaluate", base, "--data", workshop.data, "--steps", 4, "--reward", tmp_path / "reward.yaml"]
    words += ["--threads", 1, *BLOCKS]
    alone = command(*words, "--json", tmp_path / "alone.json")
    actors = command(*words, "--json", tmp_path / "ray.json", *ACTORS)
    assert alone.code == actors.code == 0, actors.err
    found = json.loads((tmp_path / "alone.json").read_text())
    assert found == json.loads((tmp_path / "ray.json").read_text())
    assert found["rewards"]["volume"]["n"] == found["n"]


@pytest.mark.usefixtures("cluster")
def test_evaluate_several_cases(
    workshop: Workshop, base: Path, trained: TrainResult, command: Command, tmp_path: Path
) -> None:
    """Actors go from one model to the next while blocks of both are on their way."""
    words = ["evaluate", base, trained.model, "--data", workshop.data, "--steps", "3,5", "--samples", 2]
    words += ["--threads", 1, *BLOCKS, "--to"]
    assert command(*words, tmp_path / "alone").code == command(*words, tmp_path / "ray", *ACTORS).code == 0
    found = []
    for name in ("alone", "ray"):
        cases = json.loads((tmp_path / name / "evaluation.json").read_text())["cases"]
        assert all(case.pop("generation_seconds") > 0 and case.pop("seconds") > 0 for case in cases)
        found.append([{key: value for key, value in case.items() if "seconds" not in key} for case in cases])
    assert len(found[0]) == 4 and found[0] == found[1]
    alone, actors = (sorted((tmp_path / name / "cases").glob("*.extxyz")) for name in ("alone", "ray"))
    assert [path.name for path in alone] == [path.name for path in actors]
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in actors]


@pytest.mark.usefixtures("cluster")
def test_evaluate_without_a_potential(workshop: Workshop, base: Path, command: Command, tmp_path: Path) -> None:
    words = ["evaluate", base, "--data", workshop.data, "--steps", 4, "--potential", "none", "--threads", 1, *BLOCKS]
    alone, actors = command(*words), command(*words, *ACTORS)
    assert alone.code == actors.code == 0, actors.err
    assert alone.out == actors.out


@pytest.mark.usefixtures("cluster")
def test_generate(workshop: Workshop, trained: TrainResult, command: Command, tmp_path: Path) -> None:
    words = ["generate", trained.model, "--formula", "NaCl", "MgO", "-n", 7, "--steps", 5, "--threads", 1, *BLOCKS]
    words += ["--potential", workshop.potential, "--out"]
    alone = command(*words, tmp_path / "alone.extxyz")
    actors = command(*words, tmp_path / "ray.extxyz", *ACTORS)
    assert alone.code == actors.code == 0, actors.err
    assert alone.out.replace("alone", "ray") == actors.out
    assert (tmp_path / "alone.extxyz").read_bytes() == (tmp_path / "ray.extxyz").read_bytes()


def test_actors_without_their_number(trained: TrainResult, command: Command) -> None:
    command("generate", trained.model, "--formula", "NaCl", "--ray", "rollout.gpus=1").refuses("rollout.workers")


def test_an_unknown_key(trained: TrainResult, command: Command) -> None:
    command("generate", trained.model, "--formula", "NaCl", "--ray", "rollouts.workers=1").refuses("ray.rollout")


def test_a_role_that_takes_no_part(trained: TrainResult, command: Command) -> None:
    words = ["generate", trained.model, "--formula", "NaCl", "--ray", "rollout.workers=1,learner.gpus=1"]
    command(*words).refuses("--ray learner.gpus=1")


@pytest.mark.usefixtures("cluster")
def test_evaluate_relaxed_crystals(workshop: Workshop, base: Path, command: Command, tmp_path: Path) -> None:
    words = ["evaluate", base, "--data", workshop.data, "--steps", 4, "--potential", workshop.potential, "--relax", 3]
    words += ["--threads", 1, *BLOCKS, "--to"]
    alone = command(*words, tmp_path / "alone")
    actors = command(*words, tmp_path / "ray", *ACTORS)
    assert alone.code == actors.code == 0, actors.err
    found = []
    for name in ("alone", "ray"):
        (case,) = json.loads((tmp_path / name / "evaluation.json").read_text())["cases"]
        assert case["relax"] == 3 and case["processor_seconds_per_sample"] > 0
        found.append({key: value for key, value in case.items() if "seconds" not in key})
        (path,) = (tmp_path / name / "cases").glob("*_relaxed.extxyz")
        found[-1]["crystals"] = path.read_bytes()
    assert found[0] == found[1]
    assert 0 < found[0]["metrics"]["relaxed_steps"] <= 3


def test_polymorphs(workshop: Workshop, base: Path, cluster: Cluster) -> None:
    settings = RaySettings.model_validate({"rollout": {"workers": 2}, "reward": {"workers": 2}})
    reward, model = MatGLEnergy(workshop.potential), cast(FlowModel, Prepared(OTHERS))
    with Matcher() as matcher:
        alone = Evaluator(POLYMORPHS, LocalEvaluationBackend(matcher, reward), seed=0, block=1)(model, Sampling(3))
    roles = {"rollout": (FlowModel.load(base),), "reward": (Scorers(None, reward), 10.0)}
    with start_actors(settings, roles, progress=False) as started:
        actors = Evaluator(POLYMORPHS, RayEvaluationBackend(started, reward), seed=0, block=1)(model, Sampling(3))
    assert actors.as_dict() == alone.as_dict()
    assert actors.polymorph == ["row 1", "row 0", "row 3", None, None]
    assert actors.lowest_polymorph is not None and actors.lowest_polymorph[-1] is None
    right = [found == lowest for found, lowest in zip(actors.polymorph[:3], actors.lowest_polymorph, strict=False)]
    assert (actors.metrics.match_rate, actors.metrics.match_any, actors.metrics.n_polymorphic) == (0.0, 0.75, 4)
    assert actors.metrics.match_lowest == sum(right) / 4
