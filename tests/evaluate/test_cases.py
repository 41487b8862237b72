from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.crystal.base import BaseDistribution, InformedCell
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import Domain
from omatg_ray.evaluate.backend import Block, LocalEvaluationBackend, Measured
from omatg_ray.evaluate.cases import (
    Case,
    CaseResult,
    conditions_of,
    crystals_of_case,
    dataset_fingerprint,
    evaluate_cases,
    key_of,
    model_fingerprint,
    other_cases,
)
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.reward.matching import Matcher
from tests.evaluate.sodium_chloride import POLYMORPHS
from tests.small import SIZE, small_network


def small_model(seed: int = 0, **provenance: Any) -> FlowModel:
    cell = InformedCell(log_length_mean=(1.2, 1.2, 1.2), log_length_std=(0.1, 0.1, 0.1))
    description = ModelDescription(
        network=SIZE,
        paths=PathSettings(),
        base_distribution=BaseDistribution(cell=cell),
        elements=[],
        sizes=[],
        provenance=provenance,
    )
    return FlowModel(description, small_network(seed, torch.float32))


class Watched(LocalEvaluationBackend):
    """Keeps a diary of what was begun and what was done."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__(matcher, None)
        self.diary: list[str] = []

    def measure(self, model: FlowModel, blocks: Sequence[Block]) -> Iterator[Measured]:
        self.diary.append(f"begin {blocks[0].sampling.steps}")
        return self._measured(model, blocks)

    def _measured(self, model: FlowModel, blocks: Sequence[Block]) -> Iterator[Measured]:
        yield from super().measure(model, blocks)
        self.diary.append(f"done {blocks[0].sampling.steps}")


@pytest.fixture
def backend() -> Iterator[Watched]:
    with Matcher() as matcher:
        yield Watched(matcher)


def evaluator(backend: Watched, known: CrystalDataset = POLYMORPHS, **options: Any) -> Evaluator:
    return Evaluator(known, backend, **{"seed": 0, "samples": 2, **options})


def cases(*steps: int) -> list[Case]:
    model = small_model()
    return [Case(model, Sampling(count), "small") for count in steps]


def plain(result: CaseResult) -> str:
    return json.dumps(result.as_dict(""), sort_keys=True)


def test_the_next_case_begins_before_one_is_finished(backend: Watched) -> None:
    results = evaluate_cases(cases(3, 4, 5, 3), evaluator(backend))
    assert backend.diary == ["begin 3", "begin 4", "done 3", "begin 5", "done 4", "done 5"]
    assert [one.steps for one in results] == [3, 4, 5, 3]
    assert [one.label for one in results] == [f"small, {count} points" for count in (3, 4, 5, 3)]
    assert all(one.evaluation is not None and one.metrics["n"] == 10 for one in results)
    assert results[0].seconds_per_1000 == pytest.approx(100 * results[0].generation_seconds)


def test_what_is_done_is_not_done_again(backend: Watched, tmp_path: Path) -> None:
    first = evaluate_cases(cases(3, 4), evaluator(backend), tmp_path)
    assert {path.suffix for path in (tmp_path / "cases").iterdir()} == {".json", ".extxyz"}
    backend.diary.clear()
    again = evaluate_cases(cases(3, 4), evaluator(backend), tmp_path)
    assert backend.diary == [] and [one.evaluation for one in again] == [None, None]
    assert list(map(plain, again)) == list(map(plain, first))
    assert again[0].by_composition.intervals()["crmse"] == first[0].by_composition.intervals()["crmse"]
    more = evaluate_cases(cases(3, 5, 4), evaluator(backend), tmp_path)
    assert backend.diary == ["begin 5", "done 5"]
    assert [one.evaluation is None for one in more] == [True, False, True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda text: text.replace("omatg_ray.case.1", "omatg_ray.case.0"),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "by_composition"}),
        lambda text: json.dumps(json.loads(text) | {"key": "of another"}),
    ],
    ids=["torn", "foreign", "another version", "not whole", "another key"],
)
def test_damaged_files_are_computed_anew(backend: Watched, tmp_path: Path, damage: Any) -> None:
    (first,) = evaluate_cases(cases(3), evaluator(backend), tmp_path)
    file = tmp_path / "cases" / f"{first.key}.json"
    whole = json.loads(file.read_text())
    file.write_text(damage(file.read_text()))
    backend.diary.clear()
    (again,) = evaluate_cases(cases(3), evaluator(backend), tmp_path)
    assert backend.diary == ["begin 3", "done 3"] and again.values == first.values
    written = json.loads(file.read_text())
    assert written["evaluation"] == whole["evaluation"] and written["key"] == first.key


def test_without_its_crystals_a_case_is_computed_anew(backend: Watched, tmp_path: Path) -> None:
    (first,) = evaluate_cases(cases(3), evaluator(backend), tmp_path)
    crystals_of_case(tmp_path, first.key).unlink()
    (again,) = evaluate_cases(cases(3), evaluator(backend), tmp_path)
    assert again.evaluation is not None and crystals_of_case(tmp_path, first.key).is_file()


def test_names_are_those_of_the_call(backend: Watched, tmp_path: Path) -> None:
    evaluate_cases(cases(3), evaluator(backend), tmp_path)
    (case,) = cases(3)
    (again,) = evaluate_cases([replace(case, name="renamed")], evaluator(backend), tmp_path)
    assert (again.name, again.label, again.evaluation) == ("renamed", "renamed, 3 points", None)


def test_the_domain_is_that_of_now(backend: Watched, tmp_path: Path) -> None:
    (case,) = cases(3)
    (first,) = evaluate_cases([case], evaluator(backend), tmp_path)
    assert first.values["in_domain"] is None and first.values["domain_of"] == []
    description = case.model.description.model_copy(update={"domain": Domain.of(POLYMORPHS.crystals)})
    informed = replace(case, model=FlowModel(description, case.model.base_network))
    (again,) = evaluate_cases([informed], evaluator(backend), tmp_path)
    assert again.evaluation is None and again.key == first.key
    (stored,) = other_cases(tmp_path, conditions_of(evaluator(backend)), [])
    for values in (again.values, stored.values):
        assert values["in_domain"] == 1.0 and values["domain_of"] == ["the model"]
        assert values["per_structure"]["domain"] == ["yes"] * 10
        assert values["metrics"] == first.values["metrics"]


def test_cases_of_other_calls_under_the_same_conditions(backend: Watched, tmp_path: Path) -> None:
    first, second = evaluate_cases(cases(3, 4), evaluator(backend), tmp_path)
    evaluate_cases(cases(5), evaluator(backend, seed=1), tmp_path)
    (tmp_path / "cases" / "notes.json").write_text("{")
    conditions = conditions_of(evaluator(backend))
    assert [one.key for one in other_cases(tmp_path, conditions, [second.key])] == [first.key]
    assert other_cases(tmp_path, conditions, [first.key, second.key]) == []


def test_samples_of_a_reference_take_turns_with_guidance_whatever_the_limit(backend: Watched) -> None:
    """Also where the chosen rows are a multiple of the number of weights apart."""
    turns: dict[tuple[int, int], list[int]] = {}
    known = POLYMORPHS.select([0, 1, 2, 3] * 16)
    for limit in (64, 32):
        of_limit = evaluator(backend, known, samples=4, limit=limit)
        for block in of_limit._plan_blocks(Sampling(3, guidance=(2.0, 2.0, 2.0, -1.0)), compared=False):
            assert block.turns is not None
            for row, turn in zip(block.indices, block.turns, strict=True):
                turns.setdefault((limit, row), []).append(turn % 4)
    assert all(sorted(each) == [0, 1, 2, 3] for each in turns.values())
    assert all(turns[32, row] == turns[64, row] for limit, row in turns if limit == 32)
    assert {each[0] for (limit, _), each in turns.items() if limit == 32} == {0, 1, 2, 3}


def test_the_label_of_a_case_has_its_guidance_in_order() -> None:
    (case,) = cases(3)
    guided = [replace(case, sampling=Sampling(3, guidance=weights)) for weights in ((2, 2, -1), (2, -1, 2), (1,))]
    assert [one.way for one in guided] == ["own, guidance 2:2,-1", "own, guidance 2,-1,2", "own"]


def test_keys_tell_apart_what_decides_a_result(backend: Watched) -> None:
    (case,) = cases(3)
    conditions = conditions_of(evaluator(backend))
    others = [
        replace(case, sampling=Sampling(4)),
        replace(case, sampling=replace(case.sampling, noise="policy")),
        replace(case, sampling=replace(case.sampling, solver="midpoint")),
        replace(case, sampling=replace(case.sampling, guidance=(0.0, 3.0))),
        replace(case, sampling=replace(case.sampling, schedule=LinearSchedule(pos=1.0))),
        replace(case, sampling=replace(case.sampling, schedule=LinearSchedule(cell=1.0))),
        replace(case, model=small_model(1)),
    ]
    changed = [
        conditions_of(evaluator(backend, seed=1)),
        conditions_of(evaluator(backend, samples=1)),
        conditions_of(evaluator(backend, limit=3)),
        conditions_of(evaluator(backend, timeout=1.0)),
        conditions_of(evaluator(backend, POLYMORPHS.select([0, 1]))),
        conditions_of(evaluator(backend), plausible=True),
    ]
    keys = [key_of(one, conditions) for one in (case, *others)] + [key_of(case, one) for one in changed]
    assert len(set(keys)) == len(keys)
    # Names, and how a model came about, decide nothing.
    same = replace(case, name="other", model=small_model(0, made="yesterday"), schedule_name="none")
    assert key_of(same, conditions) == keys[0]
    assert conditions_of(evaluator(backend, block=2, workers=3)) == conditions


def test_fingerprints_of_crystals_and_models() -> None:
    crystals = POLYMORPHS.crystals
    moved = replace(POLYMORPHS, crystals=crystals.replace(pos=crystals.pos + 1e-6))
    renamed = replace(POLYMORPHS, ids=[f"{ident}'" for ident in POLYMORPHS.ids])
    prints = [dataset_fingerprint(one) for one in (POLYMORPHS, moved, renamed)]
    assert len(set(prints)) == 3 and prints[0] == dataset_fingerprint(POLYMORPHS.select(range(len(POLYMORPHS))))
    model = small_model()
    with torch.no_grad():
        next(iter(model.base_network.parameters())).view(-1)[0] += 1e-3
    assert model_fingerprint(model) != model_fingerprint(small_model())
