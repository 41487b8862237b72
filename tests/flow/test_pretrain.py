"""Pretraining: schedule, averaged weights, exact resume, failures."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ModelError, TrainingError
from omatg_ray.flow.loss import flow_loss
from omatg_ray.flow.pairing import minimum_permutation
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.flow.settings import NetworkSettings, PretrainSettings
from tests.small import SIZE, random_crystals

TRAIN, VAL = random_crystals([3, 1, 4, 2, 2, 5, 1], 0, torch.float32), random_crystals([2, 3], 1, torch.float32)
BASE = BaseDistribution.fit(TRAIN)
GAMMA = {
    "pos": {"kind": "trigonometric", "gamma": {"kind": "sqrt", "a": 0.05}},
    "cell": {"gamma": {"kind": "encoder_decoder", "a": 0.5}},
}


def trainer(train: CrystalBatch = TRAIN, seed: int = 0, **values) -> Pretrainer:
    settings = {"network": SIZE, "epochs": 6, "batch_size": 3, "warmup_steps": 4, "lr": 1e-2, "ema": 0.9} | values
    return Pretrainer(PretrainSettings(**settings), train, VAL, BASE, seed)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_learning_rate():
    one = trainer()
    # Seven crystals in batches of three are 3 steps an epoch, 18 in all, 4 of them of warm-up.
    assert one.steps_per_epoch == 3
    rates = [one.learning_rate(step) for step in range(18)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4:] == pytest.approx([0.005 * (1 + math.cos(math.pi * k / 14)) for k in range(14)])
    assert one.learning_rate(18) == pytest.approx(0.0)


def test_learning_rate_without_warmup_and_with_nothing_but_warmup():
    assert trainer(warmup_steps=0).learning_rate(0) == pytest.approx(1e-2)
    short = trainer(warmup_steps=1000)
    assert short.learning_rate(17) == pytest.approx(1e-2 * 18 / 1000)


def test_the_epoch_uses_the_learning_rate_of_its_last_step():
    one = trainer()
    for epoch in range(3):
        assert one.run_epoch()["lr"] == pytest.approx(one.learning_rate(3 * epoch + 2))
    assert one.epoch == 3


def test_averaged_weights_follow_the_recursion():
    one = trainer(ema=0.5, batch_size=100)
    expected = None
    for epoch in range(6):
        one.run_epoch()
        weights = {k: v.double() for k, v in one.network.state_dict().items()}
        if expected is None:
            expected = weights
        else:
            decay = min(0.5, (1 + epoch) / (10 + epoch))
            expected = {k: decay * expected[k] + (1 - decay) * weights[k] for k in expected}
    for name, value in one.ema_network.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=1e-5)
    assert not equal(one.ema_network.state_dict(), one.network.state_dict())


def test_unused_heads_do_not_move():
    one = trainer()
    before = {k: v.clone() for k, v in one.network.state_dict().items()}
    one.run_epoch()
    frozen = ("coord_out_2", "lattice_out_2", "type_out", "type_out_2")
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, before[name]) == (name.split(".")[0] in frozen), name


def test_gamma_trains_the_denoiser_of_its_field():
    one = trainer(paths={"pos": GAMMA["pos"]})
    before = {k: v.clone() for k, v in one.network.state_dict().items()}
    losses = one.run_epoch()
    assert list(losses) == ["loss", "loss_pos", "loss_cell", "loss_pos_eta", "lr"]
    parts = losses["loss_pos"] + 0.05 * losses["loss_cell"] + losses["loss_pos_eta"]
    assert losses["loss"] == pytest.approx(parts, rel=1e-5)
    frozen = ("lattice_out_2", "type_out", "type_out_2")
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, before[name]) == (name.split(".")[0] in frozen), name


def test_validation_with_gamma_is_the_same_every_time():
    one = trainer(paths=GAMMA, loss_weights={"pos_eta": 0.5, "cell_eta": 2.0})
    values = one.validate()
    assert values == one.validate()
    names = ["val_loss", "val_loss_pos", "val_loss_cell", "val_loss_pos_eta", "val_loss_cell_eta"]
    assert list(values) == names
    weighted = [weight * values[name] for weight, name in zip((1.0, 0.05, 0.5, 2.0), names[1:], strict=True)]
    assert values["val_loss"] == pytest.approx(sum(weighted), rel=1e-6)


def test_the_denoiser_is_learned():
    """On a mirror path of one crystal x_t − x_1 = γ z: six of nine components of η are known; a guess of 0 costs 1.

    The rotation of the lattice, which the network does not see, is the rest.
    """
    crystals = random_crystals([1], 3, torch.float32).tile(64)
    weights = {"pos": 0.0, "cell": 0.0, "cell_eta": 1.0}
    paths = {"cell": {"kind": "mirror", "gamma": "encoder_decoder"}}
    one = trainer(crystals, paths=paths, epochs=150, batch_size=64, lr=2e-2, loss_weights=weights)
    losses = [one.run_epoch()["loss_cell_eta"] for _ in range(150)]
    assert sum(losses[-20:]) / 20 < 0.75


@pytest.mark.parametrize("paths, low", [({}, 0.0), (GAMMA, 1e-3), ({"pos": "encoder_decoder"}, 1e-3)])
def test_times_keep_away_from_the_ends_where_paths_are_not_defined_there(paths, low, monkeypatch):
    times = []

    def recording(network, paths, x_0, x_1, t, *rest):
        times.append(t)
        return flow_loss(network, paths, x_0, x_1, t, *rest)

    monkeypatch.setattr("omatg_ray.flow.pretrain.flow_loss", recording)
    one = trainer(TRAIN.tile(600), paths=paths, batch_size=4200)
    one.run_epoch()
    seen = torch.cat(times)
    assert float(seen.min()) >= low and float(seen.max()) <= 1 - low
    assert (float(seen.min()) < 1e-3) == (low == 0.0)


@pytest.mark.parametrize(
    "path, name",
    [
        ({"kind": "ve", "sigma_min": 0.01, "sigma_max": 1.0}, "ve"),
        ({"kind": "vp", "schedule": "constant"}, "vp"),
        ({"kind": "linear", "one_sided": True}, "linear"),
    ],
)
def test_one_sided_paths_are_not_for_new_models(path, name):
    with pytest.raises(ValidationError, match=f"cell: {name}, one-sided, is for imported models only; train on linear"):
        PretrainSettings(paths={"cell": path})


@pytest.mark.parametrize("among", ["all_atoms", "same_species", "as_drawn"])
def test_atoms_are_paired_as_asked_for_in_training_and_validation(among, monkeypatch):
    """What reaches the loss is what pairing returns for what was drawn."""
    drawn, reached = [], []
    draw = Pretrainer._draw

    def record(self, x_1, rng):
        found = draw(self, x_1, rng)
        drawn.append(found[0])
        return found

    def loss(network, paths, x_0, x_1, *rest):
        reached.append((x_0, x_1))
        return flow_loss(network, paths, x_0, x_1, *rest)

    monkeypatch.setattr(Pretrainer, "_draw", record)
    monkeypatch.setattr("omatg_ray.flow.pretrain.flow_loss", loss)
    one = trainer(paths={"pairing": among}, batch_size=7)
    one.run_epoch()
    in_training = len(drawn)
    one.validate()
    assert 0 < in_training < len(drawn) == len(reached)
    for start, (x_0, x_1) in zip(drawn, reached, strict=True):
        species = {"all_atoms": None, "same_species": x_1.species}.get(among)
        order = slice(None) if among == "as_drawn" else minimum_permutation(start.pos, x_1.pos, x_1.layout, species)
        assert torch.equal(x_0.pos, start.pos[order])


def test_a_network_that_sees_shapes_learns():
    one = trainer(network=SIZE.model_copy(update={"lattice": "shape"}), epochs=20, batch_size=7, warmup_steps=0)
    losses = [one.run_epoch()["loss"] for _ in range(20)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("values", [{}, {"paths": GAMMA}, {"optimizer": "muon"}], ids=["plain", "gamma", "muon"])
@pytest.mark.parametrize("stop", [1, 3])
def test_resume_is_exact(stop, values):
    whole = trainer(**values)
    losses = [whole.run_epoch() for _ in range(5)]
    stopped = trainer(**values)
    for _ in range(stop):
        stopped.run_epoch()
    stopped.best_val_loss = 0.25
    saved = {k: v.clone() for k, v in stopped.state_dict().items()}

    resumed = trainer(**values)
    torch.rand(7)  # what another process has drawn does not matter
    resumed.load_state_dict(saved)
    assert (resumed.epoch, resumed.best_val_loss) == (stop, 0.25)
    assert [resumed.run_epoch() for _ in range(stop, 5)] == losses[stop:]
    assert equal(resumed.network.state_dict(), whole.network.state_dict())
    assert equal(resumed.ema_network.state_dict(), whole.ema_network.state_dict())
    assert resumed.validate() == whole.validate()


def test_the_state_is_made_of_tensors_alone():
    one = trainer()
    one.run_epoch()
    assert all(isinstance(v, torch.Tensor) for v in one.state_dict().values())


def test_the_seed_decides_everything():
    first, second, other = trainer(), trainer(), trainer(seed=1)
    assert equal(first.network.state_dict(), second.network.state_dict())
    assert not equal(first.network.state_dict(), other.network.state_dict())
    state = torch.random.get_rng_state()
    assert first.run_epoch() == second.run_epoch()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_epoch_draws_anew():
    one = trainer(lr=1e-12, warmup_steps=0)
    losses = [one.run_epoch()["loss"] for _ in range(3)]
    assert min(abs(a - b) for a, b in itertools.pairwise(losses)) > 1e-3


def test_validation_is_the_same_every_time_and_leaves_training_alone():
    one, other = trainer(), trainer()
    assert one.validate() == one.validate()
    assert one.run_epoch() == other.run_epoch()
    values = one.validate()
    assert values["val_loss"] == pytest.approx(values["val_loss_pos"] + 0.05 * values["val_loss_cell"], rel=1e-5)


def test_training_lowers_the_loss():
    one = trainer(epochs=30, batch_size=7)
    before = one.validate()
    losses = [one.run_epoch()["loss_cell"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert one.validate()["val_loss_cell"] < before["val_loss_cell"]


def test_a_loss_that_is_not_finite_stops_and_names_the_rows():
    broken = TRAIN.replace(cell=TRAIN.cell.clone())
    broken.cell[4] = float("nan")
    one = trainer(broken, batch_size=1)
    with pytest.raises(TrainingError, match=r"epoch 1; rows .*\[4\]"):
        one.run_epoch()
    assert all(bool(torch.isfinite(p).all()) for p in one.network.parameters())


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched():
    one = trainer(batch_size=100)
    before = {k: v.clone() for k, v in one.network.state_dict().items()}
    one.network.coord_out.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError):
        one.run_epoch()
    assert equal(one.network.state_dict(), before)


def test_a_state_of_another_architecture_is_refused():
    saved = trainer(network=NetworkSettings(**(SIZE.model_dump() | {"hidden": 8}))).state_dict()
    with pytest.raises((ModelError, RuntimeError)):
        trainer().load_state_dict(saved)
