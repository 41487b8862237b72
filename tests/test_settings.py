"""Settings that come in kinds: words, mappings, what is written, and what errors say."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from omatg_ray.errors import ConfigError
from omatg_ray.settings import Kinds, Settings, explain_errors


class Animal(Settings):
    kind: str


class Cat(Animal):
    kind: Literal["cat"] = "cat"
    lives: int = Field(9, ge=1)


class Dog(Animal):
    kind: Literal["dog"] = "dog"
    name: str
    friend: Annotated[Animal | None, Kinds(Cat, optional=True)] = None


class Farm(Settings):
    guard: Annotated[Animal, Kinds(Cat, Dog, default=Cat)] = Field(default_factory=Cat)
    guest: Annotated[Animal | None, Kinds(Cat, Dog, optional=True)] = None


class Village(Settings):
    farm: Farm = Farm()


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, Cat()),
        ({"guard": "cat"}, Cat()),
        ({"guard": {"lives": 2}}, Cat(lives=2)),
        ({"guard": None}, Cat()),
        ({"guard": {"kind": "dog", "name": "Rex"}}, Dog(name="Rex")),
        ({"guard": {"kind": "dog", "name": "Rex", "friend": "cat"}}, Dog(name="Rex", friend=Cat())),
        ({"guard": Dog(name="Rex")}, Dog(name="Rex")),
    ],
)
def test_words_mappings_and_instances_are_read(given, expected):
    assert Farm.model_validate(given).guard == expected
    assert Village.model_validate({"farm": given}).farm.guard == expected


@pytest.mark.parametrize(
    "farm, written",
    [
        (Farm(), {"guard": "cat", "guest": None}),
        (Farm(guard=Cat(lives=2)), {"guard": {"kind": "cat", "lives": 2}, "guest": None}),
        (Farm(guest=Dog(name="Rex")), {"guard": "cat", "guest": {"kind": "dog", "name": "Rex"}}),
        (
            Farm(guest=Dog(name="Rex", friend=Cat())),
            {"guard": "cat", "guest": {"kind": "dog", "name": "Rex", "friend": "cat"}},
        ),
    ],
)
def test_what_is_written_is_short_and_read_back(farm, written):
    assert farm.model_dump() == farm.model_dump(mode="json") == written
    assert Farm.model_validate_json(farm.model_dump_json()) == farm


@pytest.mark.parametrize(
    "given, message",
    [
        ({"guard": "cta"}, r"farm\.guard: unknown kind 'cta'; did you mean cat\?"),
        ({"guard": {"kind": ["x"]}}, r"farm\.guard: unknown kind \['x'\]; known: cat, dog"),
        ({"guard": 3}, r"farm\.guard: give its kind, one of cat, dog, .*not 3"),
        ({"guest": {"lives": 3}}, r"farm\.guest: give its kind"),
        ({"guard": {"kind": "cat", "live": 3}}, r"farm\.guard: cat has no key live; did you mean lives\?"),
        ({"guard": {"kind": "cat", "name": "Rex"}}, r"farm\.guard: cat has no key name; valid keys: lives"),
        ({"guard": {"kind": "cat", "lives": 0}}, r"farm\.guard\.lives: .*greater than or equal to 1"),
        ({"guard": {"kind": "dog", "name": "Rex", "friend": "dog"}}, r"farm\.guard\.friend: unknown kind 'dog'"),
        ({"guard": "dog"}, r"farm\.guard\.name: missing"),
    ],
)
def test_errors_name_the_key(given, message):
    with pytest.raises(ConfigError, match=message), explain_errors("a file", Village):
        Village.model_validate({"farm": given})


def test_null_is_refused_where_nothing_is_no_choice():
    class Zoo(Settings):
        first: Annotated[Animal, Kinds(Cat, Dog)]

    with pytest.raises(ValidationError, match="give its kind"):
        Zoo.model_validate({"first": None})


def test_a_value_in_the_place_of_a_group_is_refused_with_its_keys() -> None:
    """And with null where the group may be left out."""
    from omatg_ray.assets import quickstart
    from omatg_ray.config import Config

    for key, words in {
        "objective.flow_matching=64": "set objective.flow_matching.crystals, weight, or objective.flow_matching=null",
        "objective.flow_matching={weight: 0}": "set objective.flow_matching.weight.pos, cell \\(got 0\\)",
        "policy=3": "policy: has keys of its own: set policy.variant, active",
    }.items():
        with pytest.raises(ConfigError, match=words):
            Config.load(quickstart(), [key])
