"""One walk over all keys of settings that name a location."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from omatg_ray.config import Config
from omatg_ray.run.location_keys import CrystalsLocation, LocalFile, ModelLocation, locations, relocate
from omatg_ray.settings import Settings


class Inner(Settings):
    file: LocalFile | None = None
    name: str = "not a location"


class Outer(Settings):
    data: CrystalsLocation | None = None
    inner: Inner = Inner()
    groups: dict[str, Inner] = Field({})
    models: dict[str, Annotated[list[ModelLocation], Field(min_length=1)]] = Field({})


OUTER = Outer.model_validate(
    {
        "data": "s3://bucket/a.csv",
        "inner": {"file": "x.json"},
        "groups": {"one": {"file": "y.json"}, "two": {}},
        "models": {"some": ["runs/a", "bundled"]},
    }
)


def test_every_location_is_found_by_its_key():
    assert locations(OUTER) == {
        "data": ("s3://bucket/a.csv", "crystals"),
        "inner.file": (Path("x.json"), "file"),
        "groups.one.file": (Path("y.json"), "file"),
        "models.some.0": (Path("runs/a"), "model"),
        "models.some.1": ("bundled", "model"),
    }
    assert locations(Outer()) == {}


def test_locations_move_and_nothing_else():
    moved = relocate(OUTER, lambda key, location, kind: f"{kind} {key} {location}")
    assert moved.data == "crystals data s3://bucket/a.csv"
    assert moved.inner.name == "not a location"
    assert moved.groups["two"] == Inner()
    assert moved.models == {"some": ["model models.some.0 runs/a", "model models.some.1 bundled"]}
    assert relocate(OUTER, lambda key, location, kind: location) == OUTER


def test_locations_of_a_run():
    """Also of rewards, which declare theirs themselves."""
    config = Config.load(
        None,
        [
            "base=bundled", "data.file=a.csv", "policy.schedule_from=runs/b", "reward.potential=p",
            "reward.hull.entries=c.json", "reward.crmse.references=d.csv",
            "reward.custom.mine={class: 'm:C', invalid: 0, path: code}", "reward.weights={mine: 1}",
        ],
    )  # fmt: skip
    assert {key: kind for key, (_, kind) in locations(config).items()} == {
        "run": "run", "base": "model", "data.file": "crystals", "policy.schedule_from": "schedule",
        "reward.potential": "potential", "reward.hull.entries": "file", "reward.crmse.references": "file",
        "reward.custom.mine.path": "file",
    }  # fmt: skip
