"""Crystals with elements that a model or a potential does not know: found before a run, and left out on request."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omatg_ray.crystal.composition import symbol
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.errors import ConfigError, DataError, DataWarning, PotentialError
from omatg_ray.evaluate.evaluation import spread_rows
from omatg_ray.evaluate.polymorphs import Polymorphs
from omatg_ray.model.checks import known_elements
from omatg_ray.reward.protocol import holds_only
from omatg_ray.run.location import Location
from omatg_ray.run.text import counted

if TYPE_CHECKING:
    from omatg_ray.config import Config
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.reward.potential import Potential
    from omatg_ray.reward.settings import RewardSettings

Known = Mapping[str, frozenset[int]]
"""Atomic numbers by the name of what knows them: 'potential bundled', 'model runs/base'."""


def require_known(potential: Potential, elements: Iterable[int]) -> None:
    """Refuse elements that a potential does not know.

    Raises:
        PotentialError: Some are unknown; names all of them, and the options that leave crystals out.
    """
    try:
        potential.require_elements(elements)
    except PotentialError as error:
        raise PotentialError(
            f"{error} (data.drop_unknown=true, evaluate: --drop-unknown, leaves out the crystals that hold them)"
        ) from error


def refuse_unmatchable(rewards: RewardSettings, model: FlowModel, name: Location) -> None:
    """Refuse rewards that need known compositions, for a model that generates species.

    Raises:
        ConfigError: Names the reward and the model.
    """
    for reward, options in rewards.built_in.items():
        if model.generates_species and options.needs_known:
            raise ConfigError(
                f"reward.weights.{reward}: {name} generates species, and their compositions have no known polymorphs "
                f"to match; leave {reward} out"
            )


def refuse_without_references(config: Config, model: FlowModel) -> None:
    """Refuse compositions of one's own for rewards that compare with known crystals, and for generated species.

    Raises:
        ConfigError: Names the reward, or the model.
    """
    if model.generates_species:
        raise ConfigError(f"compositions: {config.base} generates the species itself; leave them out")
    for reward, options in config.reward.built_in.items():
        if options.needs_known:
            raise ConfigError(
                f"reward.weights.{reward}: it compares with known crystals, which these compositions do not have; "
                "leave out one of the two"
            )


def refuse_unranked(config: Config, model: FlowModel, val: CrystalDataset) -> None:
    """Refuse to choose checkpoints by the lowest of several polymorphs where nothing is known of any.

    Raises:
        ConfigError: The model generates species, no validation crystal has several polymorphs, or nothing says which is
            the lowest.
    """
    if config.validation.best != "match_lowest":
        return
    if model.generates_species:
        raise ConfigError(
            f"validation.best=match_lowest: {config.base} generates species, and its crystals are not matched; leave "
            "the key out"
        )
    if config.reward.potential is None:
        raise ConfigError("validation.best=match_lowest: reward.potential says which polymorph is the lowest; name one")
    if not Polymorphs(val.crystals, spread_rows(len(val), config.validation.limit)).n_polymorphic:
        raise ConfigError(
            "validation.best=match_lowest: no validation crystal has several known polymorphs in cells of equally many "
            "atoms; raise validation.limit, or leave the key out"
        )


def known_to(
    potential: Potential | None, model: FlowModel | None = None, name: Location | None = None
) -> dict[str, frozenset[int]]:
    """Return what a potential and a model know. Elements that a model generates itself do not count."""
    known = {} if potential is None else {f"potential {potential.name}": potential.elements}
    if model is not None and not model.generates_species:
        known[f"model {name}"] = known_elements(model)
    return known


def require_decider(known: Known) -> None:
    """Refuse to leave out unknown elements where nothing says which these are.

    Raises:
        ConfigError: Says what to name.
    """
    if not known:
        raise ConfigError(
            "data.drop_unknown (--drop-unknown): nothing here says which elements are known; name a potential "
            "(reward.potential=..., --potential), or leave it out. A model that generates species does not count"
        )


def unknown_elements(dataset: CrystalDataset, known: frozenset[int]) -> dict[str, int]:
    """Return the number of crystals with each element that is not known, by symbol, in the order of atomic numbers."""
    counts = Counter(z for cell in dataset.crystals.atomic_numbers for z in set(cell) - known)
    return {symbol(z): counts[z] for z in sorted(counts)}


def keeps(dataset: CrystalDataset, known: Known) -> Tensor:
    """Return which crystals have no other elements than all of these know (B,), bool."""
    keep = torch.ones(len(dataset), dtype=torch.bool)
    for elements in known.values():
        keep &= holds_only(elements, dataset.crystals)
    return keep


def drop_unknown(dataset: CrystalDataset, known: Known, place: Location) -> CrystalDataset:
    """Leave out crystals with an element that is not known, and warn of how many there are and of which elements.

    Args:
        dataset: The crystals.
        known: What has to know their elements.
        place: Where they come from, for messages.

    Raises:
        ConfigError: Nothing is to know them.
        DataError: No crystal is left.
    """
    require_decider(known)
    unknown = {name: unknown_elements(dataset, elements) for name, elements in known.items()}
    if not any(unknown.values()):
        return dataset
    keep = keeps(dataset, known)
    reasons = "; ".join(
        f"{name} does not know {', '.join(f'{element} ({count})' for element, count in counts.items())}"
        for name, counts in unknown.items()
        if counts
    )
    if not bool(keep.any()):
        raise DataError(f"{place}: no crystal is left without the elements that are not known: {reasons}")
    left_out = counted(int((~keep).sum()), "crystal")
    warnings.warn(f"{place}: {left_out} of {len(dataset)} left out: {reasons}", DataWarning, stacklevel=2)
    return dataset.select(keep)
