"""The contract of every reward, as a test for rewards of your own."""

from __future__ import annotations

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.protocol import Reward, RewardResult, checked

TOLERANCE = 1e-5
"""Allowed change of a reward with the rest of the batch, relative to its size or 1: rounding in float32."""
# Rocksalt, perovskite, diamond and hexagonal close packing: atomic numbers, fractional positions, lattice in Å.
ROCKSALT = [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
CASES = (
    ([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], 5.64 * torch.tensor(ROCKSALT)),
    (
        [38, 22, 8, 8, 8],
        [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]],
        3.9 * torch.eye(3),
    ),
    ([6, 6], [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]], 3.57 * torch.tensor(ROCKSALT)),
    (
        [12, 12],
        [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
        torch.tensor([[3.21, 0.0, 0.0], [-1.605, 2.78, 0.0], [0.0, 0.0, 5.21]]),
    ),
)


def made_up_crystals() -> CrystalBatch:
    """Return NaCl, SrTiO3, diamond and magnesium, then SrTiO3 with its atoms displaced at random."""
    cells = [CrystalBatch(torch.tensor(z), torch.tensor(x), c[None], torch.tensor([len(z)])) for z, x, c in CASES]
    noise = 0.02 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    return CrystalBatch.cat([*cells, cells[1].replace(pos=(cells[1].pos + noise) % 1.0)])


def check_reward(reward: Reward, crystals: CrystalBatch | None = None) -> None:
    """Run a reward on a few crystals and check that it meets the contract.

    A reward gives one real number per structure, which float64 holds exactly (`checked`, as in runs). It is not NaN for
    all structures and infinite for none. It does not depend on the rest of the batch or on the order. It leaves the
    crystals unchanged, and covers all elements.

    Args:
        reward: An instance of your class.
        crystals: Crystals to score; by default those made-up ones that hold only its `elements`.

    Raises:
        RewardError: The reward breaks the contract; says what is wrong.

    Example:
        >>> from my_rewards import Flat                     # doctest: +SKIP
        >>> check_reward(Flat(axis=2))                      # doctest: +SKIP
    """
    name = getattr(reward, "name", type(reward).__name__)
    elements = getattr(reward, "elements", None)
    own_crystals = crystals is not None
    crystals = made_up_crystals() if crystals is None else crystals
    if elements is not None:
        foreign = [not elements.issuperset(numbers) for numbers in crystals.atomic_numbers]
        if own_crystals and any(foreign):
            raise RewardError(f"reward {name}: its `elements` do not cover {crystals.formulas()[foreign.index(True)]}")
        crystals = crystals.select([row for row, out in enumerate(foreign) if not out])
        if not own_crystals and len(crystals) < 2:
            raise RewardError(
                f"reward {name}: fewer than two of the made-up crystals hold only its `elements`; pass check_reward "
                "crystals of your own"
            )
    before = crystals.select(range(len(crystals)))
    whole = _score(reward, name, crystals)
    if not all(torch.equal(getattr(crystals, field), getattr(before, field)) for field in ("species", "pos", "cell")):
        raise RewardError(f"reward {name}: it changes the crystals passed to it; work on copies")
    if whole.reward.isnan().all():
        raise RewardError(f"reward {name}: it is NaN for every crystal")
    if (infinite := whole.reward.isinf()).any():
        formula = crystals.formulas()[int(infinite.nonzero()[0, 0])]
        raise RewardError(f"reward {name}: it is infinite for {formula}; return a number, or NaN if there is none")
    backwards = _score(reward, name, crystals.select(list(reversed(range(len(crystals))))))
    alone = [_score(reward, name, crystals.select([row])) for row in range(len(crystals))]
    for key, numbers in {"reward": whole.reward, **whole.values}.items():
        _compare(name, key, numbers, _column(backwards, key).flip(0), crystals, "the order of the batch")
        columns = torch.cat([_column(result, key) for result in alone])
        _compare(name, key, numbers, columns, crystals, "the batch it comes in")


def _score(reward: Reward, name: str, crystals: CrystalBatch) -> RewardResult:
    try:
        returned: object = reward(crystals)
    except Exception as error:
        formulas = ", ".join(crystals.formulas())
        hint = "; if it does not cover an element, declare so in `elements`" if isinstance(error, LookupError) else ""
        raise RewardError(f"reward {name}: raised {type(error).__name__}: {error} on {formulas}{hint}") from error
    return checked(name, returned, len(crystals))


def _column(result: RewardResult, key: str) -> torch.Tensor:
    missing = torch.full_like(result.reward, torch.nan)
    return result.reward if key == "reward" else result.values.get(key, missing)


def _compare(
    name: str, key: str, first: torch.Tensor, second: torch.Tensor, crystals: CrystalBatch, on_what: str
) -> None:
    close = torch.isclose(first, second, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if not close.all():
        row = int((~close).nonzero()[0, 0])
        raise RewardError(
            f"reward {name}: {key} depends on {on_what}: {float(first[row]):g} and {float(second[row]):g} for the same "
            f"{crystals.formulas()[row]}"
        )
