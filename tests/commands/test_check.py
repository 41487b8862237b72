"""A file of crystals is looked at before it is used: all of it, with an exit code for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.settings import DataSettings
from omatg_ray.crystal.split import split_by_composition
from omatg_ray.crystal.write import write_structures
from omatg_ray.model.flow_model import FlowModel
from tests.commands.conftest import Command, Workshop, synthetic_crystals

XENON = Structure(Lattice.cubic(5.0), ["Xe"], [[0, 0, 0]])


def cubic(first: str, second: str = "O", length: float = 4.0, second_at: float = 0.5) -> Structure:
    return Structure(Lattice.cubic(length), [first, second], [[0, 0, 0], [second_at] * 3])


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """13 crystals, an equal one, two with elements that nothing knows, two that overlap, an unreadable one, notes."""
    known = synthetic_crystals()
    structures = [
        *known,
        known[0].copy().make_supercell([1, 1, 2], in_place=False),
        cubic("W"),
        cubic("W", "Xe"),
        cubic("Na", second_at=0.001),
        cubic("Na", second_at=0.002),
    ]
    write_structures(f"{tmp_path}/mixed/", structures)
    (tmp_path / "mixed" / "broken.cif").write_text("nonsense")
    (tmp_path / "mixed" / "notes.txt").write_text("")
    return tmp_path / "mixed"


def found(command: Command, data: Path, code: int, *words: object) -> tuple[dict[str, Any], str]:
    path = data.parent / "found.json"
    done = command("check", data, *words, "--workers", 0, "--quiet", "--json", path)
    assert done.code == code, done.err
    assert all(len(line) <= 80 or " " not in line.strip() for line in done.out.splitlines()), done.out
    return json.loads(path.read_text()), done.out


def test_everything_is_found_at_once(
    mixed: Path, base: Path, workshop: Workshop, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, out = found(command, mixed, 1, "--model", base, "--potential", workshop.potential)
    assert (values["crystals"], values["usable"], values["files_not_read"]) == (19, 16, ["notes.txt"])
    assert [crystal["overlaps"] for crystal in values["unusable"]] == [True, True, False]
    assert values["crystals_with_unknown_elements"] == 2
    assert all(counts["W"] == 2 and counts["Xe"] == 1 for counts in values["unknown_elements"].values())
    assert values["unknown_elements"][f"potential {workshop.potential}"] == {"Xe": 1, "W": 2}
    assert values["duplicates"]["of"] == {"00014_NaF": "00001_NaF"}
    assert values["elements"]["Na"] == 4 and values["atoms_per_cell"] == {"2": 11, "3": 4, "4": 1}
    assert values["unseen_atoms_per_cell"] == {"4": 1}
    assert values["used"] == 16 and values["compositions"] == 15
    assert len(values["problems"]) == 2
    assert "not read      1 file: 1 .txt" in out and "(2 with overlapping" in " ".join(out.split())
    assert "broken.cif: it is not a valid CIF" in " ".join(out.split())
    assert "it cannot be used as it is: 3 crystals cannot be used" in out


def test_options_that_leave_crystals_out_make_a_file_usable(mixed: Path, workshop: Workshop, command: Command) -> None:
    words = ["--potential", workshop.potential]
    assert len(found(command, mixed, 1, *words, "--on-error", "skip")[0]["problems"]) == 1
    assert len(found(command, mixed, 1, *words, "--drop-unknown")[0]["problems"]) == 1
    values, out = found(command, mixed, 0, *words, "--drop-unknown", "--on-error", "skip")
    assert values["used"] == 14 and values["problems"] == []
    assert out.splitlines()[-1] == "it can be used with --on-error skip --drop-unknown"


def test_the_default_split_is_the_one_that_runs_make(workshop: Workshop, command: Command, tmp_path: Path) -> None:
    data = tmp_path / "data.extxyz"
    data.write_bytes(workshop.data.read_bytes())
    values, _ = found(command, data, 0)
    dataset, default = read_dataset(data), DataSettings()
    split = split_by_composition(dataset, default.val_compositions, default.test_compositions, default.split_seed)
    assert {name: part["crystals"] for name, part in values["split"].items()} == {
        name: len(getattr(split, name)) for name in ("train", "val", "test")
    }
    write_structures(tmp_path / "few.json", synthetic_crystals()[:3])
    values, out = found(command, tmp_path / "few.json", 0)
    assert "less than one" in values["split"] and "not by default" in out


def test_a_bound_on_comparisons_that_bites_is_said(mixed: Path, command: Command) -> None:
    values, out = found(command, mixed, 1, "--comparisons", 0)
    assert values["duplicates"] == {"of": {}, "compared": 14, "not_compared": 2, "failed_comparisons": 0}
    assert "2 of 16 are not compared" in " ".join(out.split())


def test_a_file_without_a_usable_crystal(command: Command, tmp_path: Path, workshop: Workshop) -> None:
    write_structures(tmp_path / "xenon.cif", [XENON])
    values, out = found(command, tmp_path / "xenon.cif", 1, "--potential", workshop.potential, "--drop-unknown")
    assert values["problems"] == ["no crystal is left"] and values["used"] == 0
    (tmp_path / "broken.cif").write_text("nonsense")
    values, out = found(command, tmp_path / "broken.cif", 1)
    assert len(values["unusable"]) == 1 and "it is not a valid CIF" in " ".join(out.split())
    command("check", tmp_path / "none.cif").refuses("none.cif does not exist", code=1)
    command("check", tmp_path / "xenon.cif", "--json", "x.txt").refuses("x.txt", ".json")


def test_a_file_without_any_crystal_is_refused_and_counts_as_none(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("cif\n")
    done = command("check", tmp_path / "empty.csv", "--quiet")
    done.refuses("empty.csv: it holds no crystals", code=1)
    assert not done.out


def test_a_model_that_generates_species_has_to_know_no_element(
    de_novo: Path, mixed: Path, command: Command, workshop: Workshop
) -> None:
    values, out = found(command, mixed, 0, "--model", de_novo, "--on-error", "skip")
    assert values["unknown_elements"] == {} and values["crystals_with_unknown_elements"] == 0
    assert "chooses elements itself" in " ".join(out.split()) and "4 (1)" in out
    command("check", mixed, "--model", de_novo, "--drop-unknown", "--quiet").refuses("name a potential")


def test_leaving_out_what_is_unknown_needs_one_that_knows(mixed: Path, command: Command) -> None:
    command("check", mixed, "--drop-unknown").refuses("--drop-unknown: add --model or --potential")


def test_a_file_may_be_named_by_its_url(command: Command, tmp_path: Path) -> None:
    write_structures(tmp_path / "few.json", synthetic_crystals()[:3])
    done = command("check", f"file://{tmp_path}/few.json", "--workers", 0, "--quiet")
    assert done.code == 0 and "3, all readable" in done.out, done.err


def test_what_lies_outside_of_the_training_data_is_said(base: Path, command: Command, tmp_path: Path) -> None:
    domain = FlowModel.load(base).description.domain
    assert domain is not None
    inside = next(one for one in synthetic_crystals() if not domain.outside(one.atomic_numbers))
    write_structures(f"{tmp_path}/new/", [inside, cubic("K", "Ca", 5.0)])
    values, out = found(command, tmp_path / "new", 0, "--model", base)
    known, new = values["domain"].values()
    assert (known, new) == ("yes", "no (K-Ca)")
    text = " ".join(out.split())
    assert f"in domain 1 of 2; model {base}, 1 of 2 crystals: of its" in text and "none has K-Ca" in text


def test_bundled_crystals_fit_what_is_bundled(assets: Path, command: Command) -> None:
    done = command("check", "bundled", "--model", "bundled", "--potential", "bundled", "--workers", 0, "--quiet")
    assert done.code == 0, done.err
    assert done.out.count("knows all elements") == 2
