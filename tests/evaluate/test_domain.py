from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any, cast

import pytest

from omatg_ray.crystal.domain import Domain
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy


def model(domain: Domain | None, open_species: bool = False) -> FlowModel:
    described = SimpleNamespace(domain=domain, elements=["Na", "Cl"], sizes=[2])
    return cast(FlowModel, SimpleNamespace(description=described, generates_species=open_species))


def warned(models: dict[str, FlowModel], cells: list[list[int]], potential: Domain | None = None) -> list[str]:
    energy: Any = SimpleNamespace(potential=SimpleNamespace(name="p", domain=potential))
    trained = trained_on(models, [cast(MatGLEnergy, energy), None])
    assert [one.who for one in trained] == [*(f"model {name}" for name in models), "potential p"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_outside(models, trained, cells, "cells")
    return [str(one.message) for one in caught]


SALT = Domain.of([[11, 17]] * 5)


def test_one_warning_for_models_and_potentials() -> None:
    models = {"a": model(SALT), "b": model(Domain.of([[19, 17]]))}
    assert warned({"a": models["a"]}, [[11, 17]] * 3) == []
    (text,) = warned(models, [[19, 17], [11, 17, 17]], Domain.of([[11, 17], [19, 9]], sized=False))
    assert text.startswith("outside of the training data: model a, 2 of 2 cells: of its 5 training crystals none has K")
    assert "; model b, 1 of 2 cells: of its 1 training crystals none has Na or 3 atoms; potential p, 1 of 2" in text


def test_older_models_warn_of_what_they_know() -> None:
    assert warned({"a": model(None)}, [[11, 17]]) == []
    elements, sizes = warned({"a": model(None)}, [[11, 17], [11, 9, 9]])
    assert elements.endswith("not trained on: F") and sizes.endswith("not trained on: [3]")


@pytest.mark.parametrize("domain", [SALT, None])
def test_of_models_that_generate_species_only_sizes_count(domain: Domain | None) -> None:
    models = {"a": model(domain, open_species=True)}
    assert warned(models, [[1, 1]]) == []
    (text,) = warned(models, [[1, 1, 1]])
    assert "3 atoms" in text if domain else text.endswith("[3]")


def test_each_model_is_warned_of_by_what_it_is_given() -> None:
    models = {"a": model(SALT), "free": model(SALT, open_species=True), "old": model(None, open_species=True)}
    (text,) = warned(models, [[11, 9]], Domain.of([[11, 17]], sized=False))
    assert "model a: " in text and "none has F" in text and "model free" not in text and "potential p: " in text
    known = {"free": models["free"], "old": models["old"]}
    assert warned(known, [[11, 9]], Domain.of([[11, 17]], sized=False)) == []  # the elements are the models' choice
