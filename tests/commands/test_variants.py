"""Every kind of policy, from pretraining to a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omatg_ray.commands.pretrain import pretrain
from omatg_ray.commands.train import TrainResult, train
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import learned_schedule
from omatg_ray.policy.schedule import LearnedSchedule, describe
from omatg_ray.run.metrics import read_metrics
from omatg_ray.seeding import seed_of
from tests.commands.conftest import Workshop
from tests.commands.test_train import assert_same_end

CONSTANT = "{kind: constant, a: 0.3}"
BOTH = ["policy.active=[pos, cell]", f"policy.noise={{pos: {CONSTANT}, cell: {CONSTANT}}}"]
LEARNED = "policy.noise.pos={kind: learned, a: 0.3, hidden: 8, layers: 1}"
GAMMA = "{kind: linear, gamma: {kind: sqrt, a: 0.05}}"


@pytest.fixture(scope="module")
def gamma_base(workshop: Workshop) -> Path:
    """A base with denoisers."""
    run = workshop.root / "gamma_base"
    paths = [f"pretrain.paths.{field}={GAMMA}" for field in ("pos", "cell")]
    pretrain(workshop.load(f"run={run}", *paths), progress=False)
    return run


@pytest.fixture(scope="module")
def schedule(workshop: Workshop, base: Path) -> TrainResult:
    """A run that learned a schedule."""
    keys = [f"run={workshop.root / 'annealing'}", f"base={base}", "policy.variant=annealing", "learner.lr=1e-2", *BOTH]
    return train(workshop.load(*keys), progress=False)


def weights(model: FlowModel) -> dict[str, torch.Tensor]:
    return dict(model.learned.state_dict())


def goes_on_bit_by_bit(workshop: Workshop, run: Path, *keys: str) -> FlowModel:
    """Trains in one go and in two, compares, and gives what was learned."""
    other = run.with_name(f"{run.name}_in_two")
    train(workshop.load(f"run={run}", *keys), progress=False)
    train(workshop.load(f"run={other}", *keys, "iterations=2"), progress=False)
    train(workshop.load(f"run={other}", *keys), resume=True, progress=False)
    assert_same_end(run, other)
    return FlowModel.load(run / "checkpoints" / "last")


def test_annealing_learns_its_schedule_and_nothing_else(schedule: TrainResult, base: Path) -> None:
    model, start = FlowModel.load(schedule.model.parent / "last"), FlowModel.load(base)
    assert all(
        torch.equal(value, start.base_network.state_dict()[name])
        for name, value in model.base_network.state_dict().items()
    )
    assert set(model.learned) == {"schedule"}
    t = torch.linspace(0.1, 0.9, 5)
    assert model.schedule is not None
    assert float((model.schedule.factor("pos", t) - 1).detach().abs().max()) > 1e-4
    # One step: what the base adds, times 1 + s at its start.
    x_0 = model.description.base_distribution.sample([[11, 17]], [seed_of(0, "structure", 0)])
    plain, annealed = (one.generate([[11, 17]], Sampling(2)).cell - x_0.cell for one in (start, model))
    torch.testing.assert_close(annealed, model.schedule.factor("cell", torch.tensor(0.001)).detach() * plain)


def test_what_was_learned_is_a_schedule_of_its_own(schedule: TrainResult) -> None:
    run = Path(schedule.model).parents[1]
    kept, model = learned_schedule(run), FlowModel.load(schedule.model)
    assert isinstance(model.schedule, LearnedSchedule)
    assert describe(kept) == describe(model.schedule)
    assert "The learned schedule" in (run / "report.html").read_text()


CONDITIONED = ["policy.learned_schedule.features=[atoms, electronegativity, steps]", "rollout.steps=[4, 3]"]


def test_conditioned_schedules_and_taking_turns_go_on_bit_by_bit(
    workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    keys = [f"base={base}", "policy.variant=annealing", *BOTH, *CONDITIONED]
    model = goes_on_bit_by_bit(workshop, tmp_path / "run", *keys)
    assert isinstance(model.schedule, LearnedSchedule)
    with pytest.warns(UserWarning, match="none has 8 atoms"):
        small, large = (CrystalBatch.from_structures([s]) for s in model.sample(["NaCl", "Na4Cl4"], steps=3))
    t, dt = torch.tensor(0.5), torch.tensor(0.1)
    factors = [float(model.schedule.factor("pos", t, one, dt).detach()) for one in (small, large)]
    assert factors[0] != factors[1]
    # On-policy, so the densities that the learner computes are those that were recorded.
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert lines and all(line["log_ratio_max"] < 1e-3 for line in lines)
    with pytest.raises(ModelError, match="length of Euler steps"):
        model.generate([[11, 17]], Sampling(3, solver="midpoint"))


def test_annealing_runs_go_on_bit_by_bit(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    goes_on_bit_by_bit(workshop, tmp_path / "run", f"base={base}", "policy.variant=annealing", *BOTH)


SHORTCUTS = ["rollout.learn_from={transitions: 1}", "rollout.precision=bfloat16"]


def test_shortcuts_go_on_bit_by_bit(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    goes_on_bit_by_bit(workshop, tmp_path / "run", f"base={base}", *SHORTCUTS)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert lines and all(line["log_ratio_max"] < 1e-3 for line in lines)


def test_learned_noise_is_trained_saved_and_goes_on_bit_by_bit(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    keys = [f"base={base}", LEARNED, "objective.entropy_weight.pos=0.1", "learner.lr=1e-2"]
    model = goes_on_bit_by_bit(workshop, tmp_path / "run", *keys)
    assert set(model.learned) == {"policy", "noise"}
    sigma = model.policy().noise["pos"].sigma(torch.tensor([0.5]))
    # The entropy bonus outweighs four iterations of anything else.
    assert float(sigma.detach()) > 0.3


def test_a_learned_schedule_anneals_another_run(
    workshop: Workshop, base: Path, schedule: TrainResult, tmp_path: Path
) -> None:
    keys = [f"base={base}", f"policy.schedule_from={schedule.model}"]
    model = goes_on_bit_by_bit(workshop, tmp_path / "run", *keys)
    assert "The schedule it was trained with" in (tmp_path / "run" / "report.html").read_text()
    donor = FlowModel.load(schedule.model)
    learned = weights(donor)
    assert learned and all(torch.equal(weights(model)[name], value) for name, value in learned.items())
    # Before and after share the schedule, so that only reinforcement is compared.
    start = FlowModel.load(base).annealed_as(donor)
    assert not torch.equal(
        start.generate([[11, 17]], Sampling(5)).cell, FlowModel.load(base).generate([[11, 17]], Sampling(5)).cell
    )
    torch.testing.assert_close(
        start.generate([[11, 17]], Sampling(5)).cell, donor.generate([[11, 17]], Sampling(5)).cell
    )


def test_score_policies_train_velocity_and_denoiser(workshop: Workshop, gamma_base: Path, tmp_path: Path) -> None:
    keys = [f"base={gamma_base}", "policy.variant=score", "objective.distillation_weight.pos=0.01", *BOTH]
    model = goes_on_bit_by_bit(workshop, tmp_path / "run", *keys)
    start, end = FlowModel.load(gamma_base).network.state_dict(), model.network.state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    heads = {"coord_out.weight", "coord_out_2.weight", "lattice_out.weight", "lattice_out_2.weight"}
    assert heads <= moved and not any(name.startswith("type_out") for name in moved)
