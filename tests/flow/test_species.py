"""Generated species: jump probabilities against the rate matrices of the paper, and where they lead."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.settings import PathSettings
from omatg_ray.flow.species import MASK, MaskedSpecies, SpeciesPath, UniformSpecies, draw_jumps
from tests.small import random_crystals

S = 5
TARGET = torch.tensor([0.1, 0.25, 0.05, 0.4, 0.2], dtype=torch.float64)
KINDS: list[type[SpeciesPath]] = [MaskedSpecies, UniformSpecies]
NOISES = [0.0, 0.7]
TINY = 1e-6


def states(path: SpeciesPath) -> Tensor:
    """All species that an atom can be: 0 … S, or 1 … S."""
    return torch.arange(0 if path.masked else 1, S + 1)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def rate(path: SpeciesPath, i: int, j: int, x_1: int, t: float) -> float:
    """The conditional rate R_t(i, j | x_1), i ≠ j, from the conditional distribution p_t(· | x_1) alone.

    R*(i, j) = max(0, ∂p(j) − ∂p(i)) / (number of states with p > 0 · p(i)), zero where p(i) or p(j) is zero, plus η of
    a process in detailed balance with p that leaves x_1 at the rate η (to the mask; to every other element).
    """
    count = 2 if path.masked else S
    base = {MASK: 1.0} if path.masked else dict.fromkeys(range(1, S + 1), 1.0 / S)

    def p(z: int) -> float:
        return t * (z == x_1) + (1.0 - t) * base.get(z, 0.0)

    def slope(z: int) -> float:
        return (z == x_1) - base.get(z, 0.0)

    if p(i) == 0.0 or p(j) == 0.0:
        return 0.0
    flow = max(0.0, slope(j) - slope(i)) / (count * p(i))
    if i == x_1:
        return flow + path.noise
    return flow + (path.noise * p(x_1) / p(i) if j == x_1 else 0.0)


@pytest.mark.parametrize("t", [0.001, 0.3, 0.9])
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", KINDS)
def test_jumps_have_the_rates_of_the_paper_averaged_over_the_prediction(kind, noise, t):
    path = kind(noise=noise)
    species = states(path)
    # Another prediction for every state.
    logits = torch.randn(len(species), S, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = path.probabilities(logits, species, number(t), number(TINY), last=False)
    prediction = logits.softmax(-1)
    for row, i in enumerate(species.tolist()):
        for j in set(range(S + 1)) - {i}:
            # Unmasked atoms keep what they are until masked: their own species takes the place of the prediction.
            weights = (
                {i: 1.0} if path.masked and i != MASK else {x: float(prediction[row, x - 1]) for x in range(1, S + 1)}
            )
            expected = sum(weight * rate(path, i, j, x_1, t) for x_1, weight in weights.items())
            assert float(found[row, j]) / TINY == pytest.approx(expected, rel=1e-9, abs=1e-12)


def posterior(path: SpeciesPath, t: float) -> Tensor:
    """p(x_1 | x_t) by Bayes for x_1 distributed as TARGET: what a perfect network says for every state."""
    species = states(path)
    if path.masked:
        return TARGET.log().expand(len(species), S)
    likelihood = t * torch.eye(S, dtype=torch.float64) + (1.0 - t) / S
    return (likelihood * TARGET).log()


def marginals(path: SpeciesPath, n_points: int) -> dict[float, Tensor]:
    """Distribution of an atom's species at every grid point, with a perfect network; exact, nothing is drawn."""
    species, times = states(path), torch.linspace(1e-3, 1.0 - 1e-3, n_points, dtype=torch.float64)
    p = torch.zeros(S + 1, dtype=torch.float64)
    p[species] = torch.tensor([1.0, *[0.0] * S] if path.masked else [1.0 / S] * S, dtype=torch.float64)
    out = {float(times[0]): p}
    for k, dt in enumerate(times.diff()):
        t, last = times[k], k == n_points - 2
        p = p[species] @ path.probabilities(posterior(path, float(t)), species, t, dt, last)
        out[float(times[k + 1])] = p
    return out


@pytest.mark.parametrize("n_points", [2, 7, 50])
@pytest.mark.parametrize("noise", NOISES)
def test_masked_atoms_end_in_the_data_whatever_the_number_of_steps(noise, n_points):
    *_, final = marginals(MaskedSpecies(noise=noise), n_points).values()
    assert float(final[MASK]) == 0.0
    torch.testing.assert_close(final[1:], TARGET, atol=1e-12, rtol=0)


@pytest.mark.parametrize("noise", NOISES)
def test_uniform_atoms_end_in_the_data_with_small_steps(noise):
    *_, final = marginals(UniformSpecies(noise=noise), 2000).values()
    # The grid ends at t = 0.999, where a thousandth is still uniform.
    torch.testing.assert_close(final[1:], TARGET, atol=1e-3, rtol=0)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("kind", KINDS)
