from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from omatg_ray.commands.train import TrainResult, train
from omatg_ray.config import Config
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.model.variant import copy_of_base
from omatg_ray.model.variants.velocity import VelocityVariant
from omatg_ray.policy.settings import LearnedScheduleSettings
from omatg_ray.run.folder import RunFolder
from omatg_ray.train.build import build_run
from omatg_ray.train.precision import resolve_precision
from tests.commands.conftest import Workshop


def test_overlaps_are_always_repelled(workshop: Workshop, base: Path) -> None:
    energy = build_run(workshop.load(f"base={base}")).scorers.energy
    assert energy is not None and energy.repulsion
    with pytest.raises(ConfigError, match=r"unknown key reward\.repulsion"):
        workshop.load("reward.repulsion=false")


def test_what_a_model_says_of_its_base_and_potential(
    workshop: Workshop, base: Path, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word where it was given, the whole path of a folder, also of one of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").symlink_to((base / "checkpoints" / "best").resolve())
    (tmp_path / "pot").symlink_to(workshop.potential)
    data = [f"data.{name}={base / 'data' / name}.extxyz" for name in ("train", "val", "test")]
    for keys, expected in (
        (["base=./bundled", "reward.potential=pot"], (tmp_path / "bundled", tmp_path / "pot")),
        (["base=bundled", "reward.potential=bundled"], ("bundled", "bundled")),
    ):
        parts = build_run(workshop.load("data.file=null", *data, *keys))
        said = parts.model.description
        assert (said.provenance["base"], said.potential) == tuple(map(str, expected))
        assert parts.scorers.energy is not None and parts.scorers.energy.potential.name == said.potential


CONSTANT = "{kind: constant, a: 0.1}"


def test_an_annealing_policy_learns_a_schedule_over_a_frozen_base(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "policy.variant=annealing", "policy.active=[pos, cell]"]
    noise = f"policy.noise={{pos: {CONSTANT}, cell: {CONSTANT}}}"
    parts = build_run(
        workshop.load(*keys, noise, "policy.learned_schedule.hidden=8", "policy.learned_schedule.shared=false")
    )
    assert set(parts.model.learned) == {"schedule"}
    schedule = parts.model.description.schedule
    assert isinstance(schedule, LearnedScheduleSettings)
    assert (schedule.hidden, schedule.shared, schedule.fields) == (8, False, ["pos", "cell"])
    policy = parts.model.policy()
    assert len(policy.trainable_parameters()) == len(list(parts.model.learned.parameters()))
    assert not any(p.requires_grad for p in parts.model.base_network.parameters())


def test_a_module_that_nothing_trains_is_refused(
    workshop: Workshop, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learns = {"policy": copy_of_base, "strength": lambda description: nn.Linear(1, 1)}
    monkeypatch.setattr(VelocityVariant, "learns", learns)
    with pytest.raises(ModelError, match="^policy variant velocity: strength is in `learns`"):
        build_run(workshop.load(f"base={base}"))


def test_a_precision_that_shifts_actions_too_far_is_refused(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "rollout.precision=bfloat16"]
    build_run(workshop.load(*keys))
    with pytest.raises(
        ConfigError, match=r"^rollout\.precision: bfloat16 shifts actions of pos by .*precision=float32"
    ):
        build_run(workshop.load(*keys, "policy.noise.pos.a=1e-6"))
    build_run(workshop.load(f"base={base}", "policy.noise.pos.a=1e-6"))


@pytest.mark.parametrize(
    ("has_it", "scale", "expected", "why"),
    [
        (True, 0.1, "bfloat16", ""),
        (False, 0.1, "float32", "not supported by this machine"),
        (True, 1e-6, "float32", "shifts actions of pos by"),
    ],
)
def test_a_precision_that_is_left_open_is_decided_by_machine_and_noise(
    workshop: Workshop,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_it: bool,
    scale: float,
    expected: str,
    why: str,
) -> None:
    monkeypatch.setattr("omatg_ray.train.precision.has_bfloat16", lambda device: has_it)
    config = workshop.load(f"base={base}", "rollout.precision=auto", f"policy.noise.pos.a={scale}")
    parts = build_run(config)
    found = resolve_precision(config, parts, progress=True)
    assert found.rollout.precision == parts.model.description.provenance["precision"] == expected
    assert found == config.model_copy(update={"rollout": found.rollout})
    said = capsys.readouterr().err
    assert f"rollout.precision: {expected}" in said and why in said


def test_a_precision_is_kept_by_a_run_that_goes_on_elsewhere(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by the file that it began with, as a job does that is tried again on another node."""
    run = tmp_path / "run"
    keys = [f"run={run}", f"base={base}", "rollout.precision=auto"]
    for has_it, iterations in ((True, 1), (False, 2)):
        monkeypatch.setattr("omatg_ray.train.precision.has_bfloat16", lambda device, has_it=has_it: has_it)
        train(workshop.load(*keys, f"iterations={iterations}"), resume=iterations > 1, progress=False)
        assert Config.load(run / "config.yaml").rollout.precision == "bfloat16"
    # Other noise, as in a sweep whose trial takes over another's state, is another policy.
    other = workshop.load(*keys, "policy.noise.pos.a=0.3")
    assert resolve_precision(other, build_run(other), RunFolder(run)).rollout.precision == "float32"


def test_the_precision_of_gpus_elsewhere_is_not_guessed(
    workshop: Workshop, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("omatg_ray.train.precision.has_bfloat16", lambda device: True)
    keys = [f"base={base}", "rollout.precision=auto", "ray.rollout.workers=1"]
    for more, expected in ((), "bfloat16"), (("ray.rollout.gpus=1",), "float32"), (("ray.learner.gpus=1",), "float32"):
        config = workshop.load(*keys, *more)
        assert resolve_precision(config, build_run(config), progress=True).rollout.precision == expected
        assert ("named explicitly if actors have GPUs" in capsys.readouterr().err) == bool(more)


def test_schedules_depend_on_the_seed_alone(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "policy.variant=annealing", f"policy.noise.pos={CONSTANT}"]
    first, same, other = (
        next(build_run(workshop.load(*keys, f"seed={seed}")).model.learned.parameters()) for seed in (3, 3, 4)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "keys, words",
    [
        (["policy.variant=score"], ["pretrain.paths.pos.gamma", "denoiser"]),
        (["objective.reference_noise.cell={kind: constant, a: 1}"], ["objective.reference_noise.cell", "frozen"]),
        (
            ["objective.reference_noise.pos={kind: learned, a: 1}"],
            ["objective.reference_noise.pos", "constant or sqrt"],
        ),
        (["policy.learned_schedule.hidden=8"], ["schedule", "variant=annealing"]),
        (["policy.variant=annealing", "policy.fixed_schedule.pos=2"], ["learns its own schedule"]),
        (["policy.fixed_schedule.pos=2", "policy.schedule_from=runs/x"], ["schedule_from", "not both"]),
        (["objective.entropy_weight.pos=0.1"], ["objective.entropy_weight.pos", "kind=learned"]),
        (["objective.distillation_weight.pos=0.1"], ["objective.distillation_weight.pos", "variant=score"]),
        (["policy.variant=annealing", "policy.acts_from=0.5"], ["policy", "acts_from", "from the start"]),
        (["policy.acts_from=0.5", "rollout.learn_from=1"], ["rollout.learn_from", "policy.acts_from", "null"]),
        (["policy.acts_from=0.95"], ["policy.acts_from = 0.95", "never act", "rollout.steps"]),
        (["policy.variant=skore"], ["policy.variant", "'score'"]),
    ],
)
def test_variants_that_cannot_be(workshop: Workshop, base: Path, keys: list[str], words: list[str]) -> None:
    with pytest.raises((ConfigError, ModelError)) as caught:
        build_run(workshop.load(f"base={base}", *keys))
    assert all(word in str(caught.value) for word in words), caught.value


def test_the_schedule_to_anneal_with_must_be_one(workshop: Workshop, base: Path) -> None:
    with pytest.raises(ConfigError, match="policy.schedule_from.*learned no schedule"):
        build_run(workshop.load(f"base={base}", f"policy.schedule_from={base}"))


def test_a_reinforced_model_goes_on_acting_from_the_same_time(workshop: Workshop, trained: TrainResult) -> None:
    with pytest.raises(ConfigError, match="policy.acts_from.*reinforced to act from 0 on"):
        build_run(workshop.load(f"base={trained.model.parent.parent}", "policy.acts_from=0.3"))


def test_keys_of_policy_gradients_are_named_where_there_are_none(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "objective.reward_gradient={transitions: 1}"]
    with pytest.warns(UserWarning, match="rollout.shared_start, objective.clip: without effect"):
        build_run(workshop.load(*keys, "rollout.shared_start=true", "objective.clip=0.1"))


def test_fewer_steps_than_asked_for_are_differentiated_with_a_warning(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "objective.reward_gradient={transitions: 3}", "policy.acts_from=0.6"]
    with pytest.warns(UserWarning, match="transitions = 3: of 3 steps the policy acts in the last 1"):
        build_run(workshop.load(*keys))


def test_another_variant_does_not_go_on_from_a_reinforced_model(workshop: Workshop, trained: TrainResult) -> None:
    active = trained.model.parent.parent
    with pytest.raises(ConfigError, match="policy.variant.*velocity policy"):
        build_run(workshop.load(f"base={active}", "policy.variant=annealing"))
