"""Gradients of rewards against finite differences, in float64 and in skewed periodic cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.errors import RewardError
from omatg_ray.reward.build import build_scorers
from omatg_ray.reward.built_in import OPTIONS
from omatg_ray.reward.energy import MatGLEnergy, squeeze, squeeze_slope
from omatg_ray.reward.gradient import Gradient
from omatg_ray.reward.hull import EnergyAboveHull, Hull
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.reward.protocol import REWARD, Once, Reward, RewardResult, has_gradient
from omatg_ray.reward.settings import RewardSettings
from omatg_ray.reward.target import Target
from omatg_ray.reward.weighted import Weighted

H = 1e-6
IMAGES = torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 3).double()


class Pairs:
    """A smooth pair potential over periodic images in float64, with derivatives from autograd by r and ε."""

    elements, fingerprint, name = frozenset({6, 8}), "pairs", "pairs"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def require_elements(self, elements: Iterable[int]) -> None:
        assert self.elements.issuperset(elements)

    def energy(self, crystals: CrystalBatch, shift: Tensor, strain: Tensor) -> Tensor:
        energies = []
        for b, (first, n) in enumerate(zip(crystals.ptr.tolist(), crystals.layout.sizes, strict=False)):
            atoms = slice(first, first + n)
            stretch = torch.eye(3).double() + strain[b]
            r = crystals.pos[atoms] @ crystals.cell[b] @ stretch + shift[atoms]
            apart = r[:, None, None] - r[None, :, None] + IMAGES @ crystals.cell[b] @ stretch
            squares = apart.square().sum(-1)
            energies.append(self.scale * (torch.exp(-squares / 4) * (squares > 1e-9)).sum())
        return torch.stack(energies)

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True) -> Tensor:
        return self.energy(crystals, torch.zeros_like(crystals.pos), torch.zeros_like(crystals.cell))

    def gradients(
        self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        shift, strain = torch.zeros_like(crystals.pos), torch.zeros_like(crystals.cell)
        shift.requires_grad_(), strain.requires_grad_()
        energy = self.energy(crystals, shift, strain)
        by_shift, by_strain = torch.autograd.grad(energy.sum(), (shift, strain))
        return energy.detach(), -by_shift, by_strain


def skewed() -> CrystalBatch:
    """Three crystals in cells without any right angle, with atoms across the boundaries."""
    rng = torch.Generator().manual_seed(3)
    sizes = [2, 3, 4]
    cells = 4.0 * torch.eye(3).double() + 0.8 * torch.randn(3, 3, 3, generator=rng, dtype=torch.float64)
    grid = torch.tensor([[0.02, 0.01, 0.97], [0.5, 0.52, 0.46], [0.03, 0.5, 0.5], [0.5, 0.02, 0.02]]).double()
    pos = torch.cat([grid[:n] for n in sizes])
    species = torch.tensor([6, 8, 6, 6, 8, 8, 6, 8, 6])
    return CrystalBatch(species, pos + 0.03 * torch.rand(9, 3, generator=rng).double(), cells, torch.tensor(sizes))


def assert_differentiates(reward: Reward, crystals: CrystalBatch, rel: float = 1e-5) -> RewardResult:
    """Compare the gradient with central differences along random directions of positions and lattices."""
    result = reward.with_gradient(crystals)  # type: ignore[attr-defined]
    gradient = result.gradients[REWARD]
    plain = reward(crystals)
    torch.testing.assert_close(result.reward, plain.reward, rtol=1e-12, atol=1e-12)
    rng = torch.Generator().manual_seed(1)
    for field in ("pos", "cell"):
        direction = torch.randn(getattr(crystals, field).shape, generator=rng, dtype=torch.float64)

        def moved(by: float, field: str = field, direction: Tensor = direction) -> Tensor:
            pos, cell = crystals.pos, crystals.cell
            if field == "pos":
                pos = pos + by * direction
            else:
                cell = cell + by * direction
            return reward(crystals.replace(pos, cell)).reward

        expected = (moved(H) - moved(-H)) / (2 * H)
        products = getattr(gradient, field) * direction
        found = crystals.layout.sum(products.sum(1)) if field == "pos" else products.sum((1, 2))
        torch.testing.assert_close(found, expected, rtol=rel, atol=1e-7)
    return cast("RewardResult", result)


def energy(scale: float = 1.0, **options: float | bool) -> MatGLEnergy:
    return MatGLEnergy(cast(Potential, Pairs(scale)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0], ids=["below the knee", "around it", "far above"])
def test_energy(scale: float) -> None:
    assert_differentiates(energy(scale), skewed())


def test_uncapped_energy() -> None:
    assert_differentiates(energy(20.0, cap=False), skewed())


def test_slope_of_the_squeeze() -> None:
    values = torch.linspace(-2, 9, 200, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(squeeze(values, 3.0).sum(), values)
    torch.testing.assert_close(squeeze_slope(values.detach(), 3.0), expected)


def hull_of() -> Hull:
    return Hull([(((6, 1.0),), 0.4), (((8, 1.0),), 0.1)])


def test_hull() -> None:
    """The hull's energy depends on the composition alone."""
    assert_differentiates(EnergyAboveHull(energy(2.0), hull_of()), skewed())


