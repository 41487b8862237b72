from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.commands.prepare import prepare
from omatg_ray.errors import ConfigError
from tests.commands.conftest import Workshop


def test_overlaps_are_always_repelled(workshop: Workshop, base: Path) -> None:
    assert prepare(workshop.load(f"base={base}")).reward.repulsion
    with pytest.raises(ConfigError, match=r"unknown key reward\.repulsion"):
        workshop.load("reward.repulsion=false")


def test_what_a_model_says_of_its_base_and_potential(
    workshop: Workshop, base: Path, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word where it was given, the whole path of a folder, also of one of that name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").symlink_to((base / "checkpoints" / "best").resolve())
    (tmp_path / "pot").symlink_to(workshop.potential)
    data = [f"data.{name}={base / 'data' / name}.extxyz" for name in ("train", "val", "test")]
    for keys, expected in (
        (["base=./bundled", "reward.potential=pot"], (tmp_path / "bundled", tmp_path / "pot")),
        (["base=bundled", "reward.potential=bundled"], ("bundled", "bundled")),
    ):
        parts = prepare(workshop.load("data.file=null", *data, *keys))
        said = parts.model.description
        assert (said.provenance["base"], said.potential) == tuple(map(str, expected))
        assert parts.reward.potential.name == said.potential
