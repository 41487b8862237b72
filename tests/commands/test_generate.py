from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.cli.verbs.generate import DESCRIPTION
from omatg_ray.commands.generate import GenerateOptions, generate
from omatg_ray.commands.ranked import ORDERED, RAISED, RankedCrystals, bonds_of_best, legend, listing, summary
from omatg_ray.commands.train import TrainResult
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError, DataError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.potential import load_potential
from tests.commands.conftest import Command, Workshop
from tests.small import random_crystals


@pytest.mark.parametrize("name", ["out.extxyz", "out.cif", "out.json", "crystals/"])
def test_every_format_can_be_read_again(
    trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path, name: str
) -> None:
    words = ["--formula", "NaCl", "--z", "1,2", "-n", "3", "--steps", "4", "--workers", "0", "--quiet"]
    target = f"{tmp_path}/{name}"
    done = command("generate", trained.model, *words, "--potential", workshop.potential, "--out", target)
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {name.rstrip("/")}
    found = read_dataset(target)
    assert set(found.compositions) == {"NaCl"}
    assert found.sizes <= {2, 4}
    for properties in found.properties:
        assert {"energy_per_atom", "rank", "copies", "seed", "model", "steps", "z"} <= properties.keys()
    last = done.out.splitlines()[-1]
    assert last.startswith(f"6 generated, 0 invalid, {len(found)} unique") and last.endswith(f", written to {target}")
    energies = [row["energy_per_atom"] for row in found.properties]
    assert energies == sorted(energies)
    above = [row["energy_above_best"] for row in found.properties]
    assert above == pytest.approx([energy - min(energies) for energy in energies], abs=1e-8)
    assert last.count("more than 3 eV/atom") == (max(above) > 3)
    shortest = [row["shortest_bond"] or 1.0 for row in found.properties]
    absurd = sum(energy > 3 or ratio < 0.6 for energy, ratio in zip(above, shortest, strict=True))
    assert sum(line.endswith(" !") for line in done.out.splitlines()) == absurd
    assert [row["rank"] for row in found.properties] == list(range(1, len(found) + 1))
    assert sum(int(row["copies"]) for row in found.properties) == 6


