from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.commands.generate import GenerateOptions, generate
from omatg_ray.commands.train import TrainResult
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import DataError
from omatg_ray.model import FlowModel
from tests.commands.conftest import Command, Workshop


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
    assert f"6 generated, 0 invalid, {len(found)} unique, written to {target}" in done.out
    energies = [row["energy_per_atom"] for row in found.properties]
    assert energies == sorted(energies)
    assert [row["rank"] for row in found.properties] == list(range(1, len(found) + 1))
    assert sum(int(row["copies"]) for row in found.properties) == 6


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
    assert all("energy_per_atom" not in row for row in rows)


def stub_crystals(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    original = FlowModel.generate

    def changed(self: FlowModel, *arguments: Any) -> CrystalBatch:
        return change(original(self, *arguments))

    monkeypatch.setattr(FlowModel, "generate", changed)


def options(base: Path, *formulas: str, count: int = 2) -> GenerateOptions:
    return GenerateOptions(model=base, formulas=formulas, count=count, steps=3, workers=0, device="cpu")


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