@pytest.mark.parametrize("name", ["volume", "density"])
def test_target(name: str) -> None:
    assert_differentiates(Target(name, 3.0, 2.0), skewed())


class Flat:
    """A reward without a gradient."""

    name, elements = "flat", None

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        return RewardResult(crystals.n_atoms.double(), {})


def test_a_sum_adds_the_gradients_there_are() -> None:
    crystals = skewed()
    shared = Once(energy(2.0))
    parts: dict[str, tuple[float, Reward]] = {
        "energy": (0.7, shared),
        "hull": (0.2, EnergyAboveHull(shared, hull_of())),
        "volume": (3.0, Target("volume", 3.0, 2.0)),
    }
    result = assert_differentiates(Weighted(parts), crystals)
    assert result.rest is not None and not result.rest.any()
    mixed = Weighted({**parts, "flat": (0.5, Flat()), "watched": (0.0, Flat())})
    other = mixed.with_gradient(crystals)
    torch.testing.assert_close(other.rest, 0.5 * crystals.n_atoms.double())
    torch.testing.assert_close(other.gradients[REWARD].pos, result.gradients[REWARD].pos)
    torch.testing.assert_close(other.reward, result.reward + 0.5 * crystals.n_atoms)


def test_energies_that_are_only_watched_are_not_computed_twice() -> None:
    potential = Pairs()
    calls = list[str]()
    for name in ("energies", "gradients"):
        method = getattr(potential, name)
        setattr(potential, name, lambda *a, name=name, method=method, **k: (calls.append(name), method(*a, **k))[1])
    shared = Once(MatGLEnergy(cast(Potential, potential)))
    parts: dict[str, tuple[float, Reward]] = {
        "energy": (0.0, shared),
        "hull": (1.0, EnergyAboveHull(shared, hull_of())),
    }
    result = Weighted(parts).with_gradient(skewed())
    assert calls == ["gradients"] and next(iter(result.values)) == "energy"


def test_relaxed_energies_refuse_to_be_differentiated() -> None:
    with pytest.raises(RewardError, match="relax_steps"):
        energy(relax_steps=2).with_gradient(skewed())


