"""A reward of one's own, measured on generated crystals and on crystals that exist already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.commands.train import TrainResult
from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.evaluate.backend import assess
from omatg_ray.reward.build import build_scorers
from omatg_ray.reward.matching import Matcher
from omatg_ray.reward.potential import Potential
from omatg_ray.reward.settings import RewardSettings
from tests.commands.conftest import Command, Workshop, synthetic_crystals
from tests.report.test_run import Tables


@pytest.fixture(scope="module")
def config(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "reward.yaml"
    weights = "{energy: 1, volume: 2, density: 0}"
    groups = "volume: {target: 20}, density: {target: 3}"
    path.write_text(f"reward: {{potential: {workshop.potential}, weights: {weights}, {groups}}}\n")
    return path


def words(place: object, workshop: Workshop, *others: object) -> list[object]:
    return ["evaluate", place, "--data", workshop.data, "--steps", 4, "--workers", 0, "--quiet", *others]


def test_evaluations_and_existing_crystals_get_the_same_values(
    base: Path, workshop: Workshop, config: Path, command: Command, tmp_path: Path
) -> None:
    generated, scored, plain = (tmp_path / f"{name}.json" for name in ("generated", "scored", "plain"))
    crystals = tmp_path / "crystals.extxyz"
    potential = ["--potential", workshop.potential]
    done = command(*words(base, workshop, "--reward", config, "--json", generated, "--out", crystals))
    assert done.code == 0, done.err
    assert "weighted sum" in done.out and "volume.volume_per_atom" in done.out
    out = tmp_path / "scored.extxyz"
    alone = command("evaluate", "--structures", crystals, "--reward", config, "--json", scored, "--out", out, "--quiet")
    assert alone.code == 0, alone.err
    assert alone.out.startswith("13 crystals, ")
    assert command(*words(base, workshop, *potential, "--json", plain)).code == 0
    found, again, without = (json.loads(path.read_text()) for path in (generated, scored, plain))
    names = ["weighted sum", "energy", "energy_per_atom", "min_distance", "volume_per_atom"]
    names += ["density", "density.density", "volume", "volume.volume_per_atom"]
    assert list(found["rewards"]) == list(again["rewards"]) == names
    # Nothing else is changed by a reward that is measured too.
    assert "rewards" not in without and "reward" not in without["per_structure"]
    assert (
        found["intervals"] == without["intervals"] and found["relative_energy_mean"] == without["relative_energy_mean"]
    )
    rows, more = found["per_structure"], again["per_structure"]
    assert rows["reward.energy_per_atom"] == rows["energy_per_atom"]
    for row, total in enumerate(rows["reward"]):
        assert total == pytest.approx(rows["reward.energy"][row] + 2 * rows["reward.volume"][row])
    for column in ("reward", "reward.density.density"):
        assert more[column] == pytest.approx(rows[column], abs=1e-4)
    written = read_dataset(out, reduce=False, allow_overlaps=True).properties
    assert [row["reward.volume"] for row in written] == pytest.approx(more["reward.volume"])
    total = again["rewards"]["weighted sum"]
    assert total["compositions"] == 13 and total["low"] < total["mean"] < total["high"]
    assert total["mean"] == pytest.approx(sum(more["reward"]) / 13)


def test_cases_are_compared_by_it_and_kept_apart_from_those_of_other_rewards(
    base: Path, trained: TrainResult, workshop: Workshop, config: Path, command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "compared"
    case = [base, *words(workshop.root / "trained", workshop, "--to", folder)[1:]]
    done = command("evaluate", *case, "--reward", config)
    assert done.code == 0, done.err
    first, second = json.loads((folder / "evaluation.json").read_text())["cases"]
    change = second["less_first"]["reward.volume"]
    assert change["mean"] == pytest.approx(second["rewards"]["volume"]["mean"] - first["rewards"]["volume"]["mean"])
    assert change["compositions"] == 13
    rewards = next(table for table in Tables((folder / "report.html").read_text()).tables if table[0][0] == "reward")
    assert [row[0] for row in rewards[1:3]] == ["weighted sum", "energy"] and len(rewards[0]) == 4
    sure = change["low"] > 0 or change["high"] < 0
    assert ("*" in next(row for row in rewards if row[0] == "volume")[3]) == sure
    assert "evaluated before, and not again: 2 of 2" in command("evaluate", *case, "--reward", config).out
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text().replace("volume: 2", "volume: 3"))
    assert "evaluated before" not in command("evaluate", *case, "--reward", other).out


@pytest.mark.processes
def test_the_reward_of_a_run_has_the_references_of_the_run(
    base: Path, trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "data").mkdir(parents=True)
    (run / "config.yaml").write_text("reward: {weights: {crmse: 1}}\n")
    for name in ("train", "val", "test"):
        text = (workshop.root / "trained" / "data" / f"{name}.extxyz").read_text()
        (run / "data" / f"{name}.extxyz").write_text(text)
    files = {name: run / "data" / f"{name}.extxyz" for name in ("train", "test")}
    score = command(
        "evaluate", "--structures", files["train"], "--reward", run, "--quiet", "--json", tmp_path / "a.json"
    )
    assert score.code == 0, score.err
    values = json.loads((tmp_path / "a.json").read_text())["per_structure"]["reward.crmse"]
    assert values == pytest.approx([0.5] * len(values), abs=1e-6)
    # Scored crystals are no references of themselves; those of an evaluation are references.
    without = command("evaluate", "--structures", files["test"], "--reward", run)
    without.refuses("no reference has the composition", code=1)
    (tmp_path / "own.yaml").write_text("reward: {weights: {crmse: 1}}\n")
    alone = ["evaluate", "--structures", files["test"], "--reward", tmp_path / "own.yaml"]
    command(*alone).refuses("reward.crmse", "own.yaml names no crystals")
    done = command(*words(base, workshop, "--reward", run, "--potential", "none", "--json", tmp_path / "b.json"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "b.json").read_text())["rewards"]["crmse"]["n"] == 13


def test_energies_are_computed_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    known = read_dataset(workshop.data)
    settings: dict[str, Any] = {"potential": str(workshop.potential), "weights": {"energy": 1}}
    evaluated: list[int] = []
    energies = Potential.energies

    def counted(self: Potential, crystals: Any, *arguments: Any, **keywords: Any) -> torch.Tensor:
        evaluated.append(len(crystals))
        return energies(self, crystals, *arguments, **keywords)

    monkeypatch.setattr(Potential, "energies", counted)
    plain = build_scorers(RewardSettings.model_validate(settings), known)
    evaluated.clear()  # A potential that is loaded is checked.
    with Matcher() as matcher:
        first = assess(known.crystals, None, matcher, plain.energy)
        second = assess(known.crystals, None, matcher, plain.energy, plain.reward)
        (alone, none), (energy, reward) = ((one.energy, one.reward) for one in (first, second))
        assert none is None and alone is not None and energy is not None and reward is not None
        assert evaluated == [13, 13]
        assert energy.tolist() == alone.tolist() == reward.values["energy_per_atom"].tolist()
        # Relaxed crystals have other energies, which are not those of the evaluation.
        relaxed = build_scorers(RewardSettings.model_validate(settings | {"relax_steps": 1}), known)
        assert relaxed.reward is not None and relaxed.energy is not None
        assert relaxed.reward.energy_like(relaxed.energy) is relaxed.energy


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Crystals, two of which hold elements that the potential does not know."""
    path = tmp_path / "strange.extxyz"
    strangers = [Structure(Lattice.cubic(4), [name, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for name in ("Xe", "W")]
    write_structures(path, [*strangers, *synthetic_crystals()])
    return path


def test_crystals_with_unknown_elements_are_refused_or_left_out(
    config: Path, workshop: Workshop, strange: Path, command: Command, tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    # Without other crystals, and before those that the file names are read: these are none.
    (tmp_path / "no.csv").write_text("no crystals\n")
    named = tmp_path / "named.yaml"
    named.write_text(f"{config.read_text()}data: {{file: {tmp_path / 'no.csv'}}}\n")
    for reward in (config, named):
        refused = command("evaluate", "--structures", strange, "--reward", reward)
        refused.refuses("cannot score crystals with Xe (1), W (1)", "--drop-unknown", code=1)
    named.write_text(
        f"{config.read_text()}data: {{train: {workshop.data}, val: {workshop.data}, test: {workshop.data}}}\n"
    )
    for reward in (config, named):
        score = ["evaluate", "--structures", strange, "--reward", reward, "--drop-unknown", "--json", found, "--quiet"]
        done = command(*score)
        assert done.code == 0, done.err
        assert "strange.extxyz: 2 crystals of 15 left out" in done.err and "Xe (1), W (1)" in done.err
        assert done.out.startswith("13 crystals, ")
        ids = json.loads(found.read_text())["per_structure"]["id"]
        assert ids == [str(number) for number in range(3, 16)]


def test_elements_that_only_a_part_does_not_know_are_left_out_too(
    workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    """The hull has no entries of theirs."""
    known, entries, place = (tmp_path / name for name in ("known.extxyz", "entries.csv", "reward.yaml"))
    write_structures(known, synthetic_crystals()[:1])
    entries.write_text("formula,energy_per_atom\nNa,-30\nF,-30\nCl,-30\n")
    place.write_text(
        f"reward: {{potential: {workshop.potential}, weights: {{hull: 1}}, hull: {{entries: {entries}}}}}\n"
        f"data: {{train: {known}, val: {known}, test: {known}}}\n"
    )
    score = ["evaluate", "--structures", workshop.data, "--reward", place, "--quiet"]
    command(*score).refuses("cannot score crystals with O (2), Mg (2), S (2), ", "--drop-unknown", code=1)
    done = command(*score, "--drop-unknown")
    assert done.code == 0, done.err
    assert "11 crystals of 13 left out: reward " in done.err and done.out.startswith("2 crystals, ")


def test_crystals_outside_of_the_domain_of_the_potential_are_told_of_as_relax_does(
    workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    potential = tmp_path / "potential"
    shutil.copytree(workshop.potential, potential)
    domain = Domain.of([crystal.atomic_numbers for crystal in synthetic_crystals()[:1]], sized=False)
    (potential / DOMAIN_FILE).write_text(domain.model_dump_json())
    place = tmp_path / "reward.yaml"
    said = []
    rest = "volume: {target: 20}, weights"
    for keys in (
        f"potential: {potential}, {rest}: {{energy: 1}}",
        f"potential: {potential}, {rest}: {{volume: 1, energy: 0}}",
        f"potential: {workshop.potential}, second_potential: {potential}, {rest}: {{volume: 1}}",
        f"potential: {potential}, {rest}: {{volume: 1}}",
    ):
        place.write_text(f"reward: {{{keys}}}\n")
        done = command("evaluate", "--structures", workshop.data, "--reward", place)
        assert done.code == 0, done.err
        said.append([line for line in done.err.splitlines() if "outside of the training data" in line])
    out = ["--steps", 0, "--workers", 0, "--out", tmp_path / "relaxed.extxyz"]
    relaxed = command("relax", workshop.data, "--potential", potential, *out)
    (line,) = [line for line in relaxed.err.splitlines() if "outside of the training data" in line]
    assert "12 of 13 crystals" in line and said == [[line], [line], [line], []]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ("data: {file: x.csv}", "has no section `reward`"),
        ("reward: {weights: {nothing: 1}}", "weights.nothing: there is no such reward"),
        ("reward: {potential: ./no}", "potential folder no does not exist"),
    ],
)
def test_what_is_no_reward_is_refused(
    text: str | None, said: str, base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "reward.yaml"
    if text is not None:
        path.write_text(text + "\n")
    code = 1 if "potential" in said else 2
    command(*words(base, workshop, "--reward", path)).refuses(said, code=code)
    command("evaluate", "--structures", workshop.data, "--reward", path).refuses(said, code=code)


def test_what_only_generated_crystals_have_is_refused(workshop: Workshop, config: Path, command: Command) -> None:
    scored = ["evaluate", "--structures", workshop.data]
    command(*scored).refuses("--reward CONFIG")
    command(*scored, "--reward", config, "--data", workshop.data).refuses("leave out --data")
    command(*scored, "--reward", config, "--samples", 2).refuses("leave out --samples")
    command("evaluate", "--data", workshop.data).refuses("MODEL", "--structures")
