"""Paths of crystals: the torus, the added Gaussian, and their settings."""

from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.crystal.batch import Layout
from omatg_ray.flow.interpolant import EncoderDecoder, Linear, Trigonometric
from omatg_ray.flow.paths import interpolate, path, torus_path
from omatg_ray.flow.settings import PathSettings
from omatg_ray.flow.time_functions import SqrtGamma
from tests.flow.families import FAMILIES, GAMMAS, TRAINABLE
from tests.small import random_crystals

SIZES = [3, 1, 4]
JOINING = ["linear", "trigonometric", "vp_constant"]


def torus_distance(left, right):
    return float(((left - right + 0.5) % 1.0 - 0.5).abs().max())


@pytest.mark.parametrize("gamma", [None, *GAMMAS])
@pytest.mark.parametrize("name", FAMILIES)
def test_flat_velocity_is_the_derivative_of_the_state(name, gamma):
    if gamma is not None and name not in TRAINABLE:
        return
    interpolant = FAMILIES[name].model_copy(update={"gamma": GAMMAS.get(gamma)})
    x_0, x_1, z = torch.randn(3, 4, 3, 3, dtype=torch.float64)
    t = torch.full((4, 1, 1), 0.37, dtype=torch.float64)
    h = 1e-6
    above, below = (path(interpolant, x_0, x_1, t + s, z)[0] for s in (h, -h))
    torch.testing.assert_close(path(interpolant, x_0, x_1, t, z)[1], (above - below) / (2 * h), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", JOINING)
def test_torus_path_joins_its_ends(name):
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    for end, expected in ((0.0, x_0), (1.0, x_1)):
        t = torch.full((sum(SIZES), 1), end, dtype=torch.float64)
        state, _ = torus_path(FAMILIES[name], x_0, x_1, t, layout)
        assert torus_distance(state, expected) < 1e-12


def test_linear_torus_path_is_the_shortest_and_has_no_centre_of_mass_motion():
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    t = torch.rand(sum(SIZES), 1, dtype=torch.float64)
    _, velocity = torus_path(Linear(), x_0, x_1, t, layout)
    images = torch.stack([x_1 + shift - x_0 for shift in (-1.0, 0.0, 1.0)])
    shortest = images.gather(0, images.abs().argmin(0, keepdim=True))[0]
    start = 0
    for n in SIZES:
        part = slice(start, start + n)
        torch.testing.assert_close(velocity[part], shortest[part] - shortest[part].mean(0), atol=1e-12, rtol=0)
        start += n


@pytest.mark.parametrize("name", TRAINABLE)
def test_target_does_not_depend_on_the_origin(name):
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)[layout.batch][:, None]
    shift = torch.tensor([0.013, 0.007, -0.011], dtype=torch.float64)
    # A shift that carries no atom of x_0 across the cell's faces; across them the non-linear path differs.
    x_0 = 0.1 + 0.8 * x_0
    _, before = torus_path(FAMILIES[name], x_0, x_1, t, layout)
    _, after = torus_path(FAMILIES[name], x_0 + shift, x_1 + shift, t, layout)
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)


def test_gamma_moves_the_state_on_the_torus_and_the_target():
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    z = torch.randn(sum(SIZES), 3, dtype=torch.float64)
    t = torch.full((sum(SIZES), 1), 0.2, dtype=torch.float64)
    plain, velocity = torus_path(Linear(), x_0, x_1, t, layout)
    state, target = torus_path(Linear(gamma=SqrtGamma(a=4.0)), x_0, x_1, t, layout, z)
    # γ(0.2) = √(4 · 0.2 · 0.8), γ' = 4 · 0.6 / (2 γ).
    gamma = math.sqrt(0.64)
    assert torus_distance(state, plain + gamma * z) < 1e-12
    assert bool(((state >= 0) & (state < 1)).all())
    change = 1.2 / gamma * torch.cat([part - part.mean(0) for part in z.split(SIZES)])
    torch.testing.assert_close(target - velocity, change, atol=1e-12, rtol=0)


def test_interpolate_gives_every_structure_its_time_and_every_field_its_gaussian():
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    t = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    z = torch.randn(3, 3, 3, dtype=torch.float64)
    paths = PathSettings(pos=Linear(), cell=Trigonometric(gamma=SqrtGamma(a=2.0)))
    state, velocity = interpolate(paths, x_0, x_1, t, {"cell": z})
    assert torch.equal(state.species, x_1.species)
    for b in range(len(SIZES)):
        angle, gamma = math.pi * float(t[b]) / 2, math.sqrt(2 * float(t[b]) * (1 - float(t[b])))
        expected = math.cos(angle) * x_0.cell[b] + math.sin(angle) * x_1.cell[b] + gamma * z[b]
        torch.testing.assert_close(state.cell[b], expected, atol=1e-12, rtol=0)
        slope = math.pi / 2 * (-math.sin(angle) * x_0.cell[b] + math.cos(angle) * x_1.cell[b])
        slope = slope + (1 - 2 * float(t[b])) / gamma * z[b]
        torch.testing.assert_close(velocity["cell"][b], slope, atol=1e-12, rtol=0)
        atoms = slice(*x_1.ptr[b : b + 2].tolist())
        difference = (x_1.pos[atoms] - x_0.pos[atoms] + 0.5) % 1.0 - 0.5
        assert torus_distance(state.pos[atoms], x_0.pos[atoms] + t[b] * difference) < 1e-12
        torch.testing.assert_close(velocity["pos"][atoms], difference - difference.mean(0), atol=1e-12, rtol=0)


def test_words_and_mappings():
    assert PathSettings.model_validate({"pos": "trigonometric"}) == PathSettings(pos=Trigonometric(), cell=Linear())
    assert PathSettings().model_dump() == {"pos": "linear", "cell": "linear"}
    given = {"pos": {"gamma": {"kind": "sqrt", "a": 0.05}, "epsilon": {"kind": "vanishing", "c": 2.0}}}
    paths = PathSettings.model_validate(given)
    assert isinstance(paths.pos, Linear) and paths.pos.gamma == SqrtGamma(a=0.05)
    assert paths.pos.epsilon is not None and paths.pos.epsilon.c == 2.0
    assert (paths.with_gamma, paths.antithetic) == (("pos",), ("pos",))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_written_and_read_back(name):
    paths = PathSettings(pos=FAMILIES[name], cell=TRAINABLE["linear"].model_copy(update={"gamma": GAMMAS["sqrt"]}))
    assert PathSettings.model_validate_json(paths.model_dump_json()) == paths


def test_velocities_are_not_defined_at_the_ends_of_some_paths():
    assert not PathSettings(cell=Trigonometric()).open_ended
    assert PathSettings(cell=EncoderDecoder()).open_ended
    assert PathSettings(pos=Linear(gamma=GAMMAS["encoder_decoder"])).open_ended
    # Such a γ needs no pair.
    assert PathSettings(pos=Linear(gamma=GAMMAS["encoder_decoder"])).antithetic == ()