def test_what_a_reward_says_of_its_gradient_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would be learned from twice, or not at all."""
    settings = RewardSettings.model_validate({"weights": {"density": 1.0}, "density": {"target": 2.5}})
    known = CrystalDataset(skewed(), ["a", "b", "c"], [{}, {}, {}])
    assert has_gradient(build_scorers(settings, known, ()).reward.parts["density"][1])  # type: ignore[union-attr]
    monkeypatch.setattr(OPTIONS["density"], "has_gradient", False)
    with pytest.raises(RewardError, match="reward density: `Options.has_gradient` is False, but .* offers one"):
        build_scorers(settings, known, ())


def test_a_lattice_without_an_inverse_has_no_gradient() -> None:
    crystals = skewed()
    crystals.cell[1] = 0.0
    gradient = Gradient(torch.ones(9, 3).double(), torch.ones(3, 3, 3).double())
    assert gradient.size(crystals).isfinite().tolist() == [True, False, True]
    limited = gradient.limited(1.0, crystals)
    assert not limited.cell[1].any() and bool(limited.cell[0].any()) and bool(limited.pos.isfinite().all())


def test_who_offers_a_gradient() -> None:
    assert has_gradient(energy()) and has_gradient(Once(energy())) and has_gradient(Target("volume", 3.0, 1.0))
    assert not has_gradient(energy(relax_steps=2)) and not has_gradient(Flat())
    assert not has_gradient(EnergyAboveHull(energy(relax_steps=2), hull_of()))
    assert not has_gradient(Weighted({"flat": (1.0, Flat()), "energy": (0.0, energy())}))
    assert has_gradient(Weighted({"flat": (1.0, Flat()), "energy": (0.1, energy())}))


def test_invalid_and_failed_crystals_have_no_gradient(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Pairs):
        def gradients(
            self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
        ) -> tuple[Tensor, Tensor, Tensor]:
            if 4 in crystals.layout.sizes:
                raise RuntimeError("too large")
            return super().gradients(crystals, chunk_edges)

    crystals = skewed()
    pos = crystals.pos.clone()
    pos[1] = pos[0]  # overlapping atoms in the first
    broken = crystals.replace(pos, crystals.cell)
    result = MatGLEnergy(cast(Potential, Fails())).with_gradient(broken)
    gradient = result.gradients[REWARD]
    assert result.reward[0] == -3.0 and result.reward[2].isnan() and "too large" in caplog.text
    assert not gradient.pos[:2].any() and not gradient.pos[5:].any() and bool(gradient.pos[2:5].any())
    assert not gradient.cell[[0, 2]].any() and bool(gradient.cell[1].any())
    whole = energy().with_gradient(crystals).gradients[REWARD]
    torch.testing.assert_close(gradient.pos[2:5], whole.pos[2:5])


def test_size_depends_neither_on_axes_nor_on_the_number_of_cells() -> None:
    crystals, reward = skewed().select([1]), energy(cap=False)
    size = reward.with_gradient(crystals).gradients[REWARD].size(crystals)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    turned = crystals.replace(crystals.pos, crystals.cell @ turn)
    doubled = CrystalBatch(
        crystals.species.repeat(2),
        torch.cat(
            [
                crystals.pos * torch.tensor([0.5, 1, 1]),
                (crystals.pos + torch.tensor([1.0, 0, 0])) * torch.tensor([0.5, 1, 1]),
            ]
        ),
        crystals.cell * torch.tensor([[2.0], [1], [1]]),
        2 * crystals.n_atoms,
    )
    for other in (turned, doubled):
        found = reward.with_gradient(other).gradients[REWARD].size(other)
        torch.testing.assert_close(
            found, size, rtol=1e-3 if other is doubled else 1e-10, atol=0
        )  # images end at 2 cells
    _, forces, virial = Pairs().gradients(crystals)
    n = len(crystals.species)
    expected = (forces.square().sum(1).mean() + (virial / n).square().sum()).sqrt()
    torch.testing.assert_close(size[0], expected)


def test_a_factor_of_zero_clears_what_is_not_finite() -> None:
    crystals = skewed()
    gradient = Gradient(torch.full((9, 3), torch.nan), torch.ones(3, 3, 3))
    cleared = gradient.times(torch.tensor([0.0, 0.0, 0.0]), crystals.layout)
    assert not cleared.pos.any() and not cleared.cell.any()


def test_the_bundled_potential() -> None:
    """In float32: along the steepest direction, where rounding matters least."""
    reward, crystals = MatGLEnergy(load_potential("bundled")), skewed()
    oxide = torch.where(crystals.species == 6, 12, 8)
    crystals = CrystalBatch(oxide, crystals.pos, 1.1 * crystals.cell, crystals.n_atoms)
    gradient = reward.with_gradient(crystals).gradients[REWARD]
    for field in ("pos", "cell"):
        steepest = getattr(gradient, field)
        flat = steepest.flatten(1) if field == "cell" else steepest
        norm = (crystals.layout.sum(flat.square().sum(1)) if field == "pos" else flat.square().sum(1)).sqrt()
        each = norm[crystals.batch][:, None] if field == "pos" else norm[:, None, None]
        h = 2e-3
        step = h * steepest / each
        states = {"pos": crystals.pos, "cell": crystals.cell}
        plus, minus = (reward(crystals.replace(**states | {field: states[field] + s * step})).reward for s in (1, -1))
        torch.testing.assert_close((plus - minus) / (2 * h), norm, rtol=2e-2, atol=2e-3)


def test_a_crystal_with_too_many_neighbours_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Where a site's own images do not count, a flat cell is valid; 39 GB were needed for such a one."""
    grid = torch.cartesian_prod(torch.zeros(1), torch.arange(8) / 8, torch.arange(8) / 8).double()
    flat = torch.diag(torch.tensor([0.01, 10.0, 10.0])).double()[None]
    cubic = CrystalBatch(torch.tensor([55, 17]), torch.tensor([[0.0] * 3, [0.5] * 3]).double(),
                         4.1 * torch.eye(3).double()[None], torch.tensor([2]))  # fmt: skip
    crystals = CrystalBatch.cat([cubic, CrystalBatch(torch.full((64,), 8), grid, flat, torch.tensor([64])), cubic])
    result = MatGLEnergy("bundled", own_images=False).with_gradient(crystals)
    assert result.reward.isnan().tolist() == [False, True, False] and result.values["valid"].tolist() == [1, 1, 1]
    assert float(result.reward[0]) == pytest.approx(float(result.reward[2]), abs=1e-6)
    gradient = result.gradients[REWARD]
    assert gradient.cell[0].any() and not gradient.cell[1].any() and not gradient.pos[2:66].any()
    assert "structure 1 (O64): MemoryError" in caplog.text


def test_a_reward_may_withdraw_the_offer() -> None:
    class Sometimes(Target):
        has_gradient = False

    assert not has_gradient(Sometimes("volume", 3.0, 1.0))
    with pytest.raises(RewardError):
        Weighted({})
