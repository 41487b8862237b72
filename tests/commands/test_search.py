from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pymatgen.core import Lattice, Structure

import omatg_ray as og
from omatg_ray.commands.search import Search, SearchOptions, run_search, search
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError, DataError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from tests.commands.conftest import Command, Workshop, write_tiny_potential

QUICK = {"sampling": Sampling(4), "relax": 2, "batch": 4, "workers": 0, "threads": 1, "device": "cpu"}
WORDS = ["--steps", 4, "--relax", 2, "--batch", 4, "--workers", 0, "--threads", 1, "--quiet"]
ONE = 10
"""Evaluations of a sample at most: an energy, and three with gradients."""


def options(base: Path, workshop: Workshop, **more: Any) -> SearchOptions:
    return SearchOptions(
        **{"formulas": ("NaCl",), "model": base, "potential": str(workshop.potential), **QUICK, **more}
    )


def tensors(one: Search) -> dict[str, torch.Tensor]:
    return {**one._loop.archive.state_dict(), **one._sampler.state_dict()}


def test_it_searches_writes_and_says_how_far_to_trust_it(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    formulas, to = tmp_path / "formulas.txt", tmp_path / "found"
    formulas.write_text("NaCl\nKBr  # a comment\n")
    words = ["--formulas", formulas, "--z", "1,2", "--potential", workshop.potential, "--within", 50, "--to", to]
    done = command("search", base, *words, *WORDS, "--evaluations", 24 * ONE)
    assert done.code == 0, done.err
    assert {path.name for path in to.iterdir()} == {
        *("cif", "found.extxyz", "report.html", "rounds.csv", "sampler", "state"),
    }
    found = read_dataset(to / "found.extxyz", reduce=False)
    assert set(found.compositions) == {"NaCl", "KBr"}
    assert len(list((to / "cif").iterdir())) == len(found)
    assert set(found.sizes) == {2, 4}
    assert next(int(row["rank"]) for row in found.properties if row["formula"] == "NaCl") == 1
    with (to / "rounds.csv").open() as file:
        rounds = list(csv.DictReader(file))
    last = {row["formula"]: row for row in rounds}
    samples = sum(int(row["samples"]) for row in last.values())
    assert samples >= 24, "what a relaxation did not take is used for others"
    assert sum(int(row["evaluations"]) for row in last.values()) <= 24 * ONE
    invalid = int(done.out.split(" generated, ")[1].split(" invalid")[0])
    assert sum(int(row["copies"]) for row in found.properties) == samples - invalid, "all are within 50 eV/atom"
    for formula in ("NaCl", "KBr"):
        rows = [row for row in found.properties if row["formula"] == formula]
        best = min(float(row["energy_per_atom"]) for row in rows)
        assert best == pytest.approx(float(last[formula]["best_energy_per_atom"]), abs=1e-6)
        times = [int(row["copies"]) for row in rows]
        assert f"{formula}: the lowest was found " in done.out
        assert f"the {sum(times)} samples listed are {len(times)} distinct crystals" in done.out
        assert f"{formula}: the lowest was found " in (to / "report.html").read_text()
    assert all(1 <= int(row["first_sample"]) <= samples for row in found.properties)
    # Going on writes all of it anew.
    before = len(found.properties), samples
    more = command("search", base, *words, *WORDS, "--evaluations", 48 * ONE, "--resume")
    assert more.code == 0, more.err
    assert f"{to}/found.extxyz" in more.out and len(list((to / "cif").iterdir())) > before[0]
    assert int(more.out.split(" generated, ")[0].split()[-1]) > before[1]
    # Less than what it has used already: nothing is computed, and all is written once more.
    less = command("search", base, *words, *WORDS, "--evaluations", ONE, "--resume")
    assert less.code == 0 and less.out.splitlines()[-3:] == more.out.splitlines()[-3:]
    # The sampler is a model that generates.
    again = command(
        "generate", to / "sampler", "--formula", "NaCl", "--steps", 4, "--out", tmp_path / "a.cif", "--quiet"
    )
    assert again.code == 0, again.err
    moved = FlowModel.load(to / "sampler").base_network.state_dict()
    assert any(not torch.equal(moved[k], v) for k, v in FlowModel.load(base).base_network.state_dict().items())


def test_a_chemical_system_gives_its_formulas(base: Path, workshop: Workshop, command: Command, tmp_path: Path) -> None:
    words = ["--chemical-system", "Na-Cl", "--stoichiometry", "1:1", "--potential", workshop.potential]
    done = command("search", base, *words, *WORDS, "--patience", 4, "--within", 50, "--to", tmp_path / "found")
    assert done.code == 0, done.err
    assert done.out.startswith("formulas of Na-Cl: NaCl\n") and "NaCl: the lowest was found" in done.out


@pytest.mark.filterwarnings("ignore:outside of the training data")
def test_a_resumed_search_does_what_an_uninterrupted_one_does(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    second = str(tmp_path / "second")
    write_tiny_potential(Path(second), seed=1)
    # NaCl and KBr work in turn with MgO: a round is on its way whenever another one ends.
    asked: dict[str, Any] = {"formulas": ("NaCl", "MgO", "KBr"), "z": (1, 2), "second_potential": second}
    whole = Search(options(base, workshop, folder=tmp_path / "whole", **asked))
    rounds = iter(whole)
    for _ in range(5):
        next(rounds)
    begun = Search(options(base, workshop, folder=tmp_path / "begun", **asked))
    next(iter(begun))
    for _ in range(4):  # more processes, of one round each
        begun = Search(options(base, workshop, folder=tmp_path / "begun", **asked, resume=True))
        next(iter(begun))
    first, second = tensors(whole), tensors(begun)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    times = [[row[:2] + row[3:] for row in one.courses["NaCl"].history] for one in (whole, begun)]
    assert times[0] == times[1] and len(times[0]) == 3
    with pytest.raises(ConfigError, match="seed: 0 before, 1 now"):
        Search(options(base, workshop, folder=tmp_path / "begun", **asked, resume=True, seed=1))
    with pytest.raises(ConfigError, match="no search in"):
        Search(options(base, workshop, folder=tmp_path / "other", resume=True))
    with pytest.raises(ConfigError, match="there is a search in"):
        Search(options(base, workshop, folder=tmp_path / "begun", **asked))
    (tmp_path / "whole" / "state" / "state.safetensors").write_bytes(b"cut")
    with pytest.raises(ConfigError, match="cannot be read"):
        Search(options(base, workshop, folder=tmp_path / "whole", **asked, resume=True))
    words = ["--formula", "NaCl", "--potential", workshop.potential, "--to", tmp_path / "begun", *WORDS]
    command("search", base, *words).refuses("there are files in it", "--resume")
    kept = json.loads((tmp_path / "begun" / "state" / "search.json").read_text())
    assert kept["courses"]["NaCl"]["samples"] == 12
    kept["search"]["format"] = "omatg_ray.search.0"
    (tmp_path / "begun" / "state" / "search.json").write_text(json.dumps(kept))
    with pytest.raises(ConfigError, match="written by another version"):
        Search(options(base, workshop, folder=tmp_path / "begun", **asked, resume=True))


def test_sampling_alone_leaves_the_model_as_it_is(base: Path, workshop: Workshop) -> None:
    one = Search(options(base, workshop, method="sample", patience=8, relax=0))
    for courses in one:
        assert courses["NaCl"].samples % 4 == 0
    course = one.courses["NaCl"]
    assert course.samples - course.at == 8, "it went on until nothing better came for eight samples"
    assert course.evaluations == course.samples - course.invalid
    crystals = one.model.generate([[11, 17]] * 4, Sampling(4), judged=True)
    assert torch.equal(crystals.pos, FlowModel.load(base).generate([[11, 17]] * 4, Sampling(4), judged=True).pos)


def test_competing_phases_say_what_is_stable(base: Path, workshop: Workshop, command: Command, tmp_path: Path) -> None:
    phases, to = tmp_path / "phases.extxyz", tmp_path / "found"
    write_structures(phases, [Structure(Lattice.cubic(3.2), [symbol], [[0, 0, 0]]) for symbol in ("Na", "Cl", "Br")])
    words = ["--formula", "NaCl", "NaBr", "--potential", workshop.potential, "--phases", phases, "--to", to]
    done = command("search", base, *words, *WORDS, "--evaluations", 16 * ONE, "--within", 50)
    assert done.code == 0, done.err
    found = read_dataset(to / "found.extxyz", reduce=False)
    rows = [row for row in found.properties if row["formula"] == "NaCl"]
    # All of a composition lie above the same point of the hull.
    hull = {round(float(row["energy_per_atom"]) - float(row["above_hull"]), 4) for row in rows}
    assert len(hull) == 1
    assert f"NaCl: {float(rows[0]['above_hull']):+.4f} eV/atom above the hull of the phases" in done.out
    assert "above the hull" in (to / "report.html").read_text()


def test_random_crystals_need_no_model(base: Path, workshop: Workshop, command: Command, tmp_path: Path) -> None:
    words = ["--formula", "NaCl", "--potential", workshop.potential, "--method", "random", "--to", tmp_path / "found"]
    done = command("search", base, *words, *WORDS, "--evaluations", 16 * ONE, "--within", 50)
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "found").iterdir()} == {
        *("cif", "found.extxyz", "report.html", "rounds.csv", "state"),
    }, "nothing was learned that could be kept"
    found = read_dataset(tmp_path / "found" / "found.extxyz", reduce=False)
    assert {row["method"] for row in found.properties} == {"random"}
    assert "model" not in found.properties[0]
    assert sum(int(row["copies"]) for row in found.properties) >= 16, "random crystals are valid"
    more = ["--evaluations", 32 * ONE, "--within", 50, "--resume"]
    again = command("search", base, *words, "--steps", 7, *WORDS[2:], *more)
    assert again.code == 0, "the model and its grid points have no say"


