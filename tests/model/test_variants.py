"""Policy variants are found by the names of their files."""

from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.errors import ModelError
from omatg_ray.model import variants
from omatg_ray.model.variant import Variant


def test_there_are_those_of_the_paper():
    assert variants.NAMES == ("velocity", "score", "annealing")
    assert all(isinstance(variants.variant(name), Variant) for name in variants.NAMES)
    assert [name for name in variants.NAMES if variants.variant(name).learns_schedule] == ["annealing"]
    assert [name for name in variants.NAMES if variants.variant(name).stochastic] == ["score"]


def test_a_file_without_a_variant_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty.py").touch()
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    with pytest.raises(ModelError, match=r"policy variant empty: .*empty\.py needs VARIANT"):
        variants.variant("empty")
