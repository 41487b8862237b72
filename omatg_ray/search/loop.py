"""The rounds of a search: sample, relax, keep what differs, learn."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from omatg_ray.crystal.validity import check_validity
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.search.archive import Archive
from omatg_ray.search.sampler import FixedSampler

BETTER = 1e-3
"""eV/atom by which a new best crystal has to be lower to count as better."""
WITH_GRADIENT = 3
"""What an energy with its gradients counts as, in evaluations of an energy."""


@dataclass
class Course:
    """How the search of a formula goes.

    Attributes:
        cells: Atomic numbers of its cells, one for each z.
        samples: Samples so far.
        invalid: Those that were no valid crystal, or that the potential could not relax.
        evaluations: Energies computed so far; one with gradients counts three.
        seconds: Spent on it so far.
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


class SearchLoop:
    """Search of several formulas that share one sampler.

    Args:
        formulas: Atomic numbers of the cells of each formula.
        sampler: Makes crystals.
        energy: Relaxes them.
        relax: Most steps of a relaxation.
        batch: Samples of each formula in a round.
        block: Crystals relaxed together.
    """

    def __init__(
        self,
        formulas: Mapping[str, Sequence[Sequence[int]]],
        sampler: FixedSampler,
        energy: MatGLEnergy,
        relax: int,
        batch: int,
        block: int = BLOCK,
    ) -> None:
        self.courses = {formula: Course(cells) for formula, cells in formulas.items()}
        self.sampler, self.energy, self.relax = sampler, energy, relax
        self.batch, self.block = batch, block
        self.archive = Archive()

    @property
    def evaluations(self) -> int:
        return sum(course.evaluations for course in self.courses.values())

    @property
    def most_for_one(self) -> int:
        """Return the most evaluations that one sample may take."""
        return WITH_GRADIENT * (self.relax + 1)

    def unfinished(self, patience: int) -> list[str]:
        """Return the formulas for which something better came within the last `patience` samples."""
        return [name for name, course in self.courses.items() if course.samples - course.at < patience]

    def round(self, formulas: Sequence[str], most: int | None = None) -> None:
        """Sample every one of these formulas, at most `most` crystals in all; learn from them.

        Raises:
            DataError: The network does not know an element.
            TrainingError: The loss of an update is not finite.
        """
        # Formula, and number of the sample; formulas take turns, so that a small budget is shared.
        asked = [(name, self.courses[name].samples + turn) for turn in range(self.batch) for name in formulas][:most]
        places = {formula: place for place, formula in enumerate(self.courses)}
        species, indices, turns = [], [], []
        for formula, number in asked:
            cells = self.courses[formula].cells
            species.append(list(cells[number % len(cells)]))
            # Identities do not depend on which formulas are still searched.
            turns.append(number // len(cells))
            indices.append(number * len(places) + places[formula])
        start = time.perf_counter()
        crystals = self.sampler.generate(species, indices, turns)
        relaxed = relax_all(crystals, self.energy, self.relax, self.block)
        energies = relaxed.energy / relaxed.crystals.n_atoms
        rows = energies.isfinite().nonzero().squeeze(1)
        found, energy = relaxed.crystals.select(rows), energies[rows]
        self.archive.add(found, energy, relaxed.converged[rows], [asked[row][1] + 1 for row in rows.tolist()])
        self.sampler.learn(found.to("cpu", torch.float32), energy)
        taken = (relaxed.steps + 1).where(energies.isfinite(), self.relax + 1)  # a potential that fails costs, too
        spent = WITH_GRADIENT * taken.where(check_validity(crystals).valid, 0)
        self._note(asked, energies.tolist(), spent.tolist(), time.perf_counter() - start)

    def _note(
        self, asked: Sequence[tuple[str, int]], energies: Sequence[float], spent: Sequence[int], seconds: float
    ) -> None:
        of_round: dict[str, list[int]] = {}
        for row, (formula, _) in enumerate(asked):
            of_round.setdefault(formula, []).append(row)
        for formula, rows in of_round.items():
            course = self.courses[formula]
            for row in rows:
                course.samples += 1
                course.evaluations += spent[row]
                if not math.isfinite(energies[row]):
                    course.invalid += 1
                    continue
                if energies[row] < course.best - BETTER:
                    course.at = course.samples
                course.best = min(course.best, energies[row])
            course.seconds += seconds * len(rows) / len(asked)
            course.history.append((course.samples, course.evaluations, course.seconds, course.best))
