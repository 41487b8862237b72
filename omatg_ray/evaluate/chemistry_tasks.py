"""Tasks of worker processes that need SMACT and matminer, which only this module imports."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from matminer.featurizers.composition.composite import ElementProperty
from matminer.featurizers.site.fingerprint import CrystalNNFingerprint
from pymatgen.core import Composition
from smact.screening import smact_validity

from omatg_ray.reward.worker_functions import Arrays


def is_plausible(crystal: Arrays) -> bool:
    """Return whether SMACT accepts the composition and the fingerprints of composition and sites can be computed.

    Errors of the fingerprints other than ValueError and TypeError propagate, such as scipy's QhullError on flat cells.
    """
    structure = crystal.structure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing element data and electronegativities
        return _is_balanced(structure.composition) and _has_fingerprints(structure)


def _is_balanced(composition: Composition) -> bool:
    """Check charge neutrality with the oxidation states of the ICSD, and Pauling's rule; alloys pass."""
    try:
        return bool(
            smact_validity(composition, use_pauling_test=True, include_alloys=True, oxidation_states_set="icsd24")
        )
    except TypeError:  # elements without electronegativity in SMACT
        return False


def _has_fingerprints(structure: Any) -> bool:
    of_composition, of_site = _featurizers()
    try:
        of_composition.featurize(structure.composition)
        for site in range(len(structure)):
            of_site.featurize(structure, site)
    except (ValueError, TypeError):
        return False
    return True


@cache
def _featurizers() -> tuple[Any, Any]:
    return ElementProperty.from_preset("magpie"), CrystalNNFingerprint.from_preset("ops")
