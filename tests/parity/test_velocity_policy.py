"""Velocity rollouts, PPO losses and gradients against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import displace
from omatg_ray.policy.drift import VelocityDrift
from omatg_ray.policy.noise import NoiseSettings
from omatg_ray.policy.policy import Policy, time_grid
from omatg_ray.rl.advantage import group_advantages
from omatg_ray.rl.learner import Learner, LearnerSettings
from omatg_ray.rl.objective import FieldWeights, ObjectiveSettings
from omatg_ray.rl.trajectory import Trajectory, rollout
from tests.parity.loading import crystals, peer_network

CASES = ["velocity_pos", "velocity_poscell"]
REDUCTIONS = {"none": "none", "per_structure_weight": "per_structure", "per_atom_surrogate": "per_atom"}


class Case:
    """One recorded rollout with its PPO update, and the policy that made it, rebuilt."""

    def __init__(self, shared, name: str) -> None:
        parity = shared / "parity"
        self.rollout = load_file(parity / f"rollout_{name}.safetensors")
        self.ppo = load_file(parity / f"ppo_{name}.safetensors")
        self.info = json.loads((parity / f"rollout_{name}.json").read_text())
        self.ppo_info = json.loads((parity / f"ppo_{name}.json").read_text())
        self.shared = shared
        self.delta = load_file(parity / self.info["policy_delta_file"])
        self.active = self.info["active_fields_in_order_of_noise_draws"]
        self.base = peer_network(shared)
        self.x_0 = crystals(self.rollout)
        self.noise = {field: self.rollout[f"noise/{field}"] for field in self.active}

    def network(self, factor: float):
        return peer_network(self.shared, self.delta, factor)

    def schedules(self, key: str) -> dict[str, NoiseSettings]:
        return {
            field: NoiseSettings(kind=schedule["type"], a=schedule.get("noise_scale", schedule.get("noise")))
            for field, schedule in self.info[key].items()
        }

    def policy(self, network) -> Policy:
        noise = self.schedules("noise_schedules")
        return Policy(VelocityDrift(network), VelocityDrift(self.base), self.active, noise)

    def sample(self) -> Trajectory:
        policy = self.policy(self.network(1.0))
        return rollout(policy, self.x_0, time_grid(self.info["number_of_times"]), self.noise, with_base=True)

    def learner(self, factor: float, reduction: str) -> Learner:
        costs = self.ppo_info["relative_costs_used"]
        objective = ObjectiveSettings(
            clip=self.ppo_info["ppo_clip_epsilon"],
            position_reduction=REDUCTIONS[reduction],
            policy_weight=FieldWeights(pos=costs["pos_policy"], cell=costs.get("cell_policy", 0)),
            kl_weight=FieldWeights(pos=costs["pos_regularization"], cell=costs.get("cell_regularization", 0)),
            reference_noise=self.schedules("reference_noise_schedules"),
        )
        network = self.network(factor)
        return Learner(network, self.policy(network), objective, LearnerSettings(epochs=1))


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
    same_positions(pos, case.rollout["states/pos"], 1e-4)
    torch.testing.assert_close(cell, case.rollout["states/cell"], atol=1e-4, rtol=0)
    for field in case.active:
        torch.testing.assert_close(
            trajectory.log_prob[field], case.rollout[f"old_log_probs/{field}"], atol=1e-4, rtol=1e-5
        )


def test_steps_from_stored_states(case):
    policy = case.policy(case.network(1.0))
    times = case.rollout["times"]
    for k, dt in enumerate(times.diff()):
        state = case.x_0.replace(case.rollout["states/pos"][k], case.rollout["states/cell"][k])
        with torch.no_grad():
            step = policy.step(state, times[k], dt, {f: v[k] for f, v in case.noise.items()}, with_base=True)
        after = displace(state, step.displacement)
        same_positions(after.pos, case.rollout["states/pos"][k + 1], 2e-5)
        torch.testing.assert_close(after.cell, case.rollout["states/cell"][k + 1], atol=2e-5, rtol=1e-6)
        for field in case.active:
            torch.testing.assert_close(
                step.base_rate[field], case.rollout[f"base_outputs/{field}_b"][k], atol=2e-5, rtol=1e-5
            )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("which", ["same_policy", "shifted_policy"])
def test_update(case, which, reduction):
    key = f"{which}/{reduction}"
    expected = case.ppo_info["cases"][key]
    learner = case.learner(expected["policy_delta_factor"], reduction)
    trajectory = case.sample()
    advantage = case.rollout["advantages"]
    gradients = {}

    def keep(*_):
        for name, parameter in learner.network.named_parameters():
            if parameter.grad is not None:
                gradients[f"model.encoder.{name}"] = parameter.grad.clone()

    original = torch.nn.utils.clip_grad_norm_
    with pytest.MonkeyPatch.context() as patch:

        def recording(parameters, norm):
            keep()
            return original(parameters, norm)

        patch.setattr(torch.nn.utils, "clip_grad_norm_", recording)
        stats = learner.update(trajectory, advantage)

    components = expected["components_mean_over_steps"]
    for field in case.active:
        policy_tolerance = 1e-6 if which == "same_policy" else 2e-5
        assert stats[f"policy_loss_{field}"] == pytest.approx(
            components[f"{field}_loss_policy"], rel=1e-4, abs=policy_tolerance
        )
        assert stats[f"kl_{field}"] == pytest.approx(components[f"{field}_loss_regularization"], rel=1e-4, abs=2e-5)
        assert stats[f"clip_fraction_{field}"] == pytest.approx(components[f"{field}_clip_fraction"], abs=1e-6)
    assert stats["loss"] == pytest.approx(expected["total_loss"], rel=1e-4, abs=2e-5)
    assert stats["grad_norm"] == pytest.approx(expected["gradient_global_norm"], rel=1e-3)
    assert len(gradients) == expected["parameters_with_gradient"]
    for name in expected["gradient_norm_of_watched"]:
        reference = case.ppo[f"{key}/grad/{name}"]
        assert (gradients[name] - reference).norm() < 1e-3 * reference.norm()


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
    weights = dict(learner.network.named_parameters())
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
