from __future__ import annotations

import re
from pathlib import Path

import pytest

from omatg_ray.assets import seal
from omatg_ray.commands.train import TrainResult
from omatg_ray.model.flow_model import FlowModel
from tests.commands.conftest import ELEMENTS, Command, Workshop


def rows(out: str) -> dict[str, str]:
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}


def test_an_overview_of_what_is_bundled(assets: Path, command: Command) -> None:
    for name in ("crystals", "potential"):
        (assets / name / "card.md").write_text(f"# Card\n\nSome {name},\nin short:\n\nmore of it\n")
        seal(assets / name)
    out = command("info").out
    size = sum(file.stat().st_size for file in (assets / "crystals").iterdir() if file.name != "SHA256SUMS")
    line = f"crystals: 4 files, {size / 1e6:.2f} MB, in {assets / 'crystals'}"
    assert out.startswith(f"{line}\n  Some crystals,\n  in short\n\npotential: ")
    assert "  Some potential,\n" in out and "\nbase: " in out
    assert "more of it" not in out and "# Card" not in out
    assert "omatg-ray info potential" in out.splitlines()[-1]


def test_one_card(assets: Path, command: Command) -> None:
    out = command("info", "potential").out
    assert "# Card of the potential" in out and "crystals" not in out
    assert f"\nelements: {len(ELEMENTS)}: {' '.join(ELEMENTS)}\n" in out


def test_a_damaged_asset_is_refused(assets: Path, command: Command) -> None:
    (assets / "base" / "model.json").write_text("{}")
    command("info", "base").refuses("base/model.json", "checksum", code=1)


def test_a_base_model(base: Path, workshop: Workshop, command: Command) -> None:
    said = rows(command("info", base).out)
    weights = FlowModel.load(base).base_network.state_dict().values()
    assert said["model"] == f"{base}, a base model"
    assert said["network"].startswith(f"{sum(w.numel() for w in weights):,} parameters; hidden 16, layers 2")
    assert said["starts"] == "positions uniform, lattices informed"
    # Eight cubic pairs and three perovskite-like triples of which some are held out.
    assert said["sizes"] == "2, 3 atoms per cell"
    assert said["elements"].split(": ")[1].split() == FlowModel.load(base).description.elements
    assert re.fullmatch(r"\d pairs of elements occur together; 8 crystals: 8 of 2 elements", said["domain"])
    assert (said["active"], said["noise"], said["annealing"], said["potential"]) == ("none",) * 4
    assert said["data"] == str(workshop.data) and said["command"] == "pretrain"


def test_a_reinforced_model(trained: TrainResult, workshop: Workshop, command: Command) -> None:
    said = rows(command("info", workshop.root / "trained").out)
    assert "twice (base and policy)" in said["network"]
    assert said["noise"] == "pos kind sqrt, a 0.1668"
    assert (said["active"], said["potential"]) == ("pos (velocity policy)", str(workshop.potential))
    assert (said["command"], said["base_provenance"].split(",")[0]) == ("train", "command pretrain")
    assert "torch " in said["versions"] and "torch " in said["base_provenance.versions"]


def test_the_bundled_model_and_a_folder_that_is_none(
    assets: Path, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = rows(command("info", "bundled").out)
    assert told["model"] == "bundled, reinforced" and told["card"].startswith("omatg-ray info reinforced: ")
    command("info", "nonsense").refuses("nonsense", "crystals, potential, base", "folder of that name", code=1)
    command("info", tmp_path).refuses(str(tmp_path), "no model here", code=1)
    assert "# Card of the base" in command("info", "bundled/base").out
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    command("info", "bundled/mine").refuses("bundled/mine is none of", code=1)
