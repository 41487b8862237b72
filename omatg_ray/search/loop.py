"""The rounds of a search: sample, relax, keep what differs, learn.

Formulas that share a sampler work in two shifts: it learns from a round of one while actors work on a round of the
other. Which version of the sampler makes which round is fixed by their order alone, so that any number of actors, and
a search that goes on from a saved state, find the same.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.evaluate.backend import Block, EvaluationBackend, Measured
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.settings import CHUNK_PAIRS
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.search.archive import Archive
from omatg_ray.search.sampler import FixedSampler

BETTER = 1e-3
"""eV/atom by which a new best crystal has to be lower to count as better."""
WITH_GRADIENT = 3
"""What an energy with its gradients counts as, in evaluations of an energy."""
BLOCK = 8
"""Crystals generated and relaxed together, by one actor if there are several."""
SHIFTS = 2
"""Rounds that are worked on at the same time."""
ASKED = 8
"""Crystals of a cell, the lowest new ones of a round, about which a second potential is asked."""


@dataclass
class Course:
    """How the search of a formula goes.

    Attributes:
        cells: Atomic numbers of its cells, one for each z.
        samples: Samples so far.
        invalid: Those that were no valid crystal, or that the potential could not relax.
        evaluations: Energies of the first potential computed so far; one with gradients counts three.
        seconds: Spent on it so far, without what the caller does between rounds.
        best: Lowest energy, in eV/atom; infinite before there is one.
        at: Sample, from 1, that last lowered it by `BETTER`.
        history: After each of its rounds: samples, evaluations, seconds, best.
    """

    cells: Sequence[Sequence[int]]
    samples: int = 0
    invalid: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    best: float = math.inf
    at: int = 0
    history: list[tuple[int, int, float, float]] = field(default_factory=list)


Plan = list[tuple[str, int]]
"""Samples of a round: formulas, and the numbers of the samples among those of their formula, from 0."""


@dataclass(frozen=True)
class Work:
    """How samples are made and relaxed.

    Attributes:
        sampling: How they are generated.
        relax: Most steps of a relaxation.
        batch: Samples of each formula in a round.
        block: Crystals generated and relaxed together.
        chunk_pairs: Ordered pairs of atoms per network call.
    """

    sampling: Sampling
    relax: int
    batch: int
    block: int = BLOCK
    chunk_pairs: int = CHUNK_PAIRS

    @property
    def most_for_one(self) -> int:
        """Return the most evaluations that one sample may take: its energy, and energies with gradients."""
        return 1 + (WITH_GRADIENT * (self.relax + 1) if self.relax else 0)


@dataclass(frozen=True)
class _Round:
    """A round that is being worked on.

    Attributes:
        rows: Places in its plan of the crystals that come, in order.
        blocks: The crystals, as they come.
    """

    rows: Sequence[int]
    blocks: Iterable[Iterator[Measured]]


@dataclass(frozen=True)
class _Relaxed:
    """B samples of a round, in the order of its plan.

    Attributes:
        crystals: As they were relaxed.
        energy: In eV/atom (B,), NaN where there is none.
        converged: Whether they rest (B,), bool.
        spent: Evaluations that each took (B,).
    """

    crystals: CrystalBatch
    energy: Tensor
    converged: Tensor
    spent: Tensor


class SearchLoop:
    """Search of several formulas that share one sampler.

    Args:
        formulas: Atomic numbers of the cells of each formula.
        sampler: Makes crystals.
        work: How it makes them, and how they are relaxed.
        second: Another potential: the sampler learns from its energies, so that holes of the first do not lead.
        shifts: Rounds that are worked on at the same time.

    Attributes:
        plans: Rounds that are being worked on, the next to end first.
        unlearned: Whether the sampler has not learned yet from the last round.
    """

    def __init__(
        self,
        formulas: Mapping[str, Sequence[Sequence[int]]],
        sampler: FixedSampler,
        work: Work,
        second: MatGLEnergy | None = None,
        shifts: int = SHIFTS,
    ) -> None:
        self.courses = {formula: Course(cells) for formula, cells in formulas.items()}
        self.sampler, self.work, self._second, self._shifts = sampler, work, second, shifts
        self.archive = Archive()
        self.plans: list[Plan] = []
        self.unlearned = False

    @property
    def evaluations(self) -> int:
        return sum(course.evaluations for course in self.courses.values())

    def run(
        self, backend: EvaluationBackend, patience: int = 2**63, evaluations: int | None = None
    ) -> Iterator[Mapping[str, Course]]:
        """Search; yield after every round, where the state is one to go on from.

        Args:
            backend: Generates and relaxes.
            patience: A formula is left after so many samples without a better one.
            evaluations: Most evaluations of energies.

        Raises:
            DataError: The network does not know an element.
            TrainingError: The loss of an update is not finite.
        """
        since = time.perf_counter()
        restored, self.plans = self.plans, []
        for plan in restored:
            self.plans.append(plan[: self._room(evaluations)])
        rounds = deque(self._begin(backend, plan) for plan in self.plans)
        while True:
            self.learn()
            while len(rounds) < self._shifts:
                plan = self._plan(patience, evaluations)
                rounds.append(self._begin(backend, plan))
                self.plans.append(plan)
            if not any(self.plans):
                return
            if self.plans[0]:
                relaxed = self._collect(rounds[0])
                self._note(self.plans[0], relaxed, time.perf_counter() - since)
            done = self.plans.pop(0)
            rounds.popleft()
            if done:
                self.unlearned = True
                yield self.courses
                since = time.perf_counter()

    def learn(self) -> None:
        """Let the sampler learn from the last round, unless it has.

        Raises:
            TrainingError: The loss of an update is not finite.
        """
        if self.unlearned:
            self.sampler.learn()
            self.unlearned = False

    def _room(self, evaluations: int | None) -> int | None:
        """Return for how many samples there is room beside those that are worked on; None: for any number."""
        if evaluations is None:
            return None
        coming = sum(map(len, self.plans))
        return max(0, (evaluations - self.evaluations) // self.work.most_for_one - coming)

    def _plan(self, patience: int, evaluations: int | None) -> Plan:
        """Plan a round: of formulas for which something better came lately, those that no other round has, shared out.

        Formulas take turns, so that a small budget is shared.
        """
        busy = {formula for plan in self.plans for formula, _ in plan}
        left = [
            formula
            for formula, course in self.courses.items()
            if course.samples - course.at < patience and formula not in busy
        ]
        names = left[:: self._shifts - sum(map(bool, self.plans))]
        turns = range(self.work.batch)
        return [(name, self.courses[name].samples + turn) for turn in turns for name in names][
            : self._room(evaluations)
        ]

    def _begin(self, backend: EvaluationBackend, plan: Plan) -> _Round:
        places = {formula: place for place, formula in enumerate(self.courses)}
        cells = [self.courses[formula].cells for formula, _ in plan]
        turns = [number // len(of) for (_, number), of in zip(plan, cells, strict=True)]
        kinds = [number % len(of) for (_, number), of in zip(plan, cells, strict=True)]
        # Identities do not depend on which formulas are still searched.
        indices = [number * len(places) + places[formula] for formula, number in plan]

        def block(rows: Sequence[int]) -> Block:
            return Block(
                species=[list(cells[row][kinds[row]]) for row in rows],
                indices=[indices[row] for row in rows],
                sampling=self.work.sampling,
                seed=self.sampler.seed,
                chunk_pairs=self.work.chunk_pairs,
                relax=self.work.relax,
                turns=[turns[row] for row in rows],
            )

        order, streams, size = [], [], self.work.block
        for model, of_model in self.sampler.models(turns):
            # Blocks of cells that are alike.
            rows = sorted(of_model, key=lambda row: (places[plan[row][0]], kinds[row], turns[row]))
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            streams.append(backend.measure(model, list(map(block, parts))))
            order += rows
        return _Round(order, streams)

    def _collect(self, finished: _Round) -> _Relaxed:
        parts = [self._relaxed(block) for stream in finished.blocks for block in stream]
        order = torch.tensor(finished.rows).argsort()
        return _Relaxed(
            CrystalBatch.cat(part.crystals for part in parts).select(order),
            torch.cat([part.energy for part in parts])[order],
            torch.cat([part.converged for part in parts])[order],
            torch.cat([part.spent for part in parts])[order],
        )

    def _relaxed(self, block: Measured) -> _Relaxed:
        found, valid = block.found, check_validity(block.crystals).valid.to("cpu")
        if found.relaxed is None:
            assert found.energy is not None, "a search needs a potential"
            crystals = block.crystals.to("cpu", torch.float64)
            return _Relaxed(crystals, found.energy, torch.zeros_like(valid), valid.long())
        relaxed = found.relaxed
        taken = relaxed.steps.nan_to_num(self.work.relax).long() + 1  # a potential that fails costs, too
        spent = (1 + WITH_GRADIENT * taken).where(valid, 0)
        return _Relaxed(relaxed.crystals, relaxed.energy, relaxed.converged, spent)

    def _note(self, plan: Plan, relaxed: _Relaxed, seconds: float) -> None:
        rows = relaxed.energy.isfinite().nonzero().squeeze(1)
        found, energy = relaxed.crystals.select(rows), relaxed.energy[rows]
        new = self.archive.add(found, energy, relaxed.converged[rows], [plan[row][1] + 1 for row in rows.tolist()])
        self.sampler.take(*self._judged(found.select(new), energy[new]))
        of_round: dict[str, list[int]] = {}
        for row, (formula, _) in enumerate(plan):
            of_round.setdefault(formula, []).append(row)
        energies, spent = relaxed.energy.tolist(), relaxed.spent.tolist()
        for formula, samples in of_round.items():
            course = self.courses[formula]
            for row in samples:
                course.samples += 1
                course.evaluations += spent[row]
                if not math.isfinite(energies[row]):
                    course.invalid += 1
                    continue
                if energies[row] < course.best - BETTER:
                    course.at = course.samples
                course.best = min(course.best, energies[row])
            course.seconds += seconds * len(samples) / len(plan)
            course.history.append((course.samples, course.evaluations, course.seconds, course.best))

    def _judged(self, crystals: CrystalBatch, energy: Tensor) -> tuple[CrystalBatch, Tensor]:
        """Return what is learned from, with its energies: with a second potential the lowest of each cell, by that."""
        if self._second is None or not len(crystals):
            return crystals, energy
        taken: dict[tuple[int, ...], list[int]] = {}
        for row in energy.argsort().tolist():
            taken.setdefault(tuple(sorted(crystals.atomic_numbers[row])), []).append(row)
        asked = crystals.select(sorted(row for of in taken.values() for row in of[:ASKED]))
        judged = self._second(asked).values["energy_per_atom"].to("cpu")
        known = judged.isfinite().nonzero().squeeze(1)
        return asked.select(known), judged[known]
