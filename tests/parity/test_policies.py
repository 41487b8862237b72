"""Rollouts of all variants, PPO losses and gradients against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import displace
from omatg_ray.policy.drift import Annealed, Scale, Score, Velocity
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.noise import LearnedNoise
from omatg_ray.policy.policy import Policy
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from omatg_ray.rl.advantage import group_advantages
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import FieldWeights, LearnerSettings, ObjectiveSettings
from tests.parity.loading import crystals, peer_network

CASES = [
    "velocity_pos", "velocity_poscell", "velocity_mlp_noise", "scaled_velocity", "scaled_velocity_pos",
    "score_pos", "score_poscell", "scale", "scale_mlp_noise_pos",
]  # fmt: skip
REDUCTIONS = {"none": "none", "per_structure_weight": "per_structure", "per_atom_surrogate": "per_atom"}
SCALED, SCORE = ("scaled_velocity", "scaled_velocity_pos"), ("score_pos", "score_poscell")
# The first step of a sqrt schedule multiplies the denoiser by 200 to 300.
FIRST_STEP = {"score_pos": 1e-3}


class Case:
    """One recorded rollout with its PPO update, and the policy that made it, rebuilt."""

    def __init__(self, shared, name: str) -> None:
        parity = shared / "parity"
        self.name = name
        self.rollout = load_file(parity / f"rollout_{name}.safetensors")
        self.ppo = load_file(parity / f"ppo_{name}.safetensors")
        self.info = json.loads((parity / f"rollout_{name}.json").read_text())
        self.ppo_info = json.loads((parity / f"ppo_{name}.json").read_text())
        self.shared = shared
        file = self.info["policy_delta_file"]
        self.delta = load_file(parity / file) if file else {}
        self.active = self.info["active_fields_in_order_of_noise_draws"]
        self.base = peer_network(shared)
        self.x_0 = crystals(self.rollout)
        self.noise = {field: self.rollout[f"noise/{field}"] for field in self.active}

    @property
    def per_structure(self) -> bool:
        return self.info["class"] == "OMGIRLScale"

    @property
    def tolerance(self) -> float:
        return FIRST_STEP.get(self.name, 2e-5)

    def schedules(self, key: str) -> dict[str, NoiseSettings]:
        found = {}
        for field, schedule in self.info[key].items():
            if schedule["type"] == "mlp":
                found[field] = NoiseSettings(
                    kind="learned",
                    a=schedule["initial_noise_scale"],
                    hidden=schedule["hidden_dimension"],
                    layers=schedule["number_hidden_layers"],
                )
            else:
                found[field] = NoiseSettings(
                    kind=schedule["type"], a=schedule.get("noise_scale", schedule.get("noise"))
                )
        return found

    def small_weights(self, when: str) -> dict[str, torch.Tensor]:
        """Weights of the schedules, by the peer's names; those that were not shifted are those of the rollout."""
        weights = {}
        for arrays, prefix in ((self.rollout, "parameters_at_rollout/"), (self.ppo, f"parameters_{when}/")):
            weights |= {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        return weights

    def policy(self, factor: float | None, when: str = "at_rollout") -> Policy:
        network = peer_network(self.shared, self.delta, factor) if self.delta else self.base
        weights = self.small_weights(when)
        noise = {}
        for field, settings in self.schedules("noise_schedules").items():
            noise[field] = settings
            if settings.kind == "learned":
                noise[field] = LearnedNoise(settings)
                prefix = f"noise_schedule_modules.{field}._mlp."
                noise[field].mlp.load_state_dict(part(weights, prefix))
        schedule = self.schedule(weights) if self.info["scale_mlp"] else None
        if self.per_structure:
            return Policy(Scale(schedule), self.base, self.base, self.active, noise)
        drift = Velocity() if schedule is None else Annealed(Velocity(), schedule)
        if self.name in SCORE:
            a = {field: self.info["interpolants"][field]["gamma_a"] for field in self.active}
            drift = Score(noise, {field: lambda t, a=a[field]: (a * t * (1 - t)).sqrt() for field in self.active})
        return Policy(drift, network, self.base, self.active, noise, schedule)

    def schedule(self, weights: dict[str, torch.Tensor]) -> LearnedSchedule:
        size = self.info["scale_mlp"]
        schedule = LearnedSchedule(
            LearnedScheduleSettings(
                hidden=size["hidden_dimension"],
                layers=size["number_hidden_layers"],
                shared=size["shared_trunk"],
                fields=["pos", "cell"],
            )
        )
        if size["shared_trunk"]:
            schedule.trunk.load_state_dict(part(weights, "scale_model._trunk."))
        kind = "head" if size["shared_trunk"] else "mlp"
        for field, head in schedule.heads.items():
            head.load_state_dict(part(weights, f"scale_model._{field}_{kind}."))
        return schedule

    def sample(self) -> Trajectory:
        times = time_grid(self.info["number_of_times"])
        return rollout(self.policy(1.0), self.x_0, times, self.noise, with_base=not self.per_structure)

    def learner(self, factor: float | None, reduction: str | None, when: str = "at_rollout") -> Learner:
        costs = self.ppo_info["relative_costs_used"]

        def weights(kind: str) -> FieldWeights:
            return FieldWeights(pos=costs.get(f"pos_{kind}", 0), cell=costs.get(f"cell_{kind}", 0))

        objective = ObjectiveSettings(
            clip=self.ppo_info["ppo_clip_epsilon"],
            position_reduction=REDUCTIONS[reduction or "none"],
            policy_weight=weights("policy"),
            kl_weight=weights("regularization"),
            entropy_weight=weights("entropy"),
            distillation_weight=weights("distillation"),
            reference_noise=self.schedules("reference_noise_schedules"),
        )
        return Learner(self.policy(factor, when), objective, LearnerSettings(epochs=1))

    def named(self, policy: Policy) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by the peer's names."""
        named = {}
        if policy.heads:
            named |= {f"model.encoder.{name}": p for name, p in policy.network.named_parameters() if p.requires_grad}
        for field, noise in policy.noise.items():
            if isinstance(noise, LearnedNoise):
                prefix = f"noise_schedule_modules.{field}._mlp."
                named |= {prefix + name: p for name, p in noise.mlp.named_parameters()}
        if self.per_structure:
            schedule = policy.drift.schedule
            if schedule.settings.shared:
                named |= {f"scale_model._trunk.{name}": p for name, p in schedule.trunk.named_parameters()}
            kind = "head" if schedule.settings.shared else "mlp"
            for field, head in schedule.heads.items():
                named |= {f"scale_model._{field}_{kind}.{name}": p for name, p in head.named_parameters()}
        return named


def part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


@pytest.fixture(params=CASES)
def case(request, shared) -> Case:
    return Case(shared, request.param)


def same_positions(actual, expected, tolerance):
    difference = (actual - expected + 0.5) % 1.0 - 0.5
    assert difference.abs().max() < tolerance


def test_time_grid(case):
    assert torch.equal(time_grid(case.info["number_of_times"]), case.rollout["times"])


def test_rollout_free_running(case):
    trajectory = case.sample()
    pos, cell = trajectory.states()
    tolerance = max(1e-4, case.tolerance)
    same_positions(pos, case.rollout["states/pos"], tolerance)
    torch.testing.assert_close(cell, case.rollout["states/cell"], atol=tolerance, rtol=0)
    for field in case.active:
        torch.testing.assert_close(
            trajectory.log_prob[field], case.rollout[f"old_log_probs/{field}"], atol=1e-4, rtol=1e-5
        )


def test_schedules(case):
    policy, times = case.policy(1.0), case.rollout["times"][:-1]
    reference = case.schedules("reference_noise_schedules")
    for field in case.active:
        torch.testing.assert_close(policy.noise[field].sigma(times).detach(), case.rollout[f"sigma/{field}"])
        if f"sigma_ref/{field}" in case.rollout:
            torch.testing.assert_close(reference[field].sigma(times), case.rollout[f"sigma_ref/{field}"])
        if f"gamma/{field}" in case.rollout:
            torch.testing.assert_close(policy.drift.gamma[field](times), case.rollout[f"gamma/{field}"])
    if case.info["scale_mlp"]:
        schedule = policy.drift.schedule
        for field in ("pos", "cell"):
            s = schedule.factor(field, times).detach() - 1
            torch.testing.assert_close(s, case.rollout[f"scale/{field}"], atol=1e-6, rtol=1e-5)


def test_steps_from_stored_states(case):
    policy = case.policy(1.0)
    times = case.rollout["times"]
    for k, dt in enumerate(times.diff()):
        state = case.x_0.replace(case.rollout["states/pos"][k], case.rollout["states/cell"][k])
        noise = {f: v[k] for f, v in case.noise.items()}
        with torch.no_grad():
            step = policy.step(state, times[k], dt, noise, with_base=not case.per_structure)
        after = displace(state, step.displacement)
        tolerance = case.tolerance if k == 0 else 2e-5
        same_positions(after.pos, case.rollout["states/pos"][k + 1], tolerance)
        torch.testing.assert_close(after.cell, case.rollout["states/cell"][k + 1], atol=tolerance, rtol=1e-6)
        for name, output in step.base_outputs.items():
            field = "pos" if name.startswith("pos") else "cell"
            factor = policy.drift.schedule.factor(field, times[k]).detach() if case.name in SCALED else 1.0
            recorded = case.rollout[f"base_outputs/{name}"][k]
            torch.testing.assert_close(factor * output, recorded, atol=2e-5, rtol=1e-5)
        if case.per_structure:
            for field in case.active:
                # The peer's action leaves out the 1 of 1 + s.
                action = case.rollout[f"sampled_actions/{field}"][k]
                torch.testing.assert_close(step.action[field], action + dt, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("which", ["same_policy", "shifted_policy"])
def test_update(case, which, reduction):
    key = f"{which}/{reduction}"
    if case.per_structure:
        # One number for each structure: there is nothing to reduce.
        key = which
    expected = case.ppo_info["cases"][key]
    learner = case.learner(expected["policy_delta_factor"], reduction, which)
    trajectory = case.sample()
    advantage = case.rollout["advantages"]
    parameters = case.named(learner.policy)
    assert len(parameters) == len(learner.parameters)
    gradients = {}
    original = torch.nn.utils.clip_grad_norm_
    with pytest.MonkeyPatch.context() as patch:

        def recording(among, norm):
            gradients.update({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})
            return original(among, norm)

        patch.setattr(torch.nn.utils, "clip_grad_norm_", recording)
        stats = learner.update(trajectory, advantage)

    components = expected["components_mean_over_steps"]
    # Ten times for the first step of score policies, as the README of the files says.
    wide = 10.0 if case.name in SCORE else 1.0
    for field in case.active:
        policy_tolerance = 1e-6 if which == "same_policy" else 2e-5
        assert stats[f"policy_loss_{field}"] == pytest.approx(
            components[f"{field}_loss_policy"], rel=wide * 1e-4, abs=wide * policy_tolerance
        )
        assert stats[f"kl_{field}"] == pytest.approx(
            components[f"{field}_loss_regularization"], rel=wide * 1e-4, abs=wide * 2e-5
        )
        assert stats[f"clip_fraction_{field}"] == pytest.approx(components[f"{field}_clip_fraction"], abs=1e-6)
        if f"{field}_loss_distillation" in components:
            distillation = components[f"{field}_loss_distillation"]
            assert stats[f"distillation_{field}"] == pytest.approx(distillation, rel=1e-4, abs=2e-5)
    assert stats["loss"] == pytest.approx(expected["total_loss"], rel=wide * 1e-4, abs=wide * 2e-5)
    assert stats["grad_norm"] == pytest.approx(expected["gradient_global_norm"], rel=wide * 1e-3)
    assert sum(bool(gradient.any()) for gradient in gradients.values()) == expected["parameters_with_gradient"]
    for name in expected["gradient_norm_of_watched"]:
        reference = case.ppo[f"{key}/grad/{name}"]
        assert (gradients[name] - reference).norm() < wide * 1e-3 * reference.norm()


def test_four_epochs(shared):
    case = Case(shared, "velocity_pos")
    recorded = case.ppo_info["several_epochs"]
    learner = case.learner(1.0, recorded["position_normalization"])
    for group in learner.optimizer.param_groups:
        group["lr"] = recorded["lr"]
    trajectory = case.sample()
    for epoch in recorded["epochs"]:
        stats = learner.update(trajectory, case.rollout["advantages"])
        assert stats["loss"] == pytest.approx(epoch["total_loss"], rel=1e-3, abs=2e-5)
        assert stats["grad_norm"] == pytest.approx(epoch["gradient_norm_before_clipping"], rel=5e-3)
    weights = dict(learner.policy.network.named_parameters())
    for key, value in case.ppo.items():
        if key.startswith("after_4_epochs/"):
            name = key.removeprefix("after_4_epochs/model.encoder.")
            torch.testing.assert_close(weights[name].detach(), value, atol=2 * recorded["lr"], rtol=0)


def test_advantages(shared):
    recorded = json.loads((shared / "parity" / "ppo_advantages.json").read_text())
    for entry in recorded["cases"]:
        rewards = torch.tensor(entry["rewards"], dtype=torch.float64).view(-1, entry["grpo_group_size"])
        expected = torch.tensor(entry["advantages"], dtype=torch.float64).view_as(rewards)
        torch.testing.assert_close(group_advantages(rewards).values, expected, atol=2e-5, rtol=2e-5)


def test_batch_layout(shared):
    arrays = load_file(shared / "parity" / "rollout_velocity_pos.safetensors")
    batch: CrystalBatch = crystals(arrays)
    assert torch.equal(batch.batch, arrays["batch"])
