"""A run that learns from reward gradients with a policy that acts late, from its dry run to its next steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.cli.next_steps import next_steps
from omatg_ray.commands.info import describe_model
from omatg_ray.commands.train import TrainResult, train
from omatg_ray.crystal.formula import cell_species
from omatg_ray.model.checks import warn_ineffective
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.build import build_run
from omatg_ray.train.estimate import describe, estimate
from tests.commands.conftest import Workshop

GATE = 0.5
KEYS = (
    "policy={active: [pos, cell], acts_from: 0.5, noise: {pos: {kind: sqrt, a: 0.1}, cell: {kind: constant, a: 0.2}}}",
    "objective.reward_gradient={transitions: 2}",
    "objective.flow_matching={crystals: 5}",
    "rollout={groups: 6, group_size: 1, steps: 5, groups_per_item: 4}",
)


@pytest.fixture(scope="module")
def run(workshop: Workshop, base: Path) -> TrainResult:
    return train(workshop.load(f"run={workshop.root / 'by_gradient'}", f"base={base}", *KEYS), progress=False)


def test_a_dry_run_says_what_is_learned_from_and_what_it_costs(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}", *KEYS)
    parts = build_run(config)
    text = describe(config, parts)
    assert "6 groups x 1 trajectories x 4 steps, learning from the reward's gradient through the last 2" in text
    assert "through the last 2, and matching the flow of 5 training crystals (policy and base network)" in text
    assert "network), 2 epochs" in text and "PPO" not in text
    assert "pos, cell from t = 0.5 on" in text and "for the test (2 x 3 crystals)" in text
    seconds, memory = estimate(config, parts)
    assert all(value > 0 for value in seconds.values()) and memory["activations"] > 0
    replay = workshop.load(*KEYS, f"base={base}", "objective.replay={crystals: 7, relax: 1}")
    text = describe(replay, build_run(replay))
    assert (
        "5 training crystals, and matching the flow of 7 of the best crystals known and found, relaxed in 1 step"
        in text
    )
    both = workshop.load(*KEYS, f"base={base}", "rollout.group_size=2", "reward.weights={energy: 1, non_triclinic: 1}")
    text = describe(both, build_run(both))
    assert "x 2 trajectories" in text and "2 PPO epochs" in text and "(3 x 3 crystals)" in text


def test_it_learns_and_is_tested_without_noise(run: TrainResult, workshop: Workshop, base: Path) -> None:
    lines = read_metrics(workshop.root / "by_gradient" / "metrics.jsonl")
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert len(train_lines) == 4 and all(line["gradient_size"] > 0 for line in train_lines)
    assert all(line["matching_pos"] > 0 and line["matching_cell"] > 0 for line in train_lines)
    assert not any(name.startswith(("policy_loss", "kl", "clip", "log_ratio_max")) and line[name]
                   for line in train_lines for name in line)  # fmt: skip
    assert {row["noise"] for row in run.rows} == {"none"}
    folder = workshop.root / "by_gradient" / "checkpoints"
    first, last = (load_file(folder / name / "weights.safetensors") for name in ("iteration_000000", "last"))
    moved = {name for name in last if not torch.equal(first[name], last[name])}
    assert moved and all(name.startswith("policy.") for name in moved)
    config = workshop.load(f"run={workshop.root / 'by_gradient'}", f"base={base}", *KEYS)
    said = next_steps(config, run.rows, run.example, improved=False)
    assert "rollout.groups=12" in said and "group_size" not in said


def test_the_model_is_the_base_until_it_acts(run: TrainResult, workshop: Workshop, base: Path) -> None:
    """With two grid points the only step begins at 0, before it acts; with five, it acts in the last two."""
    assert re.search(
        r"active +pos, cell \(velocity policy\) from t = 0.5 on, before it as the base", describe_model(str(run.model))
    )
    last = FlowModel.load(workshop.root / "by_gradient" / "checkpoints" / "last")
    started, cells = FlowModel.load(base), [cell_species(formula) for formula in ("NaCl", "MgO2")]
    with pytest.warns(UserWarning, match="with 2 grid points the last step begins at t = 0.00, before .* acts .0.5."):
        warn_ineffective(last, [Sampling(2), Sampling(5)])
    same, other = ([model.generate(cells, Sampling(steps), 1) for model in (last, started)] for steps in (2, 5))
    assert torch.equal(same[0].pos, same[1].pos) and torch.equal(same[0].cell, same[1].cell)
    assert not torch.equal(other[0].pos, other[1].pos)


def test_another_run_keeps_its_time(run: TrainResult, workshop: Workshop) -> None:
    words = [word.replace("acts_from: 0.5, ", "") for word in KEYS]
    again = build_run(workshop.load(f"base={workshop.root / 'by_gradient'}", *words))
    assert again.model.description.acts_from == 0.5


def test_a_stopped_run_goes_on_exactly(run: TrainResult, workshop: Workshop, base: Path, tmp_path: Path) -> None:
    words = [f"run={tmp_path / 'run'}", f"base={base}", *KEYS]
    train(workshop.load(*words, "iterations=1"), progress=False)
    train(workshop.load(*words), resume=True, progress=False)
    ours, theirs = (
        load_file(folder / "checkpoints" / "last" / "weights.safetensors")
        for folder in (tmp_path / "run", workshop.root / "by_gradient")
    )
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
