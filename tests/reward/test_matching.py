from __future__ import annotations

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import DataError
from omatg_ray.reward.matching import Matcher, MatchSettings, compositions, run_all, to_arrays
from omatg_ray.run.bounded import BoundedPool
from tests.evaluate.comparisons import DIES, HANGS, RAISES, misbehave
from tests.reward.best import best_matches

nan = float("nan")


def simple(*species: int) -> CrystalBatch:
    """One-atom crystals of the elements given."""
    n = len(species)
    return CrystalBatch(torch.tensor(species), torch.zeros(n, 3), 3.0 * torch.eye(3).repeat(n, 1, 1), torch.ones(n))


def rock_salt(a: float = 5.69, shift: float = 0.0) -> Structure:
    """Conventional cell of NaCl; the chlorine sublattice may be displaced by `shift` along x (fractional)."""
    corners = [[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    chlorine = [[x + 0.5 + shift, y, z] for x, y, z in corners]
    return Structure(Lattice.cubic(a), ["Na"] * 4 + ["Cl"] * 4, corners + chlorine)


def caesium_chloride() -> Structure:
    return Structure(Lattice.cubic(4.1), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("workers", [0, 2])
def test_known_pairs(workers: int) -> None:
    # A translated, a uniformly scaled and a primitive copy are the same crystal; another structure type is not.
    moved = rock_salt().translate_sites(range(8), [0.13, 0.2, 0.7])
    others = [moved, rock_salt(6.2), rock_salt().get_primitive_structure(), caesium_chloride()]
    batch = CrystalBatch.from_structures
    with Matcher(workers, 60.0) as matcher:
        result = matcher.pairs(batch(others), batch([rock_salt()] * 4))
    torch.testing.assert_close(result.rmse[:3], torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    assert result.rmse.isnan().tolist() == [False, False, False, True]
    assert (result.timed_out, result.failed) == (0, 0)


def test_rmse_in_closed_form() -> None:
    # Sublattices displaced by d against each other: after the best translation every site is off by d/2.
    shift = 0.04
    expected = 0.5 * shift * 5.69 / (5.69**3 / 8) ** (1 / 3)
    generated = CrystalBatch.from_structures([rock_salt(shift=shift)], dtype=torch.float64)
    reference = CrystalBatch.from_structures([rock_salt()], dtype=torch.float64)
    result = Matcher().pairs(generated, reference)
    assert result.rmse.item() == pytest.approx(expected, abs=1e-6)
    assert Matcher(settings=MatchSettings(stol=0.9 * expected)).pairs(generated, reference).rmse.isnan().all()


def test_only_valid_pairs_of_one_composition_are_compared() -> None:
    squeezed = CrystalBatch(
        torch.tensor([3]), torch.zeros(1, 3), torch.diag(torch.tensor([0.3, 5.0, 5.0]))[None], torch.tensor([1])
    )
    collapsed = CrystalBatch(torch.tensor([3]), torch.zeros(1, 3), torch.zeros(1, 3, 3), torch.tensor([1]))
    lithium, sodium = simple(3), simple(11)
    generated = CrystalBatch.cat([lithium, lithium, squeezed, collapsed, lithium])
    reference = CrystalBatch.cat([lithium, sodium, lithium, lithium, squeezed])
    closed = Matcher(compare=misbehave).pairs(generated, reference)
    assert closed.rmse.nan_to_num(nan=-1.0).tolist() == [1.0, -1.0, -1.0, -1.0, -1.0]
    published = Matcher(own_images=False, compare=misbehave).pairs(generated, reference)
    assert published.rmse.nan_to_num(nan=-1.0).tolist() == [1.0, -1.0, 1.0, -1.0, 1.0]


def test_reduced_compositions_are_a_choice() -> None:
    small, large = simple(3), CrystalBatch(
        torch.tensor([3, 3]), torch.tensor([[0.0, 0, 0], [0.5, 0, 0]]), torch.diag(torch.tensor([6.0, 3, 3]))[None],
        torch.tensor([2])
    )  # fmt: skip
    assert Matcher().pairs(small, large).rmse.item() == pytest.approx(0.0, abs=1e-6)
    assert Matcher(reduced=False).pairs(small, large).rmse.isnan().all()
    mixed = CrystalBatch(torch.tensor([8, 22, 8, 8, 22, 8]), torch.rand(6, 3), torch.eye(3)[None], torch.tensor([6]))
    assert compositions(mixed) == [((8, 2), (22, 1))]
    assert compositions(mixed, reduced=False) == [((8, 4), (22, 2))]


@pytest.mark.parametrize("workers", [0, 2])
def test_hanging_comparison_is_ended_counted_and_named(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    crystals = simple(3, HANGS, RAISES, 4)
    with Matcher(workers, 1.0, compare=misbehave) as matcher:
        result = matcher.pairs(crystals, crystals)
    torch.testing.assert_close(
        result.rmse, torch.tensor([1.0, nan, nan, 1.0], dtype=torch.float64), equal_nan=True, atol=0, rtol=0
    )
    assert (result.timed_out, result.failed) == (1, 1)
    assert "generated 1 and reference 1: took longer than 1 s" in caplog.text
    assert "generated 2 and reference 2: ArithmeticError: no such lattice" in caplog.text


@pytest.mark.processes
def test_worker_that_dies_is_counted_and_the_matcher_goes_on() -> None:
    crystals = simple(3, DIES, 4)
    with Matcher(1, 10.0, compare=misbehave) as matcher:
        result = matcher.pairs(crystals, crystals)
        assert result.rmse.nan_to_num(nan=-1.0).tolist() == [1.0, -1.0, 1.0]
        assert (result.timed_out, result.failed) == (0, 1)
        assert matcher.pairs(simple(5), simple(5)).rmse.tolist() == [1.0]


def test_best_takes_the_closest_of_a_composition() -> None:
    shifts = [0.05, 0.02, 0.08]
    generated = CrystalBatch.from_structures([caesium_chloride(), *(rock_salt(shift=s) for s in shifts)])
    lithium = CrystalBatch.from_structures([Structure(Lattice.cubic(3), ["Li"], [[0, 0, 0]])])
    reference = CrystalBatch.cat([lithium, CrystalBatch.from_structures([rock_salt()])])
    with Matcher() as matcher:
        result = best_matches(matcher, generated, reference)
    assert result.rmse.shape == (2,) and result.rmse[0].isnan()
    assert result.rmse[1].item() == pytest.approx(0.5 * 0.02 * 2.0, abs=1e-5)


def test_a_list_of_pairs() -> None:
    shifted = [rock_salt(shift=0.02), caesium_chloride(), rock_salt(shift=0.08)]
    lithium = Structure(Lattice.cubic(3), ["Li"], [[0, 0, 0]])
    generated = CrystalBatch.from_structures(shifted, dtype=torch.float64)
    reference = CrystalBatch.from_structures([lithium, rock_salt(), caesium_chloride()], dtype=torch.float64)
    result = Matcher().listed(generated, reference, [(2, 1), (1, 1), (1, 0), (0, 1), (1, 2), (0, 2)])
    # Displacements in closed form as above: shift · a / 2 over (V/N)^(1/3) = a / 2.
    expected = torch.tensor([0.08, nan, nan, 0.02, 0.0, nan], dtype=torch.float64)
    torch.testing.assert_close(result.rmse, expected, equal_nan=True, atol=1e-6, rtol=0)
    assert Matcher().listed(generated, reference, []).rmse.shape == (0,)


def test_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(DataError, match="2 generated crystals cannot be matched with 1 references"):
        Matcher().pairs(simple(3, 3), simple(3))


def test_nothing_to_match() -> None:
    with Matcher() as matcher:
        assert matcher.pairs(simple(), simple()).rmse.shape == (0,)
        assert best_matches(matcher, simple(), simple(3)).rmse.isnan().tolist() == [True]


def test_progress_bar_is_shown_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    with BoundedPool(misbehave) as pool:
        arrays = [(one, one, 0.3, 0.5, 10.0) for one in to_arrays(simple(3))]
        assert run_all(pool, arrays, ["one"])[0].value is not None
        assert capfd.readouterr().err == ""
        run_all(pool, arrays, ["one"], "matching")
    assert "matching 1/1" in capfd.readouterr().err
