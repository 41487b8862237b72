"""Refusals and warnings about a model before it generates or learns."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from pymatgen.core import Element

from omatg_ray.crystal.domain import Trained
from omatg_ray.crystal.fields import FIELDS
from omatg_ray.errors import ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import EULER, Sampling
from omatg_ray.run.location import Location


def training_of(model: FlowModel, name: Location) -> Trained:
    """Return what a model was trained on, as far as it says so."""
    return Trained(f"model {name}", model.description.domain, True, model.generates_species)


def known_elements(model: FlowModel) -> frozenset[int]:
    """Return the atomic numbers of the model's training set; all that fit its network if that set is unknown."""
    symbols = model.description.elements
    if not symbols:
        return frozenset(range(1, model.description.network.max_atomic_number + 1))
    return frozenset(Element(symbol).Z for symbol in symbols)


def unseen_elements(model: FlowModel, elements: Iterable[int]) -> list[str]:
    """Return the symbols of elements that are not in the model's training set; none if that set is unknown."""
    known = set(model.description.elements)
    symbols = [Element.from_Z(z).symbol for z in sorted(elements)]
    return [symbol for symbol in symbols if known and symbol not in known]


def refuse_unseen(model: FlowModel, name: Location, formulas: Mapping[str, Iterable[int]]) -> None:
    """Refuse elements whose embedding the model never trained, since the crystals would be meaningless.

    Args:
        model: The model.
        name: What it is called in the error.
        formulas: The atomic numbers of each formula.

    Raises:
        ModelError: Some elements are not in the training set; names them, and the formulas that have them.
    """
    new = {formula: unseen_elements(model, set(elements)) for formula, elements in formulas.items()}
    refused = [formula for formula, symbols in new.items() if symbols]
    if refused:
        symbols = list(dict.fromkeys(symbol for of in new.values() for symbol in of))
        raise ModelError(
            f"{name} was never trained on {', '.join(symbols)} and cannot generate {', '.join(refused)}; it knows "
            f"{', '.join(model.description.elements)}. Leave out {'that' if len(refused) == 1 else 'these'}, or train "
            "a model on crystals that contain what is missing"
        )


def recovery_of(model: FlowModel, name: Location, sizes: Iterable[int]) -> str:
    """Say which share of held-out crystals of these sizes (atoms) the model recovered; empty if it does not say."""
    shares = sorted(model.description.recovery.items())
    said: dict[str, None] = {}
    for size in sorted(set(sizes)):
        fewer = 0
        for most, share in shares:
            if fewer < size <= most:
                said[f"{share:.0%} of those of {fewer + 1} to {most} atoms"] = None
            fewer = most
        if shares and size > fewer:
            said[f"an unknown share of those of more than {fewer} atoms"] = None
    return f"trust: of held-out crystals, one sample of {name} matched {', '.join(said)}" if said else ""


def warn_unfamiliar(model: FlowModel, elements: frozenset[int], sizes: frozenset[int]) -> None:
    """Warn about elements and cell sizes that are not in the model's training set, if it is known."""
    new = unseen_elements(model, elements)
    if new:
        warnings.warn(f"elements that the model was not trained on: {', '.join(new)}", stacklevel=2)
    other = sorted(set(sizes) - set(model.description.sizes))
    if model.description.sizes and other:
        warnings.warn(f"cell sizes (atoms) that the model was not trained on: {other}", stacklevel=2)


def refuse_untrained(model: FlowModel) -> None:
    """Refuse a variant with a module in `learns` that is not trained and would keep its first values.

    Raises:
        ModelError: The drift has no weight of the module, neither in `trained()` nor in the network that it needs.
    """
    policy = model.policy()
    weights = [*policy.drift.trained(), *(policy.network.parameters() if policy.heads else ())]
    trained = set(map(id, weights))
    for name in model.variant.learns:
        own = [id(weight) for weight in model.learned[name].parameters()]
        if own and trained.isdisjoint(own):
            raise ModelError(
                f"policy variant {model.description.variant}: {name} is in `learns`, but its drift's trained() returns "
                "none of its weights, so it would not be trained; return them there, or leave it out of `learns`"
            )


def warn_ineffective(model: FlowModel, samplings: Iterable[Sampling]) -> None:
    """Warn of samplings in which noise or the reinforced network, though asked for, does nothing."""
    _warn_noiseless(model, samplings)
    _warn_idle_policy(model, samplings)


def _warn_noiseless(model: FlowModel, samplings: Iterable[Sampling]) -> None:
    """Warn if the policy's noise is requested of a model without a policy, or with a schedule that replaces it."""
    noisy = [sampling for sampling in samplings if sampling.noise == "policy"]
    if model.variant.learns_schedule and any(sampling.schedule is not None for sampling in noisy):
        warnings.warn(
            "the model's policy is its own schedule; with another schedule it follows its base, without noise",
            stacklevel=3,
        )
    paths = model.description.paths
    if noisy and not model.description.active and not any(paths.of(field).epsilon for field in FIELDS):
        warnings.warn("a base model has no policy noise; it generates without noise", stacklevel=3)


def _warn_idle_policy(model: FlowModel, samplings: Iterable[Sampling]) -> None:
    """Warn of grids that end before the reinforced network acts, so that the model is its base."""
    gate = model.description.acts_from
    for sampling in samplings if gate else ():
        policy = model.policy(sampling.schedule)
        times = policy.times(sampling.steps)
        if sampling.solver == EULER and policy.first_step(times) == sampling.steps - 1:
            warnings.warn(
                f"with {sampling.steps} grid points the last step begins at t = {float(times[-2]):.2f}, before the "
                f"reinforced network acts ({gate:g}): the crystals are the base's; take more grid points",
                stacklevel=3,
            )


def warn_generated_species(model: FlowModel) -> None:
    """Warn about what evaluations leave out for a model that generates species."""
    if model.generates_species:
        warnings.warn(
            "the model generates species, so its crystals have other compositions than the references: matches with "
            "these are not measured, and relative energies only where a composition happens to be the same",
            stacklevel=2,
        )