def test_guided_crystals_are_the_models_further_from_its_base(
    trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = ["--formula", "NaCl", "-n", 6, "--steps", 4, "--workers", 0, "--quiet", "--seed", 5]
    found, crystals = {}, {}
    for guidance in ("1", "3", "3:2,0"):
        out = tmp_path / f"{guidance}.extxyz"
        done = command("generate", trained.model, *words, "--guidance", guidance, "--out", out)
        assert done.code == 0, done.err
        read = read_dataset(out, reduce=False)
        found[guidance] = {int(row["index"]): row for row in read.properties}
        crystals[guidance] = {int(row["index"]): read.crystals.select([i]) for i, row in enumerate(read.properties)}
    assert all("guidance" not in row for row in found["1"].values())
    assert {row["guidance"] for row in found["3"].values()} == {3.0}
    assert all(row["guidance"] == (0.0, 3.0)[index % 3 < 2] for index, row in found["3:2,0"].items())
    base, model = FlowModel.load(workshop.root / "base"), FlowModel.load(trained.model)
    made = {g: model.generate([[11, 17]] * 6, Sampling(4, guidance=(g,)), seed=5, judged=True) for g in (0.0, 3.0)}
    assert torch.equal(made[0.0].pos, base.generate([[11, 17]] * 6, Sampling(4), seed=5, judged=True).pos)
    for index, crystal in crystals["3:2,0"].items():
        expected = made[0.0 if index % 3 == 2 else 3.0].select([index])
        torch.testing.assert_close(crystal.cell, expected.cell, atol=1e-4, rtol=0)
    command("generate", trained.model, *words, "--guidance", 1, "--guidance", 2).refuses("one --guidance", "not 2")


def test_formulas_from_a_file_come_in_its_order(base: Path, command: Command, tmp_path: Path) -> None:
    formulas, out = tmp_path / "list.txt", tmp_path / "out.json"
    formulas.write_text("RbBr\nMgO2  # a comment\n")
    done = command(
        "generate", base, "--formulas", formulas, "-n", 2, "--steps", 4, "--workers", 0, "--quiet", "--out", out
    )
    assert done.code == 0, done.err
    rows = json.loads(out.read_text())
    names = [row["formula"] for row in rows]
    assert list(dict.fromkeys(names)) == ["RbBr", "MgO2"]
    assert next(row["rank"] for row in rows if row["formula"] == "RbBr") == 1
    assert not any({"energy_per_atom", "energy_above_best", "relax_steps"} & row.keys() for row in rows)


def stub_crystals(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    original = FlowModel.generate

    def changed(self: FlowModel, *arguments: Any, **options: Any) -> CrystalBatch:
        return change(original(self, *arguments, **options))

    monkeypatch.setattr(FlowModel, "generate", changed)


def options(base: Path, *formulas: str, count: int = 2) -> GenerateOptions:
    return GenerateOptions(model=base, formulas=formulas, count=count, sampling=Sampling(3), workers=0, device="cpu")


def collapsed(rows: list[int]) -> Any:
    def change(crystals: CrystalBatch) -> CrystalBatch:
        cell = 4.0 * torch.eye(3).repeat(len(crystals), 1, 1)
        cell[rows] = 0.01 * torch.eye(3)
        pos = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).repeat(len(crystals), 1)
        return crystals.replace(pos, cell)

    return change


def test_invalid_crystals_are_dropped_and_copies_counted(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_crystals(monkeypatch, collapsed([0]))
    found = generate(options(base, "NaCl", count=4))
    assert (found.asked, found.invalid, len(found.crystals)) == (4, 1, 1)
    assert found.properties[0]["copies"] == 3
    assert found.properties[0]["index"] == 1
    assert found.properties[0]["space_group"] == "Pm-3m"


def test_a_formula_without_valid_crystals_gives_a_warning_and_none_at_all_an_error(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stub_crystals(patch, collapsed([2, 3]))
        with pytest.warns(UserWarning, match=r"no valid crystal of KF \(z = 1\)"):
            found = generate(options(base, "NaCl", "KF"))
        assert [row["formula"] for row in found.properties] == ["NaCl"]
    stub_crystals(monkeypatch, collapsed([0, 1]))
    with pytest.raises(DataError, match="none of the 2 generated crystals is valid"):
        generate(options(base, "NaCl"))


def distorted(crystals: CrystalBatch) -> CrystalBatch:
    """CsCl cells of different sizes, a little out of shape, so that each is P1."""
    shape = torch.tensor([[1.0, 0.02, 0], [0, 1.01, 0.03], [0.01, 0, 0.99]])
    cell = (3.6 + 0.1 * torch.arange(len(crystals)))[:, None, None] * shape
    pos = torch.tensor([[0.0, 0, 0], [0.53, 0.49, 0.51]]).repeat(len(crystals), 1)
    return crystals.replace(pos, cell)


class Spring:
    """Energy of a simple quadratic form around a cube of 4 Å with the second atom in its middle."""

    name, elements, domain, fingerprint = "spring", frozenset({11, 17}), None, "spring"
    centre = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64)

    def require_elements(self, elements: Any) -> None:
        assert set(elements) <= self.elements

    def energies(self, crystals: CrystalBatch, *_: Any, **__: Any) -> torch.Tensor:
        return self.gradients(crystals)[0]

    def gradients(self, crystals: CrystalBatch, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pos, cell = crystals.pos.double().view(-1, 2, 3), crystals.cell.double()
        stretch = cell @ cell.mT - 16.0 * torch.eye(3, dtype=torch.float64)
        shift = (pos[:, 1] - pos[:, 0] - 0.5)[:, None] @ cell
        energy = -2.0 + 0.01 * stretch.square().sum((1, 2)) + 2.0 * shift.square().sum((1, 2))
        pull = torch.cat([4.0 * shift, -4.0 * shift], 1).flatten(0, 1)
        # d(L Lᵀ) = L (ε + εᵀ) Lᵀ for L -> L (1 + ε); the shift follows as shift (1 + ε).
        virial = 0.04 * cell.mT @ stretch @ cell + 4.0 * shift.mT @ shift
        return energy, pull, virial


def test_relaxed_crystals_have_the_energies_and_space_groups_of_what_they_relaxed_to(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_crystals(monkeypatch, distorted)
    monkeypatch.setattr("omatg_ray.reward.energy.load_potential", lambda *_: Spring())
    asked = dataclasses.replace(options(base, "NaCl", count=3), potential="spring")
    plain = generate(asked)
    assert plain.properties[0]["space_group"] == "P1"
    relaxed = generate(dataclasses.replace(asked, relax=300, block=2))
    # All go to the one minimum, and are one crystal.
    (row,) = relaxed.properties
    assert (row["space_group"], row["copies"], row["energy_above_best"]) == ("Pm-3m", 3, 0.0)
    assert row["energy_per_atom"] == pytest.approx(-1.0, abs=1e-3)
    assert relaxed.crystals.cell[0].det().item() == pytest.approx(64.0, rel=0.02)
    before = Spring().energies(distorted(random_crystals([2] * 3)))[row["index"]].item() / 2
    assert row["relax_drop"] == pytest.approx(before - row["energy_per_atom"], abs=1e-4)
    assert 0 < row["relax_steps"] <= 300
    short = generate(dataclasses.replace(asked, relax=1))
    assert all(row["relax_steps"] == 1 for row in short.properties)
    relaxations = [{row["relaxation"] for row in found.properties} for found in (plain, relaxed, short)]
    assert relaxations == [{"none"}, {"converged"}, {"not converged"}]
    heads = [legend(found).splitlines()[0] for found in (plain, relaxed, short)]
    assert re.fullmatch(r"space groups: to 0.1 A( \(.*\))?, of crystals as generated \(unrelaxed\)", heads[0])
    assert heads[1].endswith("relaxed in at most 300 steps; 1 of 1 converged to forces below 0.05 eV/A")
    assert heads[2].endswith(f"0 of {len(short.properties)} converged to forces below 0.05 eV/A (others: ~)")
    marked = [[line.endswith(" ~") for line in listing(found).splitlines()] for found in (plain, relaxed, short)]
    assert marked == [[False] * len(plain.properties), [False], [True] * len(short.properties)]


def test_crystals_are_relaxed_from_the_command_line(
    trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out.extxyz"
    words = ["--formula", "NaCl", "-n", 3, "--steps", 4, "--workers", 0, "--quiet", "--out", out]
    done = command("generate", trained.model, *words, "--potential", workshop.potential, "--relax", 2)
    assert done.code == 0, done.err
    found = read_dataset(out, reduce=False)
    energies = load_potential(workshop.potential).energies(found.crystals) / found.crystals.n_atoms
    assert [row["energy_per_atom"] for row in found.properties] == pytest.approx(energies.tolist(), abs=1e-3)
    assert all(0 <= row["relax_steps"] <= 2 and row["relax_drop"] >= 0 for row in found.properties)


def test_generated_species_that_the_potential_does_not_know_stay_as_they_are(
    de_novo: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 0 and 2 of three are of elements of the potential."""
    species = torch.tensor([11, 17, 92, 8, 12, 8])
    pos = torch.tensor([[0.0, 0, 0], [0.53, 0.49, 0.51]]).repeat(3, 1)
    cell = 3.6 * torch.eye(3).repeat(3, 1, 1)
    made = CrystalBatch(species, pos, cell, torch.tensor([2, 2, 2]))
    stub_crystals(monkeypatch, lambda _: made)
    asked = dataclasses.replace(options(de_novo, count=3), atoms=(2,), potential=str(workshop.potential), relax=2)
    found = generate(asked)
    rows = {row["index"]: (row, crystal) for crystal, row in enumerate(found.properties)}
    assert set(rows) == {0, 1, 2}
    unknown, place = rows[1]
    assert unknown["energy_per_atom"] is unknown["energy_above_best"] is None
    kept = found.crystals.select([place])
    assert kept.species.tolist() == [92, 8] and torch.equal(kept.pos.float(), pos[:2])
    for index in (0, 2):
        row, place = rows[index]
        crystal = found.crystals.select([place])
        assert crystal.species.tolist() == species[2 * index : 2 * index + 2].tolist()
        energy = load_potential(workshop.potential).energies(crystal).item() / 2
        assert row["energy_per_atom"] == pytest.approx(energy, abs=1e-4)


def test_relaxation_without_a_potential_is_refused(base: Path, command: Command, tmp_path: Path) -> None:
    words = ["--formula", "NaCl", "--out", tmp_path / "out.cif"]
    command("generate", base, *words, "--relax", 5).refuses("--relax", "--potential")
    command("generate", base, *words, "--relax", -1).refuses("--relax", "at least 0")


def test_absurd_crystals_are_marked_and_counted_and_none_is_dropped() -> None:
    def row(
        formula: str, rank: int, energy: float | None, above: float | None, shortest: float | None = None
    ) -> dict[str, Any]:
        known = {"formula": formula, "z": 1, "rank": rank, "energy_per_atom": energy, "energy_above_best": above}
        known |= {"space_group": None, "copies": 1, "copies_by_z": None, "domain": "yes", "disputed": None}
        known |= {"space_group_number": None, "space_group_looser": None, "space_group_looser_number": None}
        return known | {"second_potential": None, "relaxation": "none", "bonds": None, "shortest_bond": shortest}

    rows = [row("NaCl", 1, -3.0, 0.0), row("NaCl", 2, 0.0, 3.0), row("NaCl", 3, 0.1, 3.1), row("KF", 1, None, None)]
    found = RankedCrystals(random_crystals([2] * 4), rows, 5, 1)
    lines = listing(found).splitlines()
    assert [line.endswith(" !") for line in lines] == [False, False, True, False]
    assert "+3.1000" in lines[2] and "eV/atom" not in lines[3]
    assert summary(found) == (
        "5 generated, 1 invalid, 4 unique, 1 more than 3 eV/atom above the best of their composition (!)"
    )
    assert summary(dataclasses.replace(found, properties=rows[:2])).endswith("4 unique")
    # Alone in its composition it is the best, and yet its atoms overlap.
    alone = RankedCrystals(
        random_crystals([2] * 2), [row("NaCl", 1, 25.0, 0.0, 0.3), row("KF", 1, -3.0, 0.0, 0.8)], 2, 0
    )
    assert [line.endswith(" !") for line in listing(alone).splitlines()] == [True, False]
    assert summary(alone).endswith("2 unique, 1 with atoms closer than 0.6 x radii (!)")


def test_the_first_crystal_is_not_called_the_best_without_energies(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_crystals(monkeypatch, distorted)
    found = generate(options(base, "NaCl"))
    assert bonds_of_best(found).startswith("closest bonds of the first, since nothing is ranked without a potential (")
    ranked = [row | {"energy_per_atom": -1.0} for row in found.properties]
    assert bonds_of_best(dataclasses.replace(found, properties=ranked)).startswith("closest bonds of the best (")


def test_elements_that_the_model_never_saw_are_refused(base: Path, command: Command, tmp_path: Path) -> None:
    words = ["--formula", "NaCl", "UCo2", "--steps", 4, "--workers", 0, "--quiet", "--out", tmp_path / "out.cif"]
    command("generate", base, *words).refuses(str(base), "never trained on Co, U and cannot generate UCo2; it", code=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--formula", "Xy2"], "'Xy'"),
        (["--formula", "nacl"], "'nacl'"),
        (["--formula", "NaCl", "--z", "2-1"], "'2-1'"),
    ],
)
def test_formulas_that_cannot_be_parsed_are_refused(
    base: Path, command: Command, tmp_path: Path, words: list[str], named: str
) -> None:
    command("generate", base, *words, "--out", tmp_path / "out.cif").refuses(named, code=1)
    assert not list(tmp_path.iterdir())


def test_models_that_generate_species_take_numbers_of_atoms(
    de_novo: Path, base: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out.extxyz"
    words = ["--steps", 4, "--workers", 0, "--quiet", "--out", out]
    done = command("generate", de_novo, "--atoms", 1, 2, "-n", 3, *words)
    assert done.code == 0, done.err
    found = read_dataset(out)
    assert found.sizes == {1, 2}
    for crystal, properties in zip(found.crystals.formulas(), found.properties, strict=True):
        assert (properties["formula"], properties["z"]) == (crystal, 1)
    command("generate", de_novo, "--formula", "NaCl", *words).refuses("takes no formulas", code=1)
    command("generate", base, "--atoms", 2, *words).refuses("give formulas, not numbers of atoms", code=1)


def test_a_bad_line_of_a_list_is_named(base: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("NaCl\nNa(Cl\n")
    words = ["--formulas", tmp_path / "list.txt", "--out", tmp_path / "out.cif"]
    command("generate", base, *words).refuses("list.txt, line 2", code=1)


def test_copies_say_their_formula_units(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both cells are CsCl of 4 Å, one of them twice as long."""

    def change(crystals: CrystalBatch) -> CrystalBatch:
        doubled = crystals.n_atoms == 4
        cell = 4.0 * torch.eye(3).repeat(len(crystals), 1, 1)
        cell[doubled, 2, 2] = 8.0
        cubic, long = [[0.0, 0, 0], [0.5] * 3], [[0.0, 0, 0], [0, 0, 0.5], [0.5, 0.5, 0.25], [0.5, 0.5, 0.75]]
        return crystals.replace(torch.tensor([site for row in doubled for site in (long if row else cubic)]), cell)

    stub_crystals(monkeypatch, change)
    with pytest.warns(UserWarning, match="none has 4 atoms"):
        found = generate(dataclasses.replace(options(base, "NaCl", count=3), z=(1, 2)))
    (row,) = found.properties
    assert (row["copies"], row["copies_by_z"]) == (6, "z=1: 3, z=2: 3")
    assert " x6 (z=1: 3, z=2: 3)  in domain: " in listing(found)
    assert row["bonds"] is None  # 3.46 Å are 1.29 times the radii
    assert bonds_of_best(found).splitlines()[1:] == ["        NaCl  no atoms within 1.2 x radii"]


def test_compositions_outside_of_the_training_set_are_marked_and_warned_of_once(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    domain = FlowModel.load(base).description.domain
    assert domain is not None
    out = tmp_path / "out.json"
    words = ["--formula", "NaCl", "KCaF2", "NaCl2", "-n", 2, "--steps", 4, "--workers", 0, "--quiet", "--out", out]
    done = command("generate", base, *words, "--potential", workshop.potential)
    assert done.code == 0, done.err
    (warning,) = [line for line in done.err.splitlines() if "outside of the training data" in line]
    assert f"model {base}, " in warning and f"of its {domain.crystals} training crystals none has " in warning
    assert "K-Ca" in warning and "4 atoms" in warning and str(workshop.potential) not in warning
    by_formula = {row["formula"]: row["domain"] for row in json.loads(out.read_text())}
    assert "K-Ca" in by_formula["KCaF2"] and "4 atoms" in by_formula["KCaF2"]
    for formula, text in by_formula.items():
        assert text in ("yes", "unknown") or text.startswith("no ("), text
        assert f"in domain: {text}" in done.out, formula
    assert f"in domain: potential {workshop.potential} does not say what it saw" in done.out.splitlines()


class Stiff(Spring):
    """Another potential, which puts crystals in the same order, or in reverse."""

    name, fingerprint, factor = "stiff", "stiff", 1.5

    def energies(self, crystals: CrystalBatch, *_: Any, **__: Any) -> torch.Tensor:
        return self.factor * super().energies(crystals)


def test_a_second_potential_shows_its_energies_and_marks_where_it_disagrees(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stretched(crystals: CrystalBatch) -> CrystalBatch:
        cell = 2.0 * torch.eye(3).repeat(len(crystals), 1, 1)
        cell[:, 2, 2] = torch.tensor([1.2, 2.0, 3.4, 5.4])
        return crystals.replace(torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).repeat(len(crystals), 1), cell)

    potentials = {"spring": Spring(), "stiff": Stiff()}
    monkeypatch.setattr("omatg_ray.reward.energy.load_potential", lambda name, _: potentials[name])
    stub_crystals(monkeypatch, stretched)
    asked = dataclasses.replace(options(base, "NaCl", count=4), potential="spring", second_potential="stiff")
    agreeing = generate(asked)
    assert len(agreeing.properties) == 4
    monkeypatch.setattr(Stiff, "factor", -1.0)
    found = generate(asked)
    second = Stiff().energies(found.crystals) / 2
    rows = found.properties
    assert [row["second_energy_per_atom"] for row in rows] == pytest.approx(second.tolist())
    above = (second - second.min()).tolist()
    assert [row["second_energy_above_best"] for row in rows] == pytest.approx(above)
    assert [row["energy_per_atom"] for row in rows] == [row["energy_per_atom"] for row in agreeing.properties]
    assert not any(row["disputed"] for row in agreeing.properties) and "(?)" not in summary(agreeing)
    assert [bool(row["disputed"]) for row in rows] == [" ?" in line for line in listing(found).splitlines()]
    disputed = sum(row["disputed"] for row in rows)
    assert disputed >= 2 and f"{disputed} on which the potentials disagree by more than 0.1 eV" in summary(found)
    assert f" second {above[0]:+.4f}" in listing(found).splitlines()[0]
    assert legend(found).splitlines()[-1] == ORDERED
    with pytest.warns(UserWarning, match="will always agree"):
        generate(dataclasses.replace(asked, second_potential="spring"))
    with pytest.raises(ConfigError, match="--second-potential"):
        generate(dataclasses.replace(asked, potential=None))


def test_help_legend_and_docs_say_in_the_same_words_when_potentials_disagree() -> None:
    texts = [DESCRIPTION, (Path(__file__).parents[2] / "docs" / "bundled.md").read_text(encoding="utf-8")]
    for text in map(str.split, texts):
        assert all(rule.removeprefix("?: ") in " ".join(text).replace("`", "") for rule in (ORDERED, RAISED))


def generated(command: Command, base: Path, *words: object) -> Any:
    fixed = ["--steps", 3, "--workers", 0, "--quiet", "--device", "cpu"]
    formula = [] if "--formula" in words else ["--formula", "NaCl"]
    return command("generate", base, *formula, *fixed, *words)


def test_a_poscar_holds_the_best_crystal(
    workshop: Workshop, base: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_crystals(monkeypatch, distorted)
    words = ["--formula", "NaCl", "ClNa", "-n", 2, "--potential", workshop.potential, "--out"]
    done = generated(command, base, *words, tmp_path / "all.extxyz")
    assert done.code == 0, done.err
    count = len(read_dataset(tmp_path / "all.extxyz"))
    done = generated(command, base, *words, tmp_path / "POSCAR")
    assert done.code == 0, done.err
    target = tmp_path / "POSCAR"
    last = f"best of {count} written to {target} (--out folder/ --format vasp writes all)" if count > 1 else target
    assert done.out.splitlines()[-1].endswith(str(last))
    best, all_of_them = read_dataset(target, reduce=False).crystals, read_dataset(tmp_path / "all.extxyz", reduce=False)
    torch.testing.assert_close(best.cell, all_of_them.crystals.cell[:1])
    done = generated(command, base, *words, f"{tmp_path}/folder/", "--format", "vasp")
    assert done.code == 0 and len(list((tmp_path / "folder").glob("*.vasp"))) == count


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--out", "x.vasp", "-n", 2], "2 crystals without --potential to rank them leave open which"),
        (["--out", "POSCAR", "--z", "1,2"], "POSCAR: it holds one crystal, and 2 crystals without --potential"),
        (
            ["--formula", "NaCl", "Na2Cl2", "NaF", "--out", "POSCAR"],
            r"POSCAR: it holds one crystal, and 2 compositions \(NaCl, NaF\)",
        ),
        (["--out", "taken/"], "cannot write taken/: there is a file of that name"),
        (["--out", "crystals"], r"cannot write .*crystals: it has no suffix; .*a folder of CIF files: .*crystals/"),
        (["--out", "x.pdb", "--format", "vasp"], "unknown suffix; .* a folder of POSCAR files"),
        (["--out", "x.extxyz", "--format", "cif"], "x.extxyz: it has another format than cif"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_generated(
    base: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    monkeypatch.setattr(FlowModel, "load", None)
    done = generated(command, base, *words)
    assert done.code == 2
    assert re.search(reason, done.err), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_standard_cells_and_their_units(
    base: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rock salt in its primitive cell: four formula units in the conventional one."""

    def rock_salt(crystals: CrystalBatch) -> CrystalBatch:
        cell = 2.82 * torch.tensor([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]).repeat(len(crystals), 1, 1)
        return crystals.replace(torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.503]]).repeat(len(crystals), 1), cell)

    stub_crystals(monkeypatch, rock_salt)
    for name in ("x.cif", "x.extxyz"):
        done = generated(command, base, "--out", tmp_path / name, "--standardize", "conventional")
        assert done.code == 0, done.err
        found = read_dataset(tmp_path / name, reduce=False)
        assert found.crystals.n_atoms.tolist() == [8]
        assert found.properties[0]["z"] == 4 and found.properties[0]["space_group"] == "Fm-3m"
    assert "'F m -3 m'" in (tmp_path / "x.cif").read_text()
