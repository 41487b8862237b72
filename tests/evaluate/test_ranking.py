from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.evaluate.ranking import above_best, in_dispute, opposed
from omatg_ray.reward.matching import Composition, compositions
from tests.small import random_crystals

A, B = compositions(random_crystals([2, 2]))
NAN = math.nan


def energies(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_energies_above_the_lowest_of_each_composition() -> None:
    keys: list[Composition] = [A, B, A, B, A]
    assert above_best(keys, energies(-1.0, -3.0, -1.5, NAN, 0.0)) == [0.5, 0.0, 0.0, None, 1.5]
    assert above_best([A, B], energies(NAN, 1.0)) == [None, 0.0]


@pytest.mark.parametrize("constant", [0.0, 2.5])
def test_a_crystal_that_moves_past_others_is_in_dispute_and_those_that_it_passes_are_too(constant: float) -> None:
    first = energies(0.0, 0.1, 0.2, 0.3, 0.4)
    second = energies(0.35, 0.1, 0.2, 0.3, 0.4) + constant
    assert in_dispute([A] * 5, first, second) == [True, True, True, True, False]


def test_every_pair_is_judged_by_itself() -> None:
    """Two swap by 0.16 and are marked, whatever the others do; two swap by 0.06, and are not."""
    first, second = energies(0.0, 0.08, 1.0, 1.03, 3.0), energies(0.08, 0.0, 1.03, 1.0, 9.0)
    assert in_dispute([A] * 5, first, second) == [True, True, False, False, False]


def test_of_two_crystals_both_are_in_dispute_or_none() -> None:
    assert in_dispute([A] * 2, energies(0.0, 0.05), energies(0.1, 0.0)) == [True, True]
    assert in_dispute([A] * 2, energies(0.0, 0.04), energies(0.04, 0.0)) == [False, False]


def test_an_order_that_changes_by_little_or_differences_that_change_no_order_are_no_dispute() -> None:
    assert not any(in_dispute([A] * 3, energies(0.0, 0.01, 0.5), energies(0.05, 0.0, 0.5)))
    assert not any(in_dispute([A] * 3, energies(0.0, 0.1, 0.2), energies(0.0, 0.5, 1.5)))


def test_compositions_and_unknown_energies_are_kept_apart() -> None:
    keys = [A, B, A, B, A]
    first, second = energies(0.0, 0.3, 0.1, 0.0, NAN), energies(0.4, 0.3, 0.1, 0.0, 0.0)
    assert in_dispute(keys, first, second) == [True, False, True, False, False]
    assert in_dispute([A], energies(0.0), energies(9.0)) == [False]


def test_a_relaxation_that_the_second_potential_pays_for_is_opposed() -> None:
    drop, second = energies(1.4, 1.4, 1.4, 0.0, NAN, 1.4), energies(-1.0, -0.09, 0.2, -0.5, -0.5, NAN)
    assert opposed(drop, second) == [True, False, False, False, False, False]
