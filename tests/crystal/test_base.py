"""The base distributions: fit, moments, independence of the structures, and descriptions."""

from __future__ import annotations

import json
import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.assets import asset
from omatg_ray.crystal.base import (
    ANGLE_RANGE,
    MIN_LOG_STD,
    BaseDistribution,
    CellByVolume,
    InformedCell,
    Mirror,
    Normal,
    Sobol,
    Uniform,
)
from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters, volume
from omatg_ray.errors import ModelError
from omatg_ray.seeding import generator
from tests.small import random_crystals

CELL = InformedCell(log_length_mean=(1.2, 1.4, 1.7), log_length_std=(0.1, 0.2, 0.3))
BASE = BaseDistribution(cell=CELL)
BY_VOLUME = CellByVolume(
    atomic_volume={"O": 8.0, "Ba": 30.0},
    other_volume=20.0,
    log_ratio_mean=(-0.1, 0.0, 0.3),
    log_ratio_factor=((0.2, 0.0, 0.0), (0.05, 0.1, 0.0), (-0.1, -0.05, 0.15)),
)


def atoms(n: int) -> CrystalBatch:
    """Return n crystals of one hydrogen atom each."""
    ones = torch.ones(n, dtype=torch.long)
    return CrystalBatch(ones, torch.zeros(n, 3), torch.eye(3).expand(n, 3, 3), ones)


