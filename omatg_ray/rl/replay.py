"""Replay of the best crystals known and found, as ends of the flow.

It begins with the training crystals, if asked for. Every visit of a composition adds its best members, relaxed if
asked for. Those that differ are kept, composition by composition, and the flow is matched to them as pretraining
matches it to known crystals. So the policy learns which basin to choose, from energies alone, without noise and without
probabilities of actions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.flow.examples import Examples, draw_examples
from omatg_ray.flow.settings import PathSettings
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.fingerprint import distances_between, fingerprints
from omatg_ray.reward.protocol import Reward, reward_of_known
from omatg_ray.rl.settings import ReplaySettings
from omatg_ray.rl.work import take_in_turn
from omatg_ray.seeding import generator, seed_of

SAME = 0.02
"""Two crystals of a composition count as one below this distance of their radial distribution functions."""


TENSORS = ("species", "pos", "cell", "n_atoms")
"""Tensors of a batch of crystals."""
Cell = tuple[int, ...]
"""Atomic numbers of a cell, ascending."""


@dataclass(frozen=True)
class Best:
    """The best members of some groups.

    Attributes:
        crystals: N crystals, float32, on the CPU.
        reward: Their rewards (N,), float64.
    """

    crystals: CrystalBatch
    reward: Tensor


@dataclass(frozen=True)
class Ranked:
    """Known crystals that their energies rank.

    Attributes:
        crystals: N crystals, on the CPU.
        energy: Their energies (N,) in eV/atom, float64.
    """

    crystals: CrystalBatch
    energy: Tensor

    def by_cell(self) -> dict[Cell, _RankedCell]:
        """Return what tells the crystals of a cell again, and their ranks."""
        sorted_in = _by_cell([Best(self.crystals.to("cpu", torch.float32), -self.energy)])
        return {key: _RankedCell(fingerprints(best.crystals), best.reward) for key, best in sorted_in.items()}


@dataclass(frozen=True)
class _RankedCell:
    """The known crystals of a cell.

    Attributes:
        prints: Their fingerprints (n, bins).
        rank: Minus their energies (n,), in eV/atom.
    """

    prints: Tensor
    rank: Tensor


def best_of(
    crystals: CrystalBatch,
    rewards: Tensor,
    members: int,
    settings: ReplaySettings,
    reward: Reward,
    energy: MatGLEnergy | None,
) -> Best:
    """Return the best members of each group, relaxed if the settings say so; invalid crystals are never among them.

    Args:
        crystals: Groups of `members` consecutive crystals.
        rewards: Their rewards (B,), NaN where there is none; those of relaxed crystals are computed here.
        members: Size of a group.
        settings: How many, and how long to relax.
        reward: The reward of the run.
        energy: Relaxes; needed if the settings ask for it.
    """
    crystals = crystals.to("cpu")
    sound = (check_validity(crystals).valid & rewards.isfinite()).nonzero().squeeze(1)
    found, scores = crystals.select(sound), rewards[sound]
    if settings.relax and len(sound):
        assert energy is not None, "a relaxation needs a potential"
        found = energy.relaxed(found, settings.relax).crystals
        scores = reward_of_known(reward, found).reward
        lasting = (check_validity(found).valid & scores.isfinite()).nonzero().squeeze(1)
        found, scores, sound = found.select(lasting), scores[lasting], sound[lasting]
    groups, taken, rows = (sound // members).tolist(), Counter[int](), list[int]()
    for row in scores.argsort(descending=True, stable=True).tolist():
        if taken[groups[row]] < settings.keep:
            taken[groups[row]] += 1
            rows.append(row)
    rows.sort()
    return Best(found.select(rows).to("cpu", torch.float32), scores[rows])


class Replay:
    """The distinct best crystals of every composition, and what an update learns from them.

    Args:
        settings: How many are kept and drawn.
        base: Distribution of x_0.
        paths: Paths of the flow.
        acts_from: Earliest time of an example.
        seed: Seed of the run.
        ranked: Known crystals, if their energies rank them in place of their rewards.
    """

    def __init__(
        self,
        settings: ReplaySettings,
        base: BaseDistribution,
        paths: PathSettings,
        acts_from: float,
        seed: int,
        ranked: Ranked | None = None,
    ) -> None:
        self.settings, self._base, self._paths, self._acts_from, self._seed = settings, base, paths, acts_from, seed
        self._kept: dict[Cell, Best] = {}
        self._fingerprints: dict[Cell, Tensor] = {}
        self._offset: dict[Cell, float] = {}
        self._ranked = {} if ranked is None else ranked.by_cell()

    def __len__(self) -> int:
        return sum(len(best.reward) for best in self._kept.values())

    @property
    def kept(self) -> Mapping[Cell, Best]:
        """Return what is kept of each cell, the best first."""
        return dict(self._kept)

    @property
    def reward(self) -> float:
        """Return the mean reward of the best crystal of each composition; NaN if there is none."""
        best = [float(kept.reward[0]) for kept in self._kept.values()]
        return sum(best) / len(best) if best else math.nan

    def begin(self, known: CrystalBatch, reward: Tensor) -> None:
        """Take in known crystals, those that are valid and have a reward.

        If energies rank them, what is found later of a composition is compared with the lowest known crystal by the
        difference of their rewards.

        Args:
            known: B crystals.
            reward: Their rewards (B,), NaN where there is none.
        """
        rows = (check_validity(known).valid & reward.isfinite()).nonzero().squeeze(1)
        found = Best(known.select(rows).to("cpu", torch.float32), reward[rows])
        for key, best in _by_cell([found]).items():
            if (ranked := self._ranked.get(key)) is None:
                self._merge(key, best)
                continue
            of_known = distances_between(fingerprints(best.crystals), ranked.prints).argmin(1)
            self._merge(key, Best(best.crystals, ranked.rank[of_known]))
            lowest = int(ranked.rank[of_known].argmax())
            self._offset[key] = float(ranked.rank[of_known[lowest]] - best.reward[lowest])

    def add(self, found: Iterable[Best]) -> None:
        """Take in what an iteration has found: of crystals that are the same, the better one is kept.

        Copies of known crystals that energies rank are left out: their rewards would overrule these.
        """
        for key, best in _by_cell(found).items():
            if (ranked := self._ranked.get(key)) is not None:
                nearest = distances_between(fingerprints(best.crystals), ranked.prints).amin(1)
                rows = (nearest > SAME).nonzero().squeeze(1)
                best = Best(best.crystals.select(rows), best.reward[rows])
            if len(best.reward):
                self._merge(key, Best(best.crystals, best.reward + self._offset.get(key, 0.0)))

    def _merge(self, key: Cell, new: Best) -> None:
        prints = fingerprints(new.crystals)
        if (old := self._kept.get(key)) is not None:
            new = Best(CrystalBatch.cat([old.crystals, new.crystals]), torch.cat([old.reward, new.reward]))
            prints = torch.cat([self._fingerprints[key], prints])
        distance = distances_between(prints, prints)
        rows: list[int] = []
        for row in new.reward.argsort(descending=True, stable=True).tolist():
            if len(rows) < self.settings.keep and all(distance[row, other] > SAME for other in rows):
                rows.append(row)
        self._kept[key] = Best(new.crystals.select(rows), new.reward[rows])
        self._fingerprints[key] = prints[rows]

    def examples(self, turn: int) -> Examples:
        """Return the examples of an update: of compositions in turn, a crystal each.

        Compositions with a single crystal say nothing about which to choose, so they are left out unless there are no
        others. Within a composition a crystal is drawn with the weight exp((R − R_best) / T), R its reward.

        Args:
            turn: Number of the update.

        Raises:
            ValueError: Nothing is kept yet.
        """
        if not self._kept:
            raise ValueError("the replay is empty")
        every = [self._kept[key] for key in sorted(self._kept)]
        kept = [best for best in every if len(best.reward) > 1] or every
        chosen = take_in_turn(len(kept), turn, self.settings.crystals, self._seed, "replay")
        drawn = generator(self._seed, "replayed", turn)
        crystals = []
        for row in chosen:
            weights = boltzmann(kept[row].reward, self.settings.temperature)
            crystals.append(kept[row].crystals.select(torch.multinomial(weights, 1, generator=drawn)))
        seeds = [seed_of(self._seed, "replay example", turn, place) for place in range(len(chosen))]
        return draw_examples(CrystalBatch.cat(crystals), seeds, self._base, self._paths, self._acts_from)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is kept, as tensors."""
        if not self._kept:
            return {}
        state = as_tensors(list(self._kept.values()))
        if self._offset:
            offset = [[self._offset.get(key, 0.0)] * len(best.reward) for key, best in self._kept.items()]
            state["offset"] = torch.tensor([value for values in offset for value in values], dtype=torch.float64)
        return {name: value.contiguous() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._kept, self._fingerprints, self._offset = {}, {}, {}
        if not state:
            return
        kept = from_tensors(state)
        for key, best in _by_cell([kept]).items():
            self._merge(key, best)
        if "offset" in state:
            keys = map(_cell, kept.crystals.atomic_numbers)
            self._offset = dict(zip(keys, state["offset"].tolist(), strict=True))


def as_tensors(found: Sequence[Best]) -> dict[str, Tensor]:
    """Return crystals (at least one batch) and their rewards as tensors, in order."""
    crystals = CrystalBatch.cat(best.crystals for best in found)
    state = {name: getattr(crystals, name) for name in TENSORS}
    return state | {"reward": torch.cat([best.reward for best in found])}


def from_tensors(state: Mapping[str, Tensor]) -> Best:
    """Return what `as_tensors` was given, as one."""
    return Best(CrystalBatch(*(state[name] for name in TENSORS)), state["reward"])


def _cell(numbers: Iterable[int]) -> Cell:
    return tuple(sorted(numbers))


def _by_cell(found: Iterable[Best]) -> dict[Cell, Best]:
    """Sort crystals by their atoms."""
    rows: dict[Cell, list[tuple[CrystalBatch, Tensor]]] = {}
    for best in found:
        for row, numbers in enumerate(best.crystals.atomic_numbers):
            rows.setdefault(_cell(numbers), []).append((best.crystals.select([row]), best.reward[row]))
    return {
        key: Best(CrystalBatch.cat(crystals for crystals, _ in each), torch.stack([reward for _, reward in each]))
        for key, each in rows.items()
    }


def boltzmann(reward: Tensor, temperature: float) -> Tensor:
    """Return the weights (N,) of crystals with these rewards: exp(R / T) over its sum; at T = 0 all is the best's."""
    if temperature == 0.0:
        return torch.nn.functional.one_hot(reward.argmax(), len(reward)).double()
    return torch.softmax(reward / temperature, 0)
