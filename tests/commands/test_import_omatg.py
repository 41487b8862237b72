"""`omatg-ray import-omatg` and `export-omatg` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.cli import main
from omatg_ray.model.flow_model import FlowModel
from tests.omatg.files import base_tree, interpolant, network_state, reinforcement_tree, write


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, config = write(tmp_path, base_tree(), network_state())
    assert run("import-omatg", checkpoint, config, "--out", tmp_path / "model", "--quiet") == 0
    out = capsys.readouterr().out
    assert "note: left out: csp_layer_2, csp_layer_3" in out
    assert f"model: {tmp_path / 'model'}" in out
    assert FlowModel.load(tmp_path / "model").description.sizes == []

    assert run("export-omatg", tmp_path / "model", "--out", tmp_path / "back") == 0
    assert "train.yaml" in capsys.readouterr().out
    assert run("import-omatg", *sorted((tmp_path / "back").iterdir()), "--out", tmp_path / "again") == 0


def test_an_imported_model_generates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import-omatg", *write(tmp_path, base_tree(), network_state()), "--out", tmp_path / "model", "--quiet")
    words = ["--formula", "NaCl", "-n", 2, "--steps", 4, "--workers", 0, "--quiet", "--out", tmp_path / "out.extxyz"]
    assert run("generate", tmp_path / "model", *words) == 0
    captured = capsys.readouterr()
    assert "2 generated" in captured.out
    assert "not trained on" not in captured.err  # What it was trained on is unknown.


def test_a_reinforced_model_needs_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import-omatg", *write(tmp_path, base_tree(), network_state(), "base"), "--out", tmp_path / "base", "--quiet")
    files = write(tmp_path, reinforcement_tree(), network_state(seed=1), "rl")
    assert run("import-omatg", *files, "--out", tmp_path / "better") == 1
    assert "name it with --base" in capsys.readouterr().err
    assert not (tmp_path / "better").exists()
    assert run("import-omatg", *files, "--out", tmp_path / "better", "--base", tmp_path / "base") == 0
    assert FlowModel.load(tmp_path / "better").description.active == ["pos", "cell"]


def test_nothing_is_written_over_or_half(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write(tmp_path, base_tree(), network_state())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    assert run("import-omatg", *files, "--out", tmp_path / "full") == 2
    assert "exists already" in capsys.readouterr().err
    tree = base_tree()
    interpolant(tree, "pos")["interpolant"] = "omg.si.interpolants.PeriodicCubicInterpolant"
    assert run("import-omatg", *write(tmp_path, tree, network_state(), "odd"), "--out", tmp_path / "new") == 1
    assert "CubicInterpolant is not supported" in capsys.readouterr().err
    assert run("import-omatg", tmp_path / "none.ckpt", files[1], "--out", tmp_path / "new") == 1
    assert not (tmp_path / "new").exists()
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["mine"]
