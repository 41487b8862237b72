"""`omatg-ray search`: the ground state of a formula, by samples that are relaxed and learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

from omatg_ray.commands.rank import Judges, RankOptions, rank_valid, who_says
from omatg_ray.commands.ranked import AS_GENERATED, RankedCrystals
from omatg_ray.commands.relax import relaxation
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.formula import cell_species, reduced_composition
from omatg_ray.crystal.standard_crystal import SYMPREC
from omatg_ray.errors import ConfigError, DataError
from omatg_ray.evaluate.cases import model_fingerprint
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.model.checks import recovery_of, refuse_unseen, warn_ineffective
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import UNGUIDED
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.interrupt import StopRequest
from omatg_ray.run.location import BUNDLED, Location
from omatg_ray.run.progress import Progress
from omatg_ray.search.archive import Distinct
from omatg_ray.search.convergence import Convergence, suspected_hole
from omatg_ray.search.loop import BLOCK, Course, SearchLoop, Work
from omatg_ray.search.phases import Phases
from omatg_ray.search.sampler import FixedSampler, LearningSampler, RandomSampler
from omatg_ray.search.state import load_state, save_state
from omatg_ray.train.backend import evaluation_backend
from omatg_ray.train.options import SamplingOptions

Method = Literal["reinforce", "sample", "random"]
METHODS: Mapping[str, Callable[[FlowModel, int], FixedSampler]] = {
    "reinforce": LearningSampler,
    "sample": FixedSampler,
    "random": RandomSampler,
}
"""Sampler of each method, of the model to begin with and the seed."""
STATE: Final = "state"
"""Folder of a search that holds what it continues from."""
SAMPLER: Final = "sampler"
"""Folder of the model that it learned."""
FORMAT: Final = "omatg_ray.search.3"


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SamplingOptions):
    """A search.

    Attributes:
        formulas: Chemical formulas, each of another composition.
        z: Formula units per cell; samples of a formula take turns with them.
        method: `reinforce`: the sampler learns from what was found; `sample`: it stays as it is; `random`: crystals of
            random space groups, without the model.
        relax: Most relaxation steps of every sample.
        batch: Samples of each formula in a round.
        block: Crystals generated and relaxed together, each block by one actor if there are several.
        minutes: Time after which no further round begins; None: no limit.
        evaluations: Most evaluations of the energy; one with gradients counts three. None: no limit.
        patience: Samples of a formula without a better one after which it is left.
        within: eV/atom above the best of its composition up to which crystals are compared and listed.
        second_potential: Potential that judges what is learned from and what is listed, too: name, folder or bundled.
        phases: Crystals of competing phases, one of each element among them; what is listed gets `above_hull`.
        symprec: Tolerance in Å of space groups.
        folder: Where the state of the search is kept after every round; None keeps nothing.
        resume: Go on from the state in `folder`.
    """

    formulas: tuple[str, ...]
    z: tuple[int, ...] = (1,)
    method: Method = "reinforce"
    relax: int = 100
    batch: int = 16
    block: int = BLOCK
    minutes: float | None = None
    evaluations: int | None = None
    patience: int = 128
    within: float = 0.2
    second_potential: str | None = None
    phases: Location | None = None
    symprec: float = SYMPREC
    folder: Path | None = None
    resume: bool = False


@dataclass(frozen=True)
class Found:
    """What a search has found.

    Attributes:
        ranked: Distinct crystals up to `within` above the best of their composition; `copies` says how often each was
            found, and `first_sample` by which sample of its formula, from 1, first in that cell.
        convergence: How often they were found, by formula.
        holes: Formulas whose lowest energy lies so far below all others that it may be a hole of the potential.
    """

    ranked: RankedCrystals
    convergence: Mapping[str, Convergence]
    holes: tuple[str, ...]


def search(formulas: str | Sequence[str], potential: str | Path = BUNDLED, **options: Any) -> Search:
    """Search the ground state of formulas. Iterate over the result to search, round by round.

    Args:
        formulas: A formula, or several.
        potential: Name or folder of a MatGL potential, or "bundled".
        options: Other attributes of `SearchOptions`: `model` ("bundled"), `z`, `minutes`, `evaluations`, ...

    Raises:
        ConfigError: Two formulas are of one composition, or the budget is too small for one sample.
        FormulaError: A formula cannot be parsed.
        ModelError: The model cannot be read, was never trained on an element, or generates the species itself.
        PotentialError: The potential cannot be loaded or does not know an element.

    Example:
        >>> tio2 = search("TiO2", z=(1, 2), minutes=5)                # doctest: +SKIP
        >>> for courses in tio2:                                      # doctest: +SKIP
        ...     print(courses["TiO2"].best)
        >>> tio2.found().ranked.crystals.to_structures()[0]           # doctest: +SKIP
    """
    named = (formulas,) if isinstance(formulas, str) else tuple(formulas)
    return Search(SearchOptions(**{"model": BUNDLED, **options}, formulas=named, potential=str(potential)))


def run_search(options: SearchOptions, progress: bool = False) -> Search:
    """Search until nothing better comes, the budget ends or the user stops it; keep the sampler in the folder.

    Raises:
        As `search`; DataError: nothing valid was found.
    """
    found = Search(options, progress)
    with StopRequest("this round") as stop:
        for _ in found:
            if stop.requested:
                break
    found.learn()
    if options.folder is not None and options.method != "random":
        with replace_folder(options.folder / SAMPLER) as folder:
            found.model.save(folder)
    return found


class Search:
    """A search that goes on while one iterates over it, and continues where it was when one iterates again.

    Actors, if there are any, end with the iteration: at its end, by `break`, or by `close()` of the iterator.

    Args:
        options: The search.
        progress: Show progress.

    Raises:
        As `search`; ConfigError: the folder holds no search to resume, or one with other options.
    """

    def __init__(self, options: SearchOptions, progress: bool = False) -> None:
        _refuse_unusable(options)
        self.options, self.progress = options, progress
        cells = _cells(options)
        species = [cell for each in cells.values() for cell in each]
        device = options.prepare()
        start = FlowModel.load(options.model, device)
        start.require_given_species()
        models = {} if options.method == "random" else {str(options.model): start}
        if models:
            refuse_unseen(start, options.model, {formula: each[0] for formula, each in cells.items()})
            warn_ineffective(start, [options.sampling])
        elements = frozenset(number for cell in species for number in cell)
        self.judges = Judges.load(options.potential, options.second_potential, elements, device)
        energy = self.judges.first
        assert energy is not None, "a search needs a potential"
        self._energy = energy
        self.trained = trained_on(models, [energy, self.judges.second])
        warn_outside(models, self.trained, species, "cells")
        self._recovery = recovery_of(start, options.model, map(len, species)) if models else ""
        self._fingerprint = model_fingerprint(start)
        self._sampler = METHODS[options.method](start, options.seed)
        work = Work(options.sampling, options.relax, options.batch, options.block, options.chunk_pairs)
        self._loop = SearchLoop(cells, self._sampler, work, self.judges.second)
        _refuse_small_budget(options, work.most_for_one)
        if options.resume:
            if options.folder is None:
                raise ConfigError("resume: name the folder of the search to go on with")
            load_state(Path(options.folder) / STATE, self._loop, self._identity())
        self._phases = None if options.phases is None else Phases.load(options.phases, energy, elements, progress)
        self._running = False

    @property
    def model(self) -> FlowModel:
        """Return the sampler as it is now; it learns from a round when the next one begins, or by `learn`."""
        return self._sampler.model

    def learn(self) -> None:
        """Let the sampler learn from the last round, unless it has; the state in the folder stays as it is.

        Raises:
            TrainingError: The loss of an update is not finite.
        """
        self._loop.learn()

    @property
    def courses(self) -> Mapping[str, Course]:
        """Return how far the search of each formula is."""
        return self._loop.courses

    def __iter__(self) -> Iterator[Mapping[str, Course]]:
        """Search, and yield after every round how far the search of each formula is.

        Raises:
            TrainingError: The loss of an update is not finite.
            DiskError: The state cannot be written.
            ClusterError: There is no Ray cluster, it has no room, or nothing is left of it.
            ConfigError: Another iteration has not ended.
        """
        if self._running:
            raise ConfigError("this search is iterated over already; close that iterator first")
        self._running = True
        try:
            yield from self._rounds()
        finally:
            self._running = False

    def _rounds(self) -> Iterator[Mapping[str, Course]]:
        options = self.options
        samples = sum(course.samples for course in self.courses.values())
        alone = replace(options, workers=0)  # nothing is matched before the end
        with (
            evaluation_backend(alone, self._sampler.start, self._energy, self.progress) as backend,
            Progress(None, "search, samples", samples, shown=self.progress) as bar,
        ):
            begin = time.monotonic()
            rounds = self._loop.run(backend.evaluate, options.patience, options.evaluations)
            while options.minutes is None or time.monotonic() - begin <= 60.0 * options.minutes:
                if next(rounds, None) is None:
                    return
                if options.folder is not None:
                    save_state(options.folder / STATE, self._loop, self._identity())
                done = sum(course.samples for course in self.courses.values())
                lowest = {name: f"{course.best:.3f}" for name, course in list(self.courses.items())[:4]}
                bar.advance({"evaluations": str(self._loop.evaluations), **lowest}, done - samples)
                samples = done
                yield self.courses

    def found(self) -> Found:
        """Compare and rank what was found so far.

        Raises:
            DataError: Nothing was found yet.
        """
        options = self.options
        if not any(course.samples for course in self.courses.values()):
            raise DataError("the search has done no round yet; give it more minutes, or iterate over it")
        if not len(self._loop.archive):
            raise DataError("the search found no valid crystal yet; give it more samples, more steps or another model")
        every = self._loop.archive.all
        asked = {reduced_composition(formula): formula for formula in self.courses}
        formulas = [asked[reduced_composition(text)] for text in every.crystals.formulas()]
        energies = every.energy.tolist()
        near = [
            energy <= self.courses[formula].best + options.within
            for formula, energy in zip(formulas, energies, strict=True)
        ]
        unique, properties = self._rank(every, formulas, [row for row, listed in enumerate(near) if listed])
        ranked = RankedCrystals(
            unique,
            properties,
            sum(course.samples for course in self.courses.values()),
            sum(course.invalid for course in self.courses.values()),
            options.relax,
            *who_says(self.trained),
            symprec=options.symprec,
            recovery=self._recovery,
        )
        counts: dict[str, list[int]] = {}
        distinct: dict[str, list[float]] = {}
        for row in properties:
            counts.setdefault(row["formula"], []).append(row["copies"])
            distinct.setdefault(row["formula"], []).append(row["energy_per_atom"])
        for formula, energy, listed in zip(formulas, energies, near, strict=True):
            if not listed:
                distinct[formula].append(energy)
        return Found(
            ranked,
            {formula: Convergence.of(each) for formula, each in counts.items()},
            tuple(formula for formula, each in distinct.items() if suspected_hole(each)),
        )

    def _rank(
        self, every: Distinct, formulas: Sequence[str], near: Sequence[int]
    ) -> tuple[CrystalBatch, list[dict[str, Any]]]:
        """Return the distinct ones of these rows, best first, in the order in which formulas were asked for."""
        options = self.options
        places = {formula: place for place, formula in enumerate(self.courses)}
        rows = sorted(near, key=lambda row: places[formulas[row]])
        crystals = every.crystals.select(rows)
        of_model: dict[str, Any] = {
            "model": str(options.model),
            "steps": options.sampling.steps,
            "noise": options.sampling.noise,
            **({} if options.sampling.guidance == UNGUIDED else {"guidance": repr(options.sampling.guidance)}),
        }
        about: dict[str, Any] = {
            "method": options.method,
            **(of_model if options.method != "random" else {}),
            **self.judges.names,
            "seed": options.seed,
        }
        course = [
            relaxation(float(every.energy[row]), bool(every.converged[row])) if options.relax else AS_GENERATED
            for row in rows
        ]
        unique, properties = rank_valid(
            crystals,
            every.energy[rows],
            [
                (formulas[row], self._units(formulas[row], len(numbers)))
                for row, numbers in zip(rows, crystals.atomic_numbers, strict=True)
            ],
            [
                {**about, "relaxation": relaxed, "first_sample": int(every.first[row])}
                for row, relaxed in zip(rows, course, strict=True)
            ],
            self.judges,
            self.trained,
            RankOptions(symprec=options.symprec, workers=options.workers, timeout=options.timeout),
            every.count[rows].tolist(),
        )
        if self._phases is not None:
            above = self._phases.above_hull(unique, [row["energy_per_atom"] for row in properties])
            properties = [{**row, "above_hull": value} for row, value in zip(properties, above, strict=True)]
        return unique, properties

    def _units(self, formula: str, atoms: int) -> int:
        return self.options.z[0] * atoms // len(self.courses[formula].cells[0])

    def _identity(self) -> dict[str, Any]:
        """Return what may not change when a search is resumed."""
        options = self.options
        return {
            "format": FORMAT,
            "formulas": list(options.formulas),
            "z": list(options.z),
            "method": options.method,
            **({} if options.method == "random" else {"model": self._fingerprint, "sampling": repr(options.sampling)}),
            "potential": self._energy.potential.fingerprint,
            "relax": options.relax,
            "batch": options.batch,
            "block": options.block,
            "chunk_pairs": options.chunk_pairs,
            "second_potential": None if self.judges.second is None else self.judges.second.potential.fingerprint,
            "seed": options.seed,
        }


def _cells(options: SearchOptions) -> dict[str, list[list[int]]]:
    """Return the atomic numbers of the cells of each formula.

    Raises:
        FormulaError: A formula cannot be parsed.
        ConfigError: Two are of one composition.
    """
    seen: dict[frozenset[tuple[str, int]], str] = {}
    for formula in options.formulas:
        first = seen.setdefault(reduced_composition(formula), formula)
        if first != formula or options.formulas.count(formula) > 1:
            raise ConfigError(
                f"{first} and {formula} are one composition; give one of them, and formula units with --z"
            )
    return {formula: [cell_species(formula, z) for z in options.z] for formula in options.formulas}


def _refuse_unusable(options: SearchOptions) -> None:
    """Refuse options that mean nothing.

    Raises:
        ConfigError: Names one.
    """
    if options.method not in get_args(Method):
        raise ConfigError(f"method: {options.method!r} is none; choose {' or '.join(get_args(Method))}")
    if not options.formulas:
        raise ConfigError("formulas: name at least one")
    if not isinstance(options.z, tuple) or not options.z:
        raise ConfigError(f"z: {options.z!r} is no tuple of formula units; write (1, 2)")
    for name, least in (("batch", 1), ("block", 1), ("patience", 1), ("relax", 0), ("within", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"{name}: {getattr(options, name)} is too small; give {least} or more")
    if options.minutes is not None and options.minutes <= 0:
        raise ConfigError(f"minutes: {options.minutes} is no time; give more than 0")
    folder = options.folder
    if folder is not None and not options.resume and (Path(folder) / STATE).exists():
        raise ConfigError(f"folder: there is a search in {folder}; set resume to go on, or name another folder")


def _refuse_small_budget(options: SearchOptions, most_for_one: int) -> None:
    """Refuse a budget that is too small for one sample.

    Raises:
        ConfigError: Says how much one takes.
    """
    if options.evaluations is not None and options.evaluations < most_for_one:
        raise ConfigError(
            f"--evaluations {options.evaluations}: relaxing one sample takes up to {most_for_one} "
            f"(an energy, and {options.relax + 1} with gradients, which count three each); give more, or lower --relax"
        )
