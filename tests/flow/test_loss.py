"""The training losses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from omatg_ray.flow.interpolant import Linear
from omatg_ray.flow.loss import flow_loss
from omatg_ray.flow.settings import PathSettings
from omatg_ray.flow.time_functions import SqrtGamma
from tests.flow.families import GAMMAS, TRAINABLE
from tests.small import random_crystals, small_network

SIZES = [3, 1, 4]
T = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)


def silent_network():
    """A network that predicts nothing at all."""
    network = small_network()
    with torch.no_grad():
        for head in (network.coord_out, network.coord_out_2, network.lattice_out, network.lattice_out_2):
            head.weight.zero_()
    return network


def gaussians(seed=3):
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(sum(SIZES), 3, generator=generator, dtype=torch.float64)
    return {"pos": pos, "cell": torch.randn(len(SIZES), 3, 3, generator=generator, dtype=torch.float64)}


def test_loss_of_a_silent_network_is_the_mean_square_of_the_targets():
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    loss = flow_loss(silent_network(), PathSettings(), x_0, x_1, T)
    assert loss.keys() == {"pos", "cell"}
    assert float(loss["cell"].detach()) == pytest.approx(float((x_1.cell - x_0.cell).square().mean()))
    difference = (x_1.pos - x_0.pos + 0.5) % 1.0 - 0.5
    centred = torch.cat([part - part.mean(0) for part in difference.split(SIZES)])
    assert float(loss["pos"].detach()) == pytest.approx(float(centred.square().mean()))


def test_loss_is_the_error_at_the_interpolated_state():
    network = small_network()
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    loss = flow_loss(network, PathSettings(), x_0, x_1, T)
    pos, cell = [], []
    for b in range(len(SIZES)):
        start, end = x_0.select([b]), x_1.select([b])
        difference = (end.pos - start.pos + 0.5) % 1.0 - 0.5
        state = end.replace((start.pos + T[b] * difference) % 1.0, (1 - T[b]) * start.cell + T[b] * end.cell)
        out = network(state, T[b : b + 1])
        pos.append(out.pos_b - (difference - difference.mean(0)))
        cell.append(out.cell_b - (end.cell - start.cell))
    assert float(loss["pos"].detach()) == pytest.approx(float(torch.cat(pos).detach().square().mean()), rel=1e-9)
    assert float(loss["cell"].detach()) == pytest.approx(float(torch.cat(cell).detach().square().mean()), rel=1e-9)


def test_both_fields_have_gradients():
    network = small_network()
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    paths = PathSettings.model_validate({"pos": "trigonometric", "cell": "trigonometric"})
    loss = flow_loss(network, paths, x_0, x_1, torch.full((3,), 0.5, dtype=torch.float64))
    loss["pos"].backward(retain_graph=True)
    assert network.coord_out.weight.grad is not None and network.lattice_out.weight.grad is None
    loss["cell"].backward()
    assert network.lattice_out.weight.grad is not None


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", TRAINABLE)
def test_velocity_and_denoiser_of_a_single_pair_have_no_loss(name, gamma):
    """Where there is one x_0 and one x_1, b = İ + (γ'/γ)(x − I) and η = (x − I) / γ, exactly, at every state x."""
    path = TRAINABLE[name].model_copy(update={"gamma": GAMMAS[gamma]})
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    z = {field: 0.3 * noise for field, noise in gaussians().items()}
    seen = []

    def exact(state, t):
        seen.append(len(state))
        copies = len(state) // len(x_1)
        start, end, layout = x_0.tile(copies), x_1.tile(copies), state.layout
        image = start.pos + (end.pos - start.pos + 0.5) % 1.0 - 0.5
        out = {}
        for field, a, b, time in (
            ("pos", start.pos, image, t[layout.batch][:, None]),
            ("cell", start.cell, end.cell, t[:, None, None]),
        ):
            (alpha, beta), (alpha_rate, beta_rate) = path.weights(time), path.rates(time)
            difference = (state.pos if field == "pos" else state.cell) - alpha * a - beta * b
            if field == "pos":
                difference = (difference + 0.5) % 1.0 - 0.5
            scale, slope = GAMMAS[gamma].value(time), GAMMAS[gamma].derivative(time)
            velocity = alpha_rate * a + beta_rate * b + slope / scale * difference
            if field == "pos":
                velocity = velocity - layout.mean(velocity)[layout.batch]
            out |= {f"{field}_b": velocity, f"{field}_eta": difference / scale}
        return SimpleNamespace(**out)

    losses = flow_loss(exact, PathSettings(pos=path, cell=path), x_0, x_1, T, z)
    assert list(losses) == ["pos", "cell", "pos_eta", "cell_eta"]
    assert max(float(loss) for loss in losses.values()) < 1e-20
    # The square root needs pairs of states, seen together.
    assert seen == [2 * len(SIZES) if gamma == "sqrt" else len(SIZES)]


def test_antithetic_pairs_are_averaged_and_the_denoiser_sees_the_first():
    paths = PathSettings(pos=Linear(gamma=SqrtGamma(a=0.2)))
    x_0, x_1, z = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2), gaussians()["pos"]
    network = small_network()
    losses = flow_loss(network, paths, x_0, x_1, T, {"pos": z})
    time = T[x_1.batch][:, None]
    difference = (x_1.pos - x_0.pos + 0.5) % 1.0 - 0.5
    gamma = (0.2 * time * (1 - time)).sqrt()
    errors, outputs = [], []
    for sign in (1, -1):
        state = x_1.replace(
            (x_0.pos + time * difference + sign * gamma * z) % 1.0,
            (1 - T)[:, None, None] * x_0.cell + T[:, None, None] * x_1.cell,
        )
        outputs.append(network(state, T))
        target = difference + sign * 0.1 * (1 - 2 * time) / gamma * z
        target = torch.cat([part - part.mean(0) for part in target.split(SIZES)])
        errors.append((outputs[-1].pos_b - target).square().mean())
    assert float(losses["pos"].detach()) == pytest.approx(float(sum(errors).detach()) / 2, rel=1e-9)
    eta = (outputs[0].pos_eta - z).square().mean()
    assert float(losses["pos_eta"].detach()) == pytest.approx(float(eta.detach()), rel=1e-9)
    # The lattice takes part in the first state only.
    cell = (outputs[0].cell_b - (x_1.cell - x_0.cell)).square().mean()
    assert float(losses["cell"].detach()) == pytest.approx(float(cell.detach()), rel=1e-9)
    assert "cell_eta" not in losses


def test_gradients_stay_bounded_where_the_target_diverges():
    """At t → 0 the targets of a pair grow as 1 / √t, and the gradient of their loss does not."""
    x_0, x_1, z = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2), gaussians()
    paths = PathSettings.model_validate({field: {"gamma": {"kind": "sqrt", "a": 0.05}} for field in ("pos", "cell")})
    norms, values = [], []
    for time in (1e-6, 1e-10):
        network = small_network()
        losses = flow_loss(network, paths, x_0, x_1, torch.full((3,), time, dtype=torch.float64), z)
        (losses["pos"] + losses["cell"]).backward()
        values.append(float(losses["cell"].detach()))
        norms.append(float(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm()))
    assert values[1] > 1000 * values[0]
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)
