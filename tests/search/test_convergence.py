from __future__ import annotations

import pytest
import torch

from omatg_ray.search.convergence import HOLE, Convergence, suspected_hole


def test_counts_give_the_estimates_of_their_formulas() -> None:
    found = Convergence.of([5, 2, 1, 1, 1])
    assert (found.samples, found.best, found.distinct, found.once, found.twice) == (10, 5, 5, 3, 1)
    assert found.unseen == pytest.approx(3 * 2 / (2 * 2))
    assert found.new == pytest.approx(0.3)
    assert Convergence.of([4, 2]).unseen == 0.0
    with pytest.raises(ValueError, match="nothing"):
        Convergence.of([])


def test_unseen_crystals_are_estimated_from_draws() -> None:
    """Sixty draws of forty equally likely crystals: the estimate is near what was in fact not seen."""
    generator, estimated, true, new = torch.Generator().manual_seed(0), 0.0, 0.0, 0.0
    for _ in range(200):
        counts = torch.bincount(torch.randint(40, (60,), generator=generator), minlength=40)
        found = Convergence.of(counts[counts > 0].tolist())
        estimated, true, new = estimated + found.unseen, true + int((counts == 0).sum()), new + found.new
    assert estimated / true == pytest.approx(1.0, abs=0.15)
    # The probability that the next draw is new is the share not seen.
    assert new / (true / 40) == pytest.approx(1.0, abs=0.1)


def test_the_words_say_when_nothing_confirms_the_best() -> None:
    assert "once, so nothing confirms it" in str(Convergence.of([1, 3]))
    said = str(Convergence.of([7, 1]))
    assert "found 7 times; the 8 samples listed are 2 distinct crystals, 1 of them found once" in said
    assert "probability 0.12" in str(Convergence.of([7, 1]))


def test_an_energy_far_below_all_others_is_suspected() -> None:
    assert suspected_hole([-1.0 - HOLE - 0.01, -1.0, 0.0])
    assert not suspected_hole([-1.0 - HOLE + 0.01, -1.0, 0.0])
    assert not suspected_hole([-9.0])
