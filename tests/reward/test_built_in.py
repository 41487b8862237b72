"""The registry of built-in rewards."""

from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.errors import RewardError
from omatg_ray.reward import built_in
from omatg_ray.reward.options import Options


def test_every_name_has_its_options() -> None:
    assert tuple(built_in.OPTIONS) == built_in.NAMES
    assert all(issubclass(options, Options) and options.__doc__ for options in built_in.OPTIONS.values())


def test_a_name_without_a_file_and_a_file_without_options_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RewardError, match=r"^reward nowhere is in the registry NAMES, but there is no .*nowhere\.py"):
        built_in.options_of("nowhere")
    (tmp_path / "empty_reward.py").write_text("Options = 3\n")
    monkeypatch.setattr(built_in, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(built_in, "__path__", [str(tmp_path)])
    with pytest.raises(RewardError, match=r"^reward empty_reward: .*empty_reward\.py needs Options"):
        built_in.options_of("empty_reward")
