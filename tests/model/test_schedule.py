"""Schedules as texts and as files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from omatg_ray.assets import crystals
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.metrics import match_rows, mean
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import read_schedule, save_schedule
from omatg_ray.policy.hand_made import CosineSchedule, LinearSchedule, StepSizes
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.reward.matching import Matcher
from omatg_ray.run.location import PROTOTYPES
from omatg_ray.seeding import seed_of
from tests.small import SIZE, learned_schedule, small_network


def tiny_model() -> FlowModel:
    base = BaseDistribution(log_length_mean=(1.4, 1.5, 1.6), log_length_std=(0.1, 0.1, 0.1))
    paths = PathSettings(pos="linear", cell="linear")
    description = ModelDescription(network=SIZE, paths=paths, base_distribution=base, elements=[], sizes=[])
    return FlowModel(description, small_network(0, torch.float32))


def test_texts_mean_schedules():
    assert read_schedule("own") is None
    assert read_schedule("none") == LinearSchedule(pos=0, cell=0)
    assert read_schedule("linear:pos=5,cell=2") == LinearSchedule(pos=5, cell=2)
    assert read_schedule("cosine:cell=1.5") == CosineSchedule(cell=1.5)
    assert read_schedule("steps:power=2") == StepSizes(power=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("linear:po=5", ["linear:po=5", "did you mean pos"]),
        ("linear:pos", ["'pos' is not of the form key=value"]),
        ("linear:pos=x", ["pos", "valid number"]),
        ("linear", ["needs values, as in linear:pos=5"]),
        ("linear:kind=cosine,pos=3", ["kind is given twice"]),
        ("linear:pos=1,pos=5", ["pos is given twice"]),
        ("steps:power=0", ["power", "greater than 0"]),
        ("linaer:pos=5", ["no such folder", "linear:pos=5"]),
    ],
)
def test_texts_that_mean_nothing_are_refused(text, words):
    with pytest.raises(ConfigError) as caught:
        read_schedule(text)
    assert all(word in str(caught.value) for word in words)


def test_a_learned_schedule_comes_back_from_its_folder_and_from_that_of_its_run(tmp_path: Path):
    folder = tmp_path / "run" / "schedule"
    folder.mkdir(parents=True)
    schedule = learned_schedule()
    save_schedule(schedule, folder, {"steps": 10})
    t = torch.linspace(0, 1, 7)
    for place in (folder, folder.parent):
        read = read_schedule(place)
        assert isinstance(read, LearnedSchedule)
        for field in ("pos", "cell"):
            torch.testing.assert_close(read.factor(field, t), schedule.factor(field, t).detach(), rtol=0, atol=0)
    described = json.loads((folder / "schedule.json").read_text())
    (curve,) = described["curves"]
    expected = schedule.factor("pos", torch.tensor(curve["t"])).tolist()
    assert curve["pos"] == pytest.approx(expected, abs=1e-6) and described["provenance"] == {"steps": 10}


def test_what_holds_no_schedule_is_refused(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    tiny_model().save(model)
    with pytest.raises(ModelError, match="learned no schedule"):
        read_schedule(model)
    save_schedule(learned_schedule(), tmp_path, {})
    (tmp_path / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"weights\.safetensors does not hold"):
        read_schedule(tmp_path)
    (tmp_path / "schedule.json").write_text("{}")
    with pytest.raises(ModelError, match=r"schedule\.json is not a schedule"):
        read_schedule(tmp_path)


def test_another_base_moves_by_a_learned_schedule():
    model, schedule = tiny_model(), learned_schedule(1)
    x_0 = model.description.base_distribution.sample([[22, 8, 8]], [seed_of(0, "structure", 0)])
    # One step from 0.001: what the base adds, times 1 + s at its start.
    plain, annealed = (
        model.generate([[22, 8, 8]], Sampling(2, schedule=one)).cell - x_0.cell for one in (LinearSchedule(), schedule)
    )
    factor = schedule.factor("cell", torch.tensor(0.001)).detach()
    torch.testing.assert_close(annealed, factor * plain)
    assert abs(float(factor) - 1) > 0.05


def test_unequal_steps_lead_where_euler_steps_of_these_lengths_lead():
    model = tiny_model()
    crystal = model.description.base_distribution.sample([[22, 8, 8]], [seed_of(0, "structure", 0)])
    times = [0.001 + 0.998 * (1 - (1 - u) ** 2) for u in (0, 1 / 3, 2 / 3, 1)]
    for t, after in pairwise(times):
        rates = model.base_network(crystal, torch.tensor(t))
        pos, cell = crystal.pos + rates.pos_b * (after - t), crystal.cell + rates.cell_b * (after - t)
        crystal = crystal.replace((pos % 1).detach(), cell.detach())
    generated = model.generate([[22, 8, 8]], Sampling(4, schedule=StepSizes(power=2)))
    torch.testing.assert_close(generated.cell, crystal.cell, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(generated.pos, crystal.pos, rtol=1e-4, atol=1e-4)


def test_the_bundled_schedule_brings_crystals_closer_in_ten_steps():
    """Closer on average than without: RMSE of a few test crystals, unmatched ones at the tolerance."""
    schedule, known = read_schedule(PROTOTYPES), read_dataset(crystals("test", PROTOTYPES)).select(range(0, 454, 9))
    species = [z.tolist() for z in known.crystals.species.split(known.crystals.layout.sizes)]
    model = FlowModel.load(PROTOTYPES)
    with Matcher(0) as matcher:
        plain, annealed = (
            matcher.pairs(model.generate(species, Sampling(10, schedule=one), judged=True), known.crystals).rmse
            for one in (None, schedule)
        )
    plain, annealed = (mean(match_rows(matches, 0.5)["crmse"]) for matches in (plain, annealed))
    assert annealed < plain - 0.02
