from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import RewardError
from omatg_ray.reward.contract import check_reward, made_up_crystals
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import Reward, RewardResult, checked
from omatg_ray.reward.symmetry import NonTriclinic
from omatg_ray.reward.target import Target
from omatg_ray.reward.weighted import Weighted
from tests.reward.rewards.user_rewards import Flat, Promises


def test_the_made_up_crystals_are_valid() -> None:
    assert made_up_crystals().formulas() == ["NaCl", "SrTiO3", "C2", "Mg2", "SrTiO3"]
    assert check_validity(made_up_crystals()).valid.all()


@pytest.mark.parametrize("reward", [Flat(), NonTriclinic(0.01), Target("density", 3.0, 1.0), Promises("few")])
def test_good_rewards_pass(reward: Reward) -> None:
    if getattr(reward, "broken", "") == "few":
        check_reward(reward, made_up_crystals().select([0]))
    else:
        check_reward(reward)


@pytest.mark.parametrize(
    "broken, said",
    [
        ("length", r"its reward has shape \(1,\), not \(5,\)"),
        ("values", r"its value 'x' has shape \(1, 5\), not \(5,\)"),
        ("complex", "its reward is no array of real numbers that float64 holds exactly, but torch.complex128"),
        ("huge", "its reward is no array of real numbers that float64 holds exactly, but torch.int64"),
        ("nothing", "its reward is no array of real numbers that float64 holds exactly, but NoneType"),
        ("named values", "its values are list, not a dictionary"),
        ("slash", "a value is called 'a/b'"),
        ("nan", "NaN for every crystal"),
        ("infinite", "infinite for SrTiO3"),
        ("batch", "depends on the batch it comes in: .* for the same NaCl"),
        ("value of the batch", "x depends on the batch"),
        ("order", "depends on the order"),
        ("in place", "changes the crystals"),
        ("key", "raised KeyError: 6 on NaCl, .* `elements`"),
        ("few", "fewer than two of the made-up crystals"),
    ],
)
def test_broken_promises_are_named(broken: str, said: str) -> None:
    with pytest.raises(RewardError, match=f"^reward promises: .*{said}|^reward promises: {said}"):
        check_reward(Promises(broken))


@pytest.mark.parametrize("kind", ["dtype", "half", "integers", "array", "list", "result", "gradient"])
def test_real_numbers_of_any_kind_are_converted_exactly(kind: str) -> None:
    """As in runs: `CustomReward` and `Weighted` convert with the same function."""
    reward, crystals = Promises(kind), made_up_crystals()
    check_reward(reward)
    returned = reward(crystals)
    given = torch.as_tensor(returned.reward if isinstance(returned, RewardResult) else returned, dtype=torch.float64)
    for result in (checked("promises", returned, len(crystals)), Weighted({"promises": (1.0, reward)})(crystals)):
        assert result.reward.dtype == torch.float64 and not result.reward.requires_grad
        assert result.reward.tolist() == given.detach().tolist()


def test_elements_that_are_not_covered() -> None:
    check_reward(Promises("elements"))
    with pytest.raises(RewardError, match="`elements` do not cover SrTiO3"):
        check_reward(Promises("elements"), made_up_crystals())


class Constant:
    """Minus one eV an atom."""

    elements = frozenset({6, 11, 17})

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool) -> torch.Tensor:
        assert self.elements.issuperset(crystals.species.tolist())
        return -crystals.n_atoms.double()


def test_the_energy_keeps_to_it() -> None:
    class Named(MatGLEnergy):
        elements = property(lambda self: Constant.elements)

    check_reward(Named(cast(Any, Constant())))
