"""Policy variants are found by the names of their files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from omatg_ray.config import Config
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model import flow_model, variants
from omatg_ray.model.checks import refuse_untrained
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.model.variant import Variant, copy_of_base
from omatg_ray.policy.drift import Drift, Velocity
from omatg_ray.policy.schedule import Schedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from tests.model.test_flow_model import description as described
from tests.small import small_network


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


def test_a_configuration_describes_those_that_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert type(Config().policy).model_fields["variant"].description == (
        "velocity: trains the velocity · score: trains velocity and denoiser of a base pretrained with γ · "
        "annealing: trains the schedule s(t) in (1 + s(t)) · velocity of the frozen base"
    )
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path)])
    for name, text, expected in (
        ("added", '"""Trains more.\n\nIn a way of its own.\n"""\nraise SystemExit\n', "added: trains more"),
        ("silent", "VARIANT = None\n", "silent"),
        ("broken", "VARIANT = (\n", "broken"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        assert variants.summary(name) == expected


def test_another_name_is_refused():
    with pytest.raises(ConfigError, match=r"policy\.variant: Input should be 'velocity', 'score' or 'annealing'"):
        Config.from_tree({"policy": {"variant": "nothing"}})


class Idle(Variant):
    """Says that it learns a strength, and does not train it."""

    learns: ClassVar = {"policy": copy_of_base, "strength": lambda description: nn.Linear(1, 1)}
    trained = False

    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        drift = Velocity()
        if self.trained:
            drift.trained = lambda: list(model.learned["strength"].parameters())  # type: ignore[method-assign]
        return drift


def test_a_module_that_nothing_trains_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flow_model, "variant", lambda name: Idle())
    description = described(active=["pos"], noise={"pos": NoiseSettings(a=0.1)})
    model = FlowModel(description, small_network(dtype=torch.float32), new_modules(description))
    with pytest.raises(ModelError, match=r"^policy variant velocity: strength is in `learns`, but .* trained\(\)"):
        refuse_untrained(model)
    monkeypatch.setattr(Idle, "trained", True)
    refuse_untrained(model)
    monkeypatch.setattr(Velocity, "outputs", lambda self, field: ())
    with pytest.raises(ModelError, match="^policy variant velocity: policy is in"):
        refuse_untrained(model)


@pytest.mark.parametrize("name", variants.NAMES)
def test_those_of_the_package_train_all_they_learn(name: str):
    path = {"gamma": {"kind": "sqrt", "a": 0.1}} if name == "score" else "linear"
    schedule = LearnedScheduleSettings(fields=["pos"]) if name == "annealing" else None
    description = described(
        variant=name,
        active=["pos"],
        noise={"pos": NoiseSettings(a=0.1)},
        schedule=schedule,
        paths=PathSettings.model_validate({"pos": path}),
    )
    refuse_untrained(FlowModel(description, small_network(dtype=torch.float32), new_modules(description)))