def draw(base: BaseDistribution, n: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw for n structures of one hydrogen atom each."""
    return base.draw(atoms(n).species, atoms(n).layout, rng)


def test_fit_is_maximum_likelihood():
    lengths = torch.tensor([[2.0, 3.0, 4.0], [8.0, 3.0, 4.0]], dtype=torch.float64)
    angles = torch.tensor([[90.0, 90.0, 90.0], [70.0, 80.0, 100.0]], dtype=torch.float64)
    base = BaseDistribution.fit(atoms(2).replace(cell=cell_from_parameters(lengths, angles)))
    assert base.pos == Uniform() and isinstance(base.cell, InformedCell)
    assert base.cell.log_length_mean == pytest.approx((math.log(4.0), math.log(3.0), math.log(4.0)))
    assert base.cell.log_length_std == pytest.approx((math.log(2.0), MIN_LOG_STD, MIN_LOG_STD))


def test_moments_of_draws():
    n = 20_000
    pos, cell = draw(BASE, n, generator("moments"))
    lengths, angles = cell_parameters(cell.double())
    standard_error = torch.tensor(CELL.log_length_std) / math.sqrt(n)
    log_lengths = lengths.log()
    assert bool(((log_lengths.mean(0) - torch.tensor(CELL.log_length_mean)).abs() < 5 * standard_error).all())
    assert bool(((log_lengths.std(0) / torch.tensor(CELL.log_length_std) - 1).abs() < 5 / math.sqrt(2 * n)).all())
    low, high = ANGLE_RANGE
    assert float(angles.min()) > low - 0.01 and float(angles.max()) < high + 0.01
    spread = (high - low) / math.sqrt(12)
    assert bool(((angles.mean(0) - 90).abs() < 5 * spread / math.sqrt(n)).all())
    assert bool(((angles.std(0) / spread - 1).abs() < 0.03).all())
    assert float(pos.min()) >= 0 and float(pos.max()) < 1
    assert bool(((pos.mean(0) - 0.5).abs() < 5 / math.sqrt(12 * n)).all())
    assert bool(((pos.std(0) - 1 / math.sqrt(12)).abs() < 0.01).all())
    assert bool((volume(cell) > 0).all())
    assert torch.equal(cell, cell.tril())


def test_x_0_does_not_depend_on_neighbours():
    together = BASE.sample([[56, 22, 8, 8, 8], [11], [55, 17]], seeds=[7, 8, 9])
    alone = BASE.sample([[55, 17]], seeds=[9])
    assert together.species.tolist() == [56, 22, 8, 8, 8, 11, 55, 17]
    assert torch.equal(together.pos[6:], alone.pos) and torch.equal(together.cell[2:], alone.cell)
    assert not torch.equal(BASE.sample([[55, 17]], seeds=[8]).pos, alone.pos)


def test_more_species_than_seeds_is_an_error():
    with pytest.raises(ValueError):
        BASE.sample([[1], [1]], seeds=[0])


def test_infinite_parameters_are_refused():
    with pytest.raises(ValidationError):
        BaseDistribution(log_length_mean=(float("-inf"), 1.0, 1.0), log_length_std=(0.1, 0.1, 0.1))


def test_order_of_the_random_numbers():
    # Random numbers in this order: positions, lengths, angles. Runs of earlier versions must repeat.
    pos, cell = draw(BASE, 1, torch.Generator().manual_seed(5))
    rng = torch.Generator().manual_seed(5)
    assert torch.equal(pos, torch.rand(1, 3, generator=rng))
    normal = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    lengths = [
        math.exp(mean + std * x)
        for mean, std, x in zip((1.2, 1.4, 1.7), (0.1, 0.2, 0.3), normal[0].tolist(), strict=True)
    ]
    angles = 60.0 + 60.0 * torch.rand(1, 3, generator=rng, dtype=torch.float64)
    assert cell.norm(dim=-1)[0].tolist() == pytest.approx(lengths, rel=1e-6)
    torch.testing.assert_close(cell_parameters(cell.double())[1], angles, atol=1e-4, rtol=0)


def test_normal_positions_and_lattices():
    n = 20_000
    base = BaseDistribution(pos=Normal(loc=0.3, scale=2.0), cell=Normal(loc=1.0, scale=3.0))
    pos, cell = draw(base, n, generator("normal"))
    five = 5 / math.sqrt(n)
    assert pos.shape == (n, 3) and cell.shape == (n, 3, 3)
    assert bool(((pos.mean(0) - 0.3).abs() < 2 * five).all()) and bool(((pos.std(0) / 2 - 1).abs() < five).all())
    assert bool(((cell.mean(0) - 1.0).abs() < 3 * five).all()) and bool(((cell.std(0) / 3 - 1).abs() < five).all())
    # The Gaussian is what one-sided paths add, so that it is not wrapped in a draw; a state is.
    assert float(pos.max()) > 1
    wrapped = base.sample([[1] * 50], seeds=[0]).pos
    assert float(wrapped.min()) >= 0 and float(wrapped.max()) < 1


def test_sobol_positions_are_even_and_depend_on_the_seed_alone():
    base = BaseDistribution(pos=Sobol(), cell=CELL)
    pos = draw(base, 64, generator("sobol"))[0]
    # A net: of 64 points, 8 lie in every octant, where independent ones would scatter by 2.6.
    octants = ((pos * 2).long() * torch.tensor([4, 2, 1])).sum(1)
    assert octants.bincount(minlength=8).tolist() == [8] * 8
    together, alone = base.sample([[1] * 5, [2] * 4], [3, 4]), base.sample([[2] * 4], [4])
    assert torch.equal(together.pos[5:], alone.pos)
    assert not torch.equal(base.sample([[2] * 4], [5]).pos, alone.pos)


def test_mirrors_copy_given_crystals_and_need_them():
    base = BaseDistribution(pos=Mirror(), cell=Mirror())
    given = random_crystals([3, 2], dtype=torch.float32)
    species = [given.species[:3].tolist(), given.species[3:].tolist()]
    copy = base.sample(species, [0, 1], given)
    assert torch.equal(copy.pos, given.pos) and torch.equal(copy.cell, given.cell)
    with pytest.raises(ModelError, match="starts from the positions of given crystals"):
        base.sample(species, [0, 1])
    half = BaseDistribution(pos=Uniform(), cell=Mirror())
    assert torch.equal(half.sample(species, [0, 1], given).pos, BASE.sample(species, [0, 1]).pos)
    with pytest.raises(ModelError, match="starts from the lattices of given crystals"):
        half.sample(species, [0, 1])


@pytest.mark.parametrize("pos", [Uniform(), Normal(), Sobol(), Mirror()])
@pytest.mark.parametrize("cell", [CELL, Normal(scale=0.5), Mirror()])
def test_descriptions_are_read_back(pos, cell):
    base = BaseDistribution(pos=pos, cell=cell)
    assert BaseDistribution.model_validate_json(base.model_dump_json()) == base


def test_descriptions_of_the_first_version_are_read():
    old = {"log_length_mean": [1.2, 1.4, 1.7], "log_length_std": [0.1, 0.2, 0.3]}
    assert BaseDistribution.model_validate(old) == BASE
    bundled = json.loads((asset("base", "bundled-prototypes") / "model.json").read_text())["base_distribution"]
    lengths = bundled["log_length_mean"]
    cell = BaseDistribution.model_validate(bundled).cell
    assert isinstance(cell, InformedCell) and list(cell.log_length_mean) == lengths


def test_a_distribution_without_lattices_is_refused():
    with pytest.raises(ValidationError, match="cell"):
        BaseDistribution.model_validate({"pos": "uniform"})
    with pytest.raises(ValidationError, match="log_length_std"):
        BaseDistribution.model_validate({"log_length_mean": [1.2, 1.4, 1.7]})


def test_lengths_by_volume_follow_from_the_atoms():
    # BaO3 takes 30 + 3 * 8 Å^3, and twice as much with twice the atoms; Xe is not known.
    species, n = [[56, 8, 8, 8], [56, 56, *[8] * 6], [54]], 20_000
    many = torch.tensor([z for structure in species for z in structure * n])
    layout = Layout(torch.tensor([len(structure) for structure in species]).repeat_interleave(n))
    _, cell = BaseDistribution(cell=BY_VOLUME).draw(many, layout, generator("volume"))
    lengths, angles = cell_parameters(cell.double())
    factor = torch.tensor(BY_VOLUME.log_ratio_factor, dtype=torch.float64)
    for logs, total in zip(lengths.log().split(n), (54.0, 108.0, 20.0), strict=True):
        expected = torch.tensor(BY_VOLUME.log_ratio_mean, dtype=torch.float64) + math.log(total) / 3
        assert bool(((logs.mean(0) - expected).abs() < 5 * factor.norm(dim=1) / math.sqrt(n)).all())
        assert float((logs.T.cov() - factor @ factor.T).abs().max()) < 5 * 0.045 * math.sqrt(2 / n)
    low, high = ANGLE_RANGE
    assert float(angles.min()) > low - 0.01 and float(angles.max()) < high + 0.01


def test_volumes_of_the_elements_are_found_again():
    # Lengths and compositions at random: volumes are sums over the atoms, up to 10 %.
    rng = torch.Generator().manual_seed(2)
    volumes = {3: 12.0, 8: 9.0, 38: 35.0}
    sizes = torch.randint(1, 20, (3000,), generator=rng)
    species = torch.tensor(list(volumes))[torch.randint(3, (int(sizes.sum()),), generator=rng)]
    totals = Layout(sizes).sum(torch.tensor([volumes[int(z)] for z in species]))
    spread = torch.tensor([[0.1, 0.0, 0.0], [-0.05, 0.1, 0.0], [-0.05, -0.1, 0.03]])  # volumes are those of the atoms
    lengths = (totals.log()[:, None] / 3 + torch.randn(3000, 3, generator=rng) @ spread.T).exp()
    lengths[:, 0] *= torch.randn(3000, generator=rng).mul(0.1).exp()
    crystals = CrystalBatch(species, torch.zeros(len(species), 3), torch.diag_embed(lengths), sizes)
    cell = BaseDistribution.fit(crystals, "by_volume").cell
    assert isinstance(cell, CellByVolume)
    assert cell.atomic_volume == pytest.approx({"Li": 12.0, "O": 9.0, "Sr": 35.0}, rel=0.03)
    assert cell.other_volume == pytest.approx(float(totals.sum() / sizes.sum()), rel=0.02)
    expected = spread @ spread.T + torch.diag(torch.tensor([0.01, 0.0, 0.0]))
    factor = torch.tensor(cell.log_ratio_factor)
    assert float((factor @ factor.T - expected).abs().max()) < 0.003


def test_lattices_by_volume_are_more_likely_than_informed_ones_where_sizes_differ():
    rng = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, 40, (500,), generator=rng)
    lengths = (15.0 * sizes).pow(1 / 3)[:, None] * torch.randn(500, 3, generator=rng).mul(0.1).exp()
    crystals = CrystalBatch(
        torch.full((int(sizes.sum()),), 14), torch.rand(int(sizes.sum()), 3), torch.diag_embed(lengths), sizes
    )
    near = []
    for kind in ("informed", "by_volume"):
        _, cell = BaseDistribution.fit(crystals, kind).draw(crystals.species, crystals.layout, generator("likely"))
        near.append(float((cell_parameters(cell)[0].log() - lengths.log()).square().mean()))
    # Differences of two independent draws: of all sizes, or of the same atoms.
    assert near[1] == pytest.approx(2 * 0.01, rel=0.2) and near[0] > 2.5 * near[1]


def test_descriptions_by_volume_are_read_again():
    base = BaseDistribution(cell=BY_VOLUME)
    assert BaseDistribution.model_validate(json.loads(base.model_dump_json())) == base
    with pytest.raises(ValidationError, match="other_volume"):
        BaseDistribution.model_validate({"cell": BY_VOLUME.model_dump() | {"other_volume": 0.0}})
    with pytest.raises(ValidationError, match="Zz"):
        BaseDistribution.model_validate({"cell": BY_VOLUME.model_dump() | {"atomic_volume": {"Zz": 8.0}}})
    with pytest.raises(ValidationError, match="atomic_volume"):
        BaseDistribution.model_validate({"cell": BY_VOLUME.model_dump() | {"atomic_volume": {"O": -8.0}}})