def test_formulas_are_left_one_by_one_and_time_ends_it(base: Path, workshop: Workshop) -> None:
    one = Search(options(base, workshop, formulas=("NaCl", "KBr"), patience=12))
    one.courses["KBr"].at = -20  # nothing better came for long
    next(iter(one))
    assert one.courses["NaCl"].samples == 4 and one.courses["KBr"].samples == 0
    short = Search(options(base, workshop, minutes=1e-9))
    assert [courses["NaCl"].samples for courses in short] == [], "no round begins after that"


def test_the_sampler_that_is_kept_has_learned_from_the_last_round(
    base: Path, workshop: Workshop, tmp_path: Path
) -> None:
    one = run_search(options(base, workshop, folder=tmp_path / "found", patience=1, evaluations=4 * ONE))
    assert one.courses["NaCl"].samples == 4, "there was one round"
    kept = FlowModel.load(tmp_path / "found" / "sampler").base_network.state_dict()
    assert any(not torch.equal(kept[k], v) for k, v in FlowModel.load(base).base_network.state_dict().items())


def test_python_searches_round_by_round(base: Path, workshop: Workshop) -> None:
    one = og.search("NaCl", workshop.potential, model=base, **QUICK, evaluations=8 * ONE)
    with pytest.raises(DataError, match="no round yet"):
        one.found()
    rounds = iter(one)
    next(rounds)
    with pytest.raises(ConfigError, match="iterated over already"):
        next(iter(one))
    rounds.close()
    seen = [courses["NaCl"].samples for courses in one]
    assert seen == sorted(seen) and seen[-1] >= 8
    found = one.found()
    assert found.ranked.properties[0]["energy_per_atom"] == pytest.approx(one.courses["NaCl"].best)
    assert found.convergence["NaCl"].best == found.ranked.properties[0]["copies"]
    assert callable(og.search)
    for wrong, said in (
        ({"method": "reinforced"}, "method: 'reinforced'"),
        ({"z": 2}, "z: 2"),
        ({"batch": 0}, "batch: 0"),
        ({"within": -1.0}, "within: -1.0"),
        ({"block": 0}, "block: 0"),
        ({"minutes": -1.0}, "minutes: -1.0"),
    ):
        with pytest.raises(ConfigError, match=said):
            search("NaCl", workshop.potential, **{"model": base, **QUICK, **wrong})
    with pytest.raises(ConfigError, match="formulas: name"):
        search((), workshop.potential, model=base, **QUICK)


def test_what_cannot_be_searched_is_refused(
    base: Path, de_novo: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    def refused(model: Path, formula: str, *more: object) -> Any:
        words = ["--potential", workshop.potential, "--to", tmp_path / "x", *WORDS]
        return command("search", model, "--formula", *formula.split(), *words, *more)

    refused(base, "NaCl Na2Cl2").refuses("one composition", "--z")
    refused(base, "NaCl", "--evaluations", 9).refuses("--evaluations 9", "up to 10", "--relax")
    refused(base, "LiFe").refuses("never trained on Li, Fe", code=1)
    refused(base, "NaQq").refuses("Qq", code=1)
    refused(base, "NaCl", "--stoichiometry", "1:1").refuses("--stoichiometry", "--chemical-system")
    refused(base, "NaCl", "--z", "0").refuses("formula units '0'", code=1)
    refused(de_novo, "NaCl").refuses("species itself", code=1)
    refused(base, "NaCl", "--resume").refuses("no search in")
    assert not (tmp_path / "x").exists()