def test_on_the_way_atoms_are_distributed_as_the_path_says(kind, noise):
    """Noise leaves the distribution at every t as it is: (1 − t) base + t data."""
    path = kind(noise=noise)
    for t, found in list(marginals(path, 2000).items())[:-1:100]:
        expected = torch.zeros(S + 1, dtype=torch.float64)
        expected[1:] = t * TARGET + (0.0 if path.masked else (1.0 - t) / S)
        expected[MASK] = (1.0 - t) if path.masked else 0.0
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("noise", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("t, dt", [(0.001, 0.998), (0.5, 0.4), (0.97, 0.029), (0.5, 1e-9)])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_probabilities_however_long_the_step(kind, t, dt, noise, last):
    path = kind(noise=noise)
    species = states(path)
    logits = 30.0 * torch.randn(len(species), S, generator=torch.Generator().manual_seed(1))
    found = path.probabilities(logits, species, number(t), number(dt), last)
    assert found.shape == (len(species), S + 1) and float(found.min()) >= 0.0
    torch.testing.assert_close(found.sum(-1), torch.ones(len(species), dtype=torch.float64), atol=1e-12, rtol=0)
    if last or not path.masked:
        assert not found[:, MASK].any()


def test_the_last_step_takes_no_noise():
    species, logits = torch.arange(1, S + 1), torch.zeros(S, S)
    t, dt = number(0.9), number(0.05)
    for kind in KINDS:
        noisy, quiet = (
            kind(noise=noise).probabilities(logits, species, t, dt, last) for noise, last in ((3.0, True), (0.0, False))
        )
        torch.testing.assert_close(noisy, quiet)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_choose_with_these_probabilities_and_never_what_has_none(kind):
    path, n = kind(noise=0.4), 4096
    logits = torch.tensor([[0.0, -torch.inf, 1.0, 0.5, -torch.inf]])
    species, t, dt = int(states(path)[0]), number(0.6), number(0.1)
    probabilities = path.probabilities(logits.nan_to_num(), torch.tensor([species]), t, dt, False)[0]
    draws = torch.cat([torch.tensor([0.0, 1.0 - 2.0**-24]), (torch.arange(n - 2) + 0.5) / (n - 2)])
    chosen = path.step(logits.expand(n, S), torch.full((n,), species), t, dt, draws, False)
    counts = Counter(chosen.tolist())
    for z, p in enumerate(probabilities.tolist()):
        assert counts[z] == pytest.approx(n * p, abs=3)
        assert p > 0 or counts[z] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_that_is_not_finite_still_gives_atoms(kind):
    path = kind(noise=0.1)
    species, logits = states(path), torch.full((S + (1 if kind is MaskedSpecies else 0), S), torch.nan)
    after = path.step(logits, species, number(0.9), number(0.05), torch.rand(len(species)), last=True)
    assert int(after.min()) >= 1 and int(after.max()) <= S


def test_where_species_start():
    crystals = random_crystals([3, 1, 20])
    masked = MaskedSpecies().start(crystals, [1, 2, 3], 100)
    assert masked.species.tolist() == [MASK] * 24
    assert torch.equal(masked.pos, crystals.pos) and masked.layout is crystals.layout
    many = CrystalBatch(torch.ones(20000), torch.zeros(20000, 3), torch.eye(3)[None], torch.tensor([20000]))
    counts = torch.bincount(UniformSpecies().start(many, [5], 8).species, minlength=9)
    assert len(counts) == 9 and counts[0] == 0
    assert float((counts[1:] - 2500).abs().max()) < 5 * 2500**0.5


def test_random_numbers_belong_to_a_structure():
    crystals = random_crystals([3, 1, 4])
    together, alone = draw_jumps(crystals, 6, [11, 12, 13]), draw_jumps(crystals.select([2]), 6, [13])
    assert together.shape == (5, 8) and together.dtype == torch.float32
    assert torch.equal(together[:, 4:], alone)
    assert not torch.equal(together[:, 4:], draw_jumps(crystals.select([2]), 6, [14]))
    start = UniformSpecies().start(crystals, [11, 12, 13], 100).species
    assert torch.equal(start[4:], UniformSpecies().start(crystals.select([2]), [13], 100).species)
    assert not torch.equal(start[4:], UniformSpecies().start(crystals.select([2]), [14], 100).species)


def test_settings():
    assert PathSettings().model_dump_json() == '{"pos":"linear","cell":"linear"}'
    paths = PathSettings.model_validate({"species": {"kind": "mask", "noise": 0.2}})
    assert paths.species == MaskedSpecies(noise=0.2)
    assert PathSettings.model_validate_json(paths.model_dump_json()) == paths
    with pytest.raises(ValueError, match="imported models only"):
        paths.refuse_untrainable()
    for wrong, message in (({"kind": "mask", "noise": -1}, "species.noise"), ("masked", "did you mean mask")):
        with pytest.raises(ValidationError, match=message):
            PathSettings.model_validate({"species": wrong})
