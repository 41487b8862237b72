"""`omatg-ray check`: what a file of crystals holds, and whether a run, a model and a potential can use it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omatg_ray.assets import crystals
from omatg_ray.crystal.composition import symbol
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import INSIDE, UNKNOWN, Trained, judge, report_outside
from omatg_ray.crystal.file_names import kinds_of
from omatg_ray.crystal.read import OnError, Survey, Unusable, lines, survey
from omatg_ray.crystal.settings import DataSettings
from omatg_ray.crystal.split import Split
from omatg_ray.errors import DataError
from omatg_ray.evaluate.duplicates import COMPARISONS, Duplicates, find_duplicates
from omatg_ray.model.checks import training_of
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.run.location import Location, is_bundled
from omatg_ray.run.storage import local_copy
from omatg_ray.run.text import MOST_NAMED, counted
from omatg_ray.train.splits import SPLITS, split_one
from omatg_ray.train.unknown import keeps, known_to, require_decider, unknown_elements

if TYPE_CHECKING:
    from omatg_ray.reward.potential import Potential

WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The file to check, and what has to be able to use it.

    Attributes:
        data: File, folder, archive or URL of crystals, or bundled: the test split of the bundled ones.
        model: A model that has to know the elements, unless it generates species.
        potential: A potential that has to know them.
        on_error: Whether crystals that cannot be used would be refused, or skipped.
        drop_unknown: Whether crystals with unknown elements would be left out.
        comparisons: Largest number of comparisons in search of duplicates.
        workers: Processes that compare crystals; 0 compares in this one.
        timeout: Seconds that one comparison may take.
    """

    data: Location
    model: Location | None = None
    potential: str | None = None
    on_error: OnError = "refuse"
    drop_unknown: bool = False
    comparisons: int = COMPARISONS
    workers: int = 0
    timeout: float = 10.0


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        options: What was asked for.
        survey: The crystals that can be read, and those that cannot.
        kept: The readable crystals without those that `drop_unknown` leaves out; None if there are none.
        duplicates: Equal ones among them.
        split: How `pretrain` and `train` would split them by default, or the reason why not.
        unknown: Number of readable crystals with each element that is not known, by the name of what does not know it.
        unknown_crystals: Number of readable crystals with an element that is not known.
        unseen_sizes: Number of kept crystals by their atoms per cell, where the model has seen no such cell.
        chooses_elements: Whether the model generates species, so that it has to know none.
        trained: What the model and the potential were trained on.
    """

    options: CheckOptions
    survey: Survey
    kept: CrystalDataset | None
    duplicates: Duplicates
    split: Split | str
    unknown: Mapping[str, dict[str, int]]
    unknown_crystals: int
    unseen_sizes: dict[int, int]
    chooses_elements: bool
    trained: list[Trained]

    @property
    def domain(self) -> list[str]:
        """Whether each kept crystal is in the domain of model and potential (`judge`)."""
        return [] if self.kept is None else [judge(self.trained, cell) for cell in self.kept.crystals.atomic_numbers]

    @property
    def problems(self) -> list[str]:
        """What keeps the file from being used with these options, and the option that would help."""
        unusable, options = self.survey.unusable, self.options
        problems = []
        if unusable and options.on_error == "refuse":
            problems.append(
                f"{counted(len(unusable), 'crystal')} cannot be used (data.on_error=skip, evaluate: --on-error skip, "
                "leaves them out)"
            )
        if self.unknown_crystals and not options.drop_unknown:
            problems.append(
                f"{counted(self.unknown_crystals, 'crystal')} with unknown elements (data.drop_unknown=true, evaluate: "
                "--drop-unknown, leaves them out)"
            )
        if self.kept is None:
            problems.append("no crystal is left")
        return problems

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        survey, kept = self.survey, self.kept
        ids = [] if kept is None else kept.ids
        return {
            "file": str(self.options.data),
            "problems": self.problems,
            "crystals": _count(survey.usable) + len(survey.unusable),
            "usable": _count(survey.usable),
            "unusable": [
                {"where": crystal.where, "reason": crystal.reason, "overlaps": crystal.overlaps}
                for crystal in survey.unusable
            ],
            "doubtful": survey.doubts,
            "files_not_read": survey.left_out,
            "unknown_elements": dict(self.unknown),
            "crystals_with_unknown_elements": self.unknown_crystals,
            "used": _count(kept),
            "compositions": 0 if kept is None else len(set(kept.compositions)),
            "elements": {} if kept is None else _elements(kept),
            "atoms_per_cell": {} if kept is None else _sizes(kept),
            "unseen_atoms_per_cell": self.unseen_sizes,
            "domain": dict(zip(ids, self.domain, strict=True)),
            "duplicates": {
                "of": {ids[row]: ids[first] for row, first in sorted(self.duplicates.of.items())},
                "compared": self.duplicates.compared,
                "not_compared": self.duplicates.left_out,
                "failed_comparisons": self.duplicates.failed,
            },
            "split": self.split
            if isinstance(self.split, str)
            else {
                name: {"crystals": len(part), "compositions": len(set(part.compositions))}
                for name, part in _parts(self.split)
            },
        }


def check(options: CheckOptions, progress: bool = False) -> Check:
    """Read every crystal of a file, and find out what would be refused, left out or warned of.

    Raises:
        ConfigError: Unknown elements are to be left out, and nothing says which these are.
        DataError: The file is missing, unreadable as a whole or of an unknown format.
        ModelError: The model cannot be read.
        PotentialError: The potential cannot be loaded.
        StorageError: The URL of the file cannot be read.
    """
    # What fails within seconds comes before reading, which may take minutes.
    model = None if options.model is None else FlowModel.load(options.model)
    potential = None if options.potential is None else _load_potential(options.potential)
    known = known_to(None, model, options.model) | known_to(potential)
    if options.drop_unknown:
        require_decider(known)
    trained = [] if model is None else [training_of(model, options.model or "")]
    if potential is not None:
        trained.append(Trained(f"potential {potential.name}", potential.domain))
    with local_copy(crystals("test", options.data) if is_bundled(options.data) else options.data) as path:
        found = survey(path, progress=progress)
    usable = found.usable
    unknown = {name: {} if usable is None else unknown_elements(usable, elements) for name, elements in known.items()}
    keep = None if usable is None else keeps(usable, known)
    kept = usable if usable is None or keep is None or not options.drop_unknown else usable.select(keep)
    kept = kept or None
    sizes = {} if kept is None else _sizes(kept)
    seen = [] if model is None else model.description.sizes
    duplicates = Duplicates({}, 0, 0, 0)
    split: Split | str = "no crystals"
    if kept is not None:
        duplicates = find_duplicates(
            kept.crystals, options.comparisons, workers=options.workers, timeout=options.timeout, progress=progress
        )
        try:
            split = split_one(kept, DataSettings())
        except DataError as error:
            split = str(error)
    return Check(
        options,
        found,
        kept,
        duplicates,
        split,
        unknown,
        0 if keep is None else int((~keep).sum()),
        {size: count for size, count in sizes.items() if seen and size not in seen},
        model is not None and model.generates_species,
        trained,
    )


def _load_potential(name: str) -> Potential:
    from omatg_ray.reward.potential import load_potential  # imports MatGL, which takes seconds

    return load_potential(name)


def _count(dataset: CrystalDataset | None) -> int:
    return 0 if dataset is None else len(dataset)


def _elements(dataset: CrystalDataset) -> dict[str, int]:
    counts = Counter(z for cell in dataset.crystals.atomic_numbers for z in set(cell))
    return {symbol(z): counts[z] for z in sorted(counts)}


def _sizes(dataset: CrystalDataset) -> dict[int, int]:
    return dict(sorted(Counter(dataset.crystals.n_atoms.tolist()).items()))


def _parts(split: Split) -> list[tuple[str, CrystalDataset]]:
    return [(name, getattr(split, name)) for name in SPLITS]


# --- text -----------------------------------------------------------------------------------------------------------


def table(found: Check) -> str:
    """Return a short table, at most 80 columns wide, then what cannot be used, and the verdict."""
    rows = [("crystals", _of_crystals(found.survey))]
    if found.survey.left_out:
        files = counted(len(found.survey.left_out), "file")
        rows.append(("not read", f"{files}: {kinds_of(found.survey.left_out)}"))
    if found.survey.doubts:
        rows.append(("doubtful", f"{len(found.survey.doubts)}: {found.survey.doubts[0]}"))
    if found.chooses_elements:
        rows.append(("model", f"{found.options.model}: chooses elements itself"))
    for name, counts in found.unknown.items():
        kind, _, which = name.partition(" ")
        rows.append((kind, f"{which}: {_knows(counts)}"))
    if found.unseen_sizes:
        number = counted(sum(found.unseen_sizes.values()), "crystal")
        sizes = _listed(found.unseen_sizes)
        rows.append(("sizes", f"{number} with cells of a size that the model has not seen: {sizes}"))
    if found.kept is not None:
        if found.options.drop_unknown and found.unknown_crystals:
            rows.append(("left out", f"{found.unknown_crystals} with unknown elements; {len(found.kept)} stay"))
        rows += [("in domain", _of_domain(found, found.kept))] if found.trained else []
        rows += _of_kept(found, found.kept)
    width = max(len(label) for label, _ in rows) + 2
    text = [_wrap(f"{label:<{width}}", value, width) for label, value in rows]
    if found.survey.unusable:
        text += ["", "cannot be used:", *_reasons(found.survey.unusable)]
    left_out = [
        *(["--on-error skip"] if found.survey.unusable else []),
        *(["--drop-unknown"] if found.unknown_crystals else []),
    ]
    verdict = f"it can be used {' '.join(['with', *left_out]) if left_out else 'as it is'}"
    if found.problems:
        verdict = f"it cannot be used as it is: {'; '.join(found.problems)}"
    return "\n".join([*text, "", _wrap("", verdict, 0)])


def _of_crystals(survey: Survey) -> str:
    total = _count(survey.usable) + len(survey.unusable)
    if not survey.unusable:
        return f"{total}, all readable"
    overlaps = sum(crystal.overlaps for crystal in survey.unusable)
    what = f" ({overlaps} with overlapping atoms or a flat cell)" if overlaps else ""
    return f"{total}; {_count(survey.usable)} can be used, {len(survey.unusable)} cannot{what}"


def _of_kept(found: Check, kept: CrystalDataset) -> list[tuple[str, str]]:
    counts = Counter(kept.compositions)
    several = sum(count > 1 for count in counts.values())
    elements, sizes = _elements(kept), _sizes(kept)
    return [
        ("compositions", f"{len(counts)}, {several} of them with several crystals"),
        ("elements", f"{len(elements)}: {' '.join(elements)}"),
        ("atoms", f"per cell: {_listed(sizes)}"),
        ("duplicates", _of_duplicates(found.duplicates, kept, found.options)),
        ("split", _of_split(found.split)),
    ]


def _of_domain(found: Check, kept: CrystalDataset) -> str:
    domain = found.domain
    if UNKNOWN in domain:
        silent = " and ".join(one.who for one in found.trained if one.domain is None)
        text = f"{domain.count(UNKNOWN)} of {len(kept)} unknown: {silent} does not say what it was trained on"
    else:
        text = f"{domain.count(INSIDE)} of {len(kept)}"
    outside = report_outside(found.trained, kept.crystals.atomic_numbers, "crystals")
    return f"{text}; {outside}" if outside else text


def _of_duplicates(duplicates: Duplicates, kept: CrystalDataset, options: CheckOptions) -> str:
    text = f"{counted(len(duplicates.of), 'crystal')} equal to an earlier one"
    if duplicates.of:
        row, first = min(duplicates.of.items())
        text += f", such as {kept.ids[row]} to {kept.ids[first]}"
    if duplicates.left_out:
        text += (
            f"; {duplicates.left_out} of {len(kept)} are not compared: their compositions have the most crystals, and "
            f"no more than {options.comparisons:,} comparisons are made (--comparisons)"
        )
    return text + (f"; {counted(duplicates.failed, 'comparison')} failed" if duplicates.failed else "")


def _of_split(split: Split | str) -> str:
    if isinstance(split, str):
        return f"not by default: {split}"
    parts = (
        f"{name} {len(part)} ({counted(len(set(part.compositions)), 'composition')})" for name, part in _parts(split)
    )
    return f"by default: {', '.join(parts)}"


def _knows(unknown: Mapping[str, int]) -> str:
    elements = ", ".join(f"{element} ({count})" for element, count in unknown.items())
    return f"does not know {elements}" if unknown else "knows all elements"


def _listed(sizes: Mapping[int, int]) -> str:
    """Return the numbers of atoms with the numbers of crystals; the range alone if they are many."""
    if len(sizes) > 12:
        middle = sorted(Counter(sizes).elements())[sum(sizes.values()) // 2]
        return f"{min(sizes)} to {max(sizes)}, median {middle}"
    return ", ".join(f"{size} ({count})" for size, count in sizes.items())


def _reasons(unusable: Sequence[Unusable]) -> list[str]:
    shown = [_wrap("  ", line, 4) for line in lines(unusable[:MOST_NAMED])]
    rest = len(unusable) - MOST_NAMED
    return [*shown, *([f"  and {rest} more (--json FILE has all)"] if rest > 0 else [])]


def _wrap(start: str, text: str, indent: int) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
