"""The cells that a run samples in place of those of its training crystals."""

from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.commands.train import train
from omatg_ray.config import Config
from omatg_ray.crystal.settings import CompositionSettings
from omatg_ray.errors import ConfigError
from omatg_ray.train.build import build_run
from omatg_ray.train.cells import asked_cells
from tests.commands.conftest import Workshop


def asked(**values: object) -> CompositionSettings:
    return CompositionSettings.model_validate(values)


def test_formulas_are_taken_with_each_number_of_formula_units(tmp_path: Path) -> None:
    path = tmp_path / "formulas.txt"
    path.write_text("Na2Cl2  # rock salt, twice\nMgO\n")
    cells = asked_cells(asked(formulas=["NaCl"], formulas_from=path, z=[1, 2]), seed=0)
    assert cells == [[11, 17], [11, 11, 17, 17], [11] * 4 + [17] * 4, [12, 8], [12, 12, 8, 8]]


def test_drawn_cells_are_no_larger_than_asked_for() -> None:
    drawn = {"elements": ["Na", "Mg", "O", "Cl"], "count": 7, "atoms": 12}
    cells = asked_cells(asked(random=drawn, z=[1, 2]), seed=3)
    assert cells == asked_cells(asked(random=drawn, z=[1, 2]), seed=3)
    assert cells != asked_cells(asked(random=drawn, z=[1, 2]), seed=4)
    assert len(cells) == 14 and max(map(len, cells)) <= 12 and {z for cell in cells for z in cell} <= {8, 11, 12, 17}
    with pytest.warns(UserWarning, match="1 of 9 formulas found"):
        asked_cells(asked(random={"elements": ["Na", "Cl"], "count": 9, "kinds": [2], "atoms": 3}), seed=0)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"formulas": ["NaXx"]}, "compositions: .*Xx"),
        ({"formulas": ["NaCl"], "z": [600]}, "compositions: .*1200 atoms"),
        ({"random": {"elements": ["Na", "Na2", "O"]}}, r"compositions\.random\.elements: 'Na2' is not the symbol"),
        (
            {"random": {"elements": ["O", "F"], "atoms": 2, "kinds": [2]}},
            "no neutral or metallic formula of O, F has at most 2",
        ),
    ],
)
def test_what_cannot_be_a_cell_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked_cells(asked(**values), seed=0)


def test_cells_are_asked_for_once_each() -> None:
    assert asked_cells(asked(formulas=["NaCl", "MgO", "ClNa"]), seed=0) == [[11, 17], [12, 8]]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{z: [2]}", "compositions: .*name formulas"),
        ("{random: {elements: [Li, O, Li]}}", "one is named twice in Li, O, Li"),
        ("{random: {elements: [Li, O]}}", "2 elements make no formula of 3"),
    ],
)
def test_a_section_that_asks_for_nothing_possible_is_refused(section: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(None, [f"compositions={section}"])


def test_a_run_samples_the_asked_cells_and_knows_them_when_it_is_resumed(
    workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    path = tmp_path / "formulas.txt"
    path.write_text("NaCl\n")
    keys = [
        f"base={base}",
        f"compositions.formulas_from={path}",
        "iterations=1",
        "test=false",
        f"run={tmp_path / 'run'}",
    ]
    parts = build_run(workshop.load(*keys))
    assert parts.compositions == [[11, 17]] and parts.split.train.elements
    train(workshop.load(*keys))
    path.write_text("NaCl\nNaF\n")
    with pytest.raises(ConfigError, match="compositions: .* sampled other cells"):
        train(workshop.load(*keys, "iterations=2"), resume=True)
    path.write_text("# the same\nNaCl\n")
    assert train(workshop.load(*keys, "iterations=2"), resume=True).iteration == 2


def test_a_reward_that_compares_with_known_crystals_is_refused(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "compositions.formulas=[NaCl]", "reward.weights={energy: 1.0, crmse: 1.0}"]
    with pytest.raises(ConfigError, match=r"reward\.weights\.crmse: it compares with known crystals"):
        build_run(workshop.load(*keys))
