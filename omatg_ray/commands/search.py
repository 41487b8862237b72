"""`omatg-ray search`: the ground state of a formula, by samples that are relaxed and learned from."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omatg_ray.commands.rank import Judges, RankOptions, rank_valid, who_says
from omatg_ray.commands.ranked import AS_GENERATED, RankedCrystals
from omatg_ray.commands.relax import relaxation
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
from omatg_ray.run.location import BUNDLED
from omatg_ray.run.progress import Progress
from omatg_ray.search.convergence import Convergence, suspected_hole
from omatg_ray.search.loop import Course, SearchLoop
from omatg_ray.search.sampler import FixedSampler, LearningSampler
from omatg_ray.train.options import SamplingOptions

Method = Literal["reinforce", "sample"]
STATE: Final = "state"
"""Folder of a search that holds what it continues from."""
SAMPLER: Final = "sampler"
"""Folder of the model that it learned."""
FORMAT: Final = "omatg_ray.search.1"


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SamplingOptions):
    """A search.

    Attributes:
        formulas: Chemical formulas, each of another composition.
        z: Formula units per cell; samples of a formula take turns with them.
        method: `reinforce`: the sampler learns from what was found; `sample`: it stays as it is.
        relax: Most relaxation steps of every sample.
        batch: Samples of each formula between two updates of the sampler.
        minutes: Time after which no further round begins; None: no limit.
        evaluations: Most evaluations of the energy; one with gradients counts three. None: no limit.
        patience: Samples of a formula without a better one after which it is left.
        within: eV/atom above the best of its composition up to which crystals are compared and listed.
        second_potential: Potential that judges the listed crystals too: name, folder or bundled.
        symprec: Tolerance in Å of space groups.
        folder: Where the state of the search is kept after every round; None keeps nothing.
        resume: Go on from the state in `folder`.
    """

    formulas: tuple[str, ...]
    z: tuple[int, ...] = (1,)
    method: Method = "reinforce"
    relax: int = 100
    batch: int = 16
    minutes: float | None = None
    evaluations: int | None = None
    patience: int = 128
    within: float = 0.2
    second_potential: str | None = None
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
    if options.folder is not None:
        with replace_folder(options.folder / SAMPLER) as folder:
            found.model.save(folder)
    return found


class Search:
    """A search that goes on while one iterates over it.

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
        refuse_unseen(start, options.model, {formula: each[0] for formula, each in cells.items()})
        warn_ineffective(start, [options.sampling])
        elements = frozenset(number for cell in species for number in cell)
        self.judges = Judges.load(options.potential, options.second_potential, elements, device)
        energy = self.judges.first
        assert energy is not None, "a search needs a potential"
        self.trained = trained_on({str(options.model): start}, [energy, self.judges.second])
        warn_outside({str(options.model): start}, self.trained, species, "cells")
        self._recovery = recovery_of(start, options.model, map(len, species))
        self._fingerprint = model_fingerprint(start)
        kind = LearningSampler if options.method == "reinforce" else FixedSampler
        self._sampler = kind(start, options.sampling, options.seed, options.chunk_pairs)
        self._loop = SearchLoop(cells, self._sampler, energy, options.relax, options.batch, options.block)
        _refuse_small_budget(options, self._loop.most_for_one)
        if options.resume:
            self._load()

    @property
    def model(self) -> FlowModel:
        """Return the sampler as it is now."""
        return self._sampler.model

    @property
    def courses(self) -> Mapping[str, Course]:
        """Return how far the search of each formula is."""
        return self._loop.courses

    def __iter__(self) -> Iterator[Mapping[str, Course]]:
        """Search, and yield after every round how far the search of each formula is.

        Raises:
            TrainingError: The loss of an update is not finite.
            DiskError: The state cannot be written.
        """
        begin, options = time.monotonic(), self.options
        samples = sum(course.samples for course in self.courses.values())
        with Progress(None, "search, samples", samples, shown=self.progress) as bar:
            while (formulas := self._loop.unfinished(options.patience)) and self._room() != 0:
                if options.minutes is not None and time.monotonic() - begin > 60.0 * options.minutes:
                    return
                self._loop.round(formulas, self._room())
                if options.folder is not None:
                    self._save(options.folder / STATE)
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
        if not len(self._loop.archive):
            raise DataError("the search found no valid crystal yet; give it more samples, more steps or another model")
        all_ = self._loop.archive.all
        asked = {reduced_composition(formula): formula for formula in self.courses}
        formulas = [asked[reduced_composition(text)] for text in all_.crystals.formulas()]
        best = {formula: course.best for formula, course in self.courses.items()}
        near = [
            row
            for row, (formula, energy) in enumerate(zip(formulas, all_.energy.tolist(), strict=True))
            if energy <= best[formula] + options.within
        ]
        # In the order in which formulas were asked for, as those of `generate`.
        places = {formula: place for place, formula in enumerate(self.courses)}
        rows = sorted(near, key=lambda row: places[formulas[row]])
        crystals = all_.crystals.select(rows)
        about: dict[str, Any] = {
            "model": str(options.model),
            "method": options.method,
            "steps": options.sampling.steps,
            "noise": options.sampling.noise,
            **({} if options.sampling.guidance == UNGUIDED else {"guidance": repr(options.sampling.guidance)}),
            **self.judges.names,
            "seed": options.seed,
        }
        unique, properties = rank_valid(
            crystals,
            all_.energy[rows],
            [
                (formulas[row], self._units(formulas[row], len(numbers)))
                for row, numbers in zip(rows, crystals.atomic_numbers, strict=True)
            ],
            [
                {
                    **about,
                    "relaxation": relaxation(float(all_.energy[row]), bool(all_.converged[row]))
                    if options.relax
                    else AS_GENERATED,
                    "first_sample": int(all_.first[row]),
                }
                for row in rows
            ],
            self.judges,
            self.trained,
            RankOptions(symprec=options.symprec, workers=options.workers, timeout=options.timeout),
            all_.count[rows].tolist(),
        )
        samples = sum(course.samples for course in self.courses.values())
        invalid = sum(course.invalid for course in self.courses.values())
        ranked = RankedCrystals(
            unique,
            properties,
            samples,
            invalid,
            options.relax,
            *who_says(self.trained),
            symprec=options.symprec,
            recovery=self._recovery,
        )
        counts: dict[str, list[int]] = {}
        for row in properties:
            counts.setdefault(row["formula"], []).append(row["copies"])
        listed = set(near)
        energies: dict[str, list[float]] = {formula: [] for formula in counts}
        for one in properties:
            energies[one["formula"]].append(one["energy_per_atom"])
        for place, energy in enumerate(all_.energy.tolist()):
            if place not in listed:
                energies[formulas[place]].append(energy)
        return Found(
            ranked,
            {formula: Convergence.of(each) for formula, each in counts.items()},
            tuple(formula for formula, each in energies.items() if suspected_hole(each)),
        )

    def _units(self, formula: str, atoms: int) -> int:
        return self.options.z[0] * atoms // len(self.courses[formula].cells[0])

    def _room(self) -> int | None:
        """Return how many samples the budget of evaluations still has room for; None: no limit."""
        if self.options.evaluations is None:
            return None
        return max(0, self.options.evaluations - self._loop.evaluations) // self._loop.most_for_one

    def _identity(self) -> dict[str, Any]:
        """Return what may not change when a search is resumed."""
        options = self.options
        return {
            "format": FORMAT,
            "formulas": list(options.formulas),
            "z": list(options.z),
            "method": options.method,
            "model": self._fingerprint,
            "potential": None if self.judges.first is None else self.judges.first.potential.fingerprint,
            "sampling": repr(options.sampling),
            "relax": options.relax,
            "batch": options.batch,
            "seed": options.seed,
        }

    def _save(self, folder: Path) -> None:
        courses = {name: _as_json(course) for name, course in self.courses.items()}
        text = json.dumps({"search": self._identity(), "courses": courses}, allow_nan=False)
        tensors = {f"archive/{name}": value for name, value in self._loop.archive.state_dict().items()}
        tensors |= {f"sampler/{name}": value for name, value in self._sampler.state_dict().items()}
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replace_folder(folder) as temporary:
            (temporary / "search.json").write_text(text, encoding="utf-8")
            own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
            save_file(own, temporary / "state.safetensors")

    def _load(self) -> None:
        folder = self.options.folder
        if folder is None or not (folder / STATE / "search.json").is_file():
            raise ConfigError(f"--resume: there is no search in {folder}; leave it out to start one")
        try:
            kept = json.loads((folder / STATE / "search.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / STATE / "state.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigError(f"--resume: the state in {folder / STATE} cannot be read: {error}") from error
        now, before = self._identity(), kept["search"]
        changed = [key for key in now if now[key] != before.get(key)]
        if changed:
            said = "; ".join(f"{key}: {before.get(key)} before, {now[key]} now" for key in changed)
            raise ConfigError(f"--resume: the search in {folder} is another one ({said}); give the same options")
        for name, values in kept["courses"].items():
            _restore(self.courses[name], values)
        parts: dict[str, dict[str, Any]] = {"archive": {}, "sampler": {}}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = value
        self._loop.archive.load_state_dict(parts["archive"])
        self._sampler.load_state_dict(parts["sampler"])


def _as_json(course: Course) -> dict[str, Any]:
    """Return all of a course but its cells; JSON lacks infinity, the best energy before there is one."""
    values = {field.name: getattr(course, field.name) for field in dataclasses.fields(course) if field.name != "cells"}
    history = [(*numbers, best if math.isfinite(best) else None) for *numbers, best in course.history]
    return values | {"history": history, "best": course.best if math.isfinite(course.best) else None}


def _restore(course: Course, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(course, name, value)
    course.best = math.inf if values["best"] is None else values["best"]
    course.history = [
        (samples, evaluations, seconds, math.inf if best is None else best)
        for samples, evaluations, seconds, best in values["history"]
    ]


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
    for name, least in (("batch", 1), ("patience", 1), ("relax", 0), ("within", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"{name}: {getattr(options, name)} is too small; give {least} or more")
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
            f"({options.relax + 1} energies with gradients, which count three each); give more, or lower --relax"
        )
