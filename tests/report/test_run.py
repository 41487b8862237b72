from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from omatg_ray.errors import DataError
from omatg_ray.report.run import write_report
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.timeline import Span, Timeline
from tests.pictures import drawn


class Tables(HTMLParser):
    """Cells of every table of a page, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data


def evaluation(rng: np.random.Generator, label: str, **metrics: float | None) -> dict[str, Any]:
    relative = [*rng.normal(0.1, 0.1, 7).tolist(), None]
    return {
        "label": label,
        "steps": 50,
        "noise": "none",
        "seed": 4,
        "metrics": metrics,
        "per_structure": {
            "formula": ["NaCl"] * 8,
            "relative_energy": relative,
            "energy_per_atom": [None if e is None else e - 3.0 for e in relative],
            "valid": [e is not None for e in relative],
            "rmse": [0.0625, None] * 4,
        },
    }


def make_run(path: Path) -> Path:
    rng = np.random.default_rng(3)
    with RunFolder.create(path, resume=False) as run:
        run.config_path.write_text("seed: 4  # <seed>\n")
        run.versions_path.write_text('{"torch": "2.99"}')
        lines: list[dict[str, Any]] = [
            {"kind": "train", "step": step, "reward_mean": step * 0.1, "time_rollout": 2.0, "time_learn": 1.0 + step}
            for step in (1, 2, 3)
        ]
        lines += [
            {"kind": "validation", "step": s, "relative_energy_mean_capped": 1.0 - s, "rmse": None} for s in (0, 2)
        ]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.save_checkpoint("iteration_000002", lambda path: None, keep=1)
        run.point_best("iteration_000002")
        run.evaluation.mkdir()
        run.structures.mkdir()
        before = evaluation(rng, "before", n=8, match_rate=0.375, rmse=0.15625, invalid_share=0.125)
        after = evaluation(rng, "after", n=8, match_rate=0.5, relative_energy_mean=-0.0331, relative_energy_median=None)
        for name, found in (("before", before), ("after", after), ("a_noisy", evaluation(rng, "<noisy>", n=8))):
            (run.evaluation / f"{name}.json").write_text(json.dumps(found))
        for name in ("before", "after", "reference"):
            symbols = ["NaCl", "LiF", "KBr", "NaCl", "CsCl", "AgI", "RbF", "MgO"]
            write(run.structures / f"{name}.extxyz", [salt(symbol, rng) for symbol in symbols])
    return run.path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder that lacks nothing, not to be changed, and its report."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "a run <1>")
    with drawn():
        path = write_report(folder)
    assert path == folder / "report.html"
    return folder, path.read_text()


def salt(symbols: str, rng: np.random.Generator) -> Atoms:
    return Atoms(symbols, scaled_positions=rng.random((2, 3)), cell=np.eye(3) * 4.0, pbc=True)


def test_table_holds_the_numbers_of_the_evaluations(complete: tuple[Path, str]) -> None:
    _, before, after, noisy = Tables(complete[1]).tables[0]
    assert before == ["before", "12.5%", "0.375", "0.156", "–"]
    assert after == ["after", "–", "0.500", "–", "−0.033"]
    assert noisy == ["<noisy>", *["–"] * 4]
    # What all rows have in common stands below.
    assert "All rows: grid points (evaluations): 50 (49), noise: none, seed: 4, structures: 8." in complete[1]
    assert "olymorph" not in complete[1]


def test_settings_and_counts_that_differ_have_columns(folder: Path) -> None:
    path = folder / "evaluation" / "after.json"
    found = json.loads(path.read_text()) | {"noise": "policy", "seed": None}
    found["metrics"]["n"] = 7
    path.write_text(json.dumps(found))
    text = write_report(folder).read_text()
    head, before, after, noisy = Tables(text).tables[0]
    assert head == ["", "noise", "seed", "invalid", "match rate", "RMSE", "structures", "mean, not capped"]
    assert (before[1:3], after[1:3], noisy[1:3]) == (["none", "4"], ["policy", ""], ["none", "4"])
    assert [row[6] for row in (before, after, noisy)] == ["8", "7", "8"]
    assert "All rows: grid points (evaluations): 50 (49). " in text


def test_changes_are_said_with_their_intervals(folder: Path, complete: tuple[Path, str]) -> None:
    assert "match rate: +0.000: too few to tell (1 composition)" in complete[1]
    for name, energy, rmse in (("before", 1.0, None), ("after", 0.5, 0.1)):
        path = folder / "evaluation" / f"{name}.json"
        rows = {"id": list(range(30)), "relative_energy_capped": [energy] * 30, "rmse": [rmse] * 30}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"per_structure": rows}))
    text = write_report(folder).read_text()
    assert "relative energy, capped mean: −0.500 [−0.500, −0.500] eV/atom: lower" in text
    assert "match rate: +1.000 [+1.000, +1.000]: higher" in text
    (folder / "evaluation" / "after.json").unlink()
    assert "paired bootstrap" not in write_report(folder).read_text()


def test_it_is_said_where_best_is_the_base(folder: Path) -> None:
    assert "Best is the base" not in write_report(folder).read_text()
    for name in ("before", "after"):
        path = folder / "evaluation" / f"{name}.json"
        rows = {"id": list(range(30)), "relative_energy_capped": [1.0] * 30, "valid": [True] * 30, "rmse": [0.1] * 30}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"per_structure": rows}))
    text = write_report(folder).read_text()
    assert text.count("Best is the base: no validation was better than the first") == 2  # at the table, the crystals
    assert "paired bootstrap" not in text


def test_a_run_without_a_test_lacks_nothing(folder: Path) -> None:
    (folder / "config.yaml").write_text("test: {limit: 0}\n")
    for path in (*folder.glob("evaluation/*"), *folder.glob("structures/*")):
        path.unlink()
    notes = write_report(folder).read_text().rpartition("Not in this run folder:")[2]
    assert "numbers for" in notes
    assert not [name for name in ("evaluation", "structures/", "relative energies") if name in notes.split("<")[0]]


def test_absurd_energies_are_marked_at_the_crystals(folder: Path) -> None:
    path = folder / "evaluation" / "after.json"
    found = json.loads(path.read_text())
    found["per_structure"]["relative_energy"][0], found["per_structure"]["energy_per_atom"][0] = 42.0, 39.0
    path.write_text(json.dumps(found))
    with drawn():
        text = write_report(folder).read_text()
    assert "39.000 (⚠ +42.000)" in text and "Such an energy is absurd" in text


def test_ratios_and_kl_are_left_out_where_they_cannot_move(folder: Path) -> None:
    def report(clip: float, kl: float) -> str:
        line = {"kind": "train", "step": 1, "clip_fraction_pos": clip, "kl_pos": kl}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return write_report(folder).read_text()

    still = report(0.0, 0.0)
    assert "Clipped ratios" not in still and "KL to the base" not in still
    moving = report(0.25, 0.5)
    assert "<h3>Clipped ratios</h3>" in moving and "<h3>KL to the base</h3>" in moving


def test_table_shows_polymorphs_where_some_are_known(folder: Path) -> None:
    path = folder / "evaluation" / "after.json"
    found = json.loads(path.read_text())
    found["metrics"] |= {"match_any": 0.75, "match_lowest": 0.25, "n_polymorphic": 4}
    path.write_text(json.dumps(found))
    text = write_report(folder).read_text()
    head, before, after, _ = Tables(text).tables[0]
    assert head[2:5] == ["match rate", "match any polymorph", "match lowest polymorph"]
    assert (before[2:5], after[2:5]) == (["0.375", "–", "–"], ["0.500", "0.750", "0.250"])
    place = head.index("structures with polymorphs")
    assert (before[place], after[place]) == ("–", "4")
    assert "Polymorphs of a structure are" in text


def test_times_of_the_stages(complete: tuple[Path, str]) -> None:
    assert Tables(complete[1]).tables[1][1:] == [["rollout", "2.00", "6", "3"], ["learn", "3.00", "9", "3"]]


def test_page_loads_nothing_and_escapes_names(complete: tuple[Path, str]) -> None:
    text = complete[1]
    assert "http" not in text and "@import" not in text and "<script" not in text and "<link" not in text
    assert not re.findall(r"""\bsrc=|url\((?!#)|href="(?!#)""", text)
    assert "<title>a run &lt;1&gt;</title>" in text and "&lt;seed&gt;" in text and "&lt;noisy&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "2.99" in text


def test_crystals_are_those_of_even_rows_with_their_energies(complete: tuple[Path, str]) -> None:
    folder, text = complete
    assert re.findall(r"row (\d+)", text) == ["0", "1", "2", "5", "6", "7"]  # 7 formulas, 6 of them, the 4th left out
    after = json.loads((folder / "evaluation" / "after.json").read_text())["per_structure"]
    energy, relative = after["energy_per_atom"][0], after["relative_energy"][0]
    assert f"{energy:.3f} ({relative:+.3f})".replace("-", "−") in text
    assert "−3.000" in text  # the reference: energy less relative energy
    assert "RMSE 0.062" in text and "no match" in text and "invalid" in text


FILES = ("metrics.jsonl", "config.yaml", "versions.json", "before evaluation", "after evaluation")


def test_missing_and_damaged_files_are_named(complete: tuple[Path, str], folder: Path) -> None:
    names = [*FILES, *(f"structures/{name}.extxyz" for name in ("before", "after", "reference"))]
    complete_notes = complete[1].rpartition("Not in this run folder:")[2]
    assert not [name for name in names if name in complete_notes]
    files = [path for path in folder.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    assert len(files) == 10  # with the lock and a third evaluation
    for act in (lambda path: path.write_bytes(b"\xff\xfe damaged {\n\n"), Path.unlink):
        for path in files:
            act(path)
        text = write_report(folder).read_text()
        notes = text.rpartition("Not in this run folder:")[2]
        assert "<svg" not in text
        assert not [name for name in names if name not in notes]


def test_best_checkpoint_is_marked_and_numbers_are_read(complete: tuple[Path, str], folder: Path) -> None:
    assert "best (iteration 2)" in complete[1]
    (folder / "checkpoints" / "best").unlink()
    (folder / "structures" / "after.extxyz").unlink()
    changed = json.loads((folder / "evaluation" / "after.json").read_text())
    changed["metrics"]["match_rate"] = 0.625
    (folder / "evaluation" / "after.json").write_text(json.dumps(changed))
    text = write_report(folder).read_text()
    assert "best (iteration 2)" not in text
    assert Tables(text).tables[0][2][2] == "0.625"


def test_parts_of_an_evaluation_may_be_missing(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    (folder / "structures" / "before.extxyz").unlink()
    (folder / "evaluation" / "before.json").write_text('{"metrics": null, "per_structure": {"relative_energy": [NaN]}}')
    (folder / "evaluation" / "after.json").write_text("[1]")
    text = write_report(folder).read_text()
    assert Tables(text).tables[0][1] == ["before", *[""] * 3, "–"]
    assert "after.json, which cannot be read" in text


def test_pretraining_run(tmp_path: Path) -> None:
    lines = [{"kind": "pretrain", "step": s, "loss": 1 / s, "val_loss": 2 / s, "lr": 1e-3} for s in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report(tmp_path).read_text()
    assert "3 epochs of pretraining" in text
    assert "<h3>Pretraining loss</h3>" in text and "<h3>Learning rate</h3>" in text
    assert "Reward" not in text and "before evaluation" not in text
    assert "numbers for “Pretraining loss of cells”" in text


def describe(role: str, index: int, **about: Any) -> dict[str, Any]:
    return {"role": role, "index": index, **about}


def make_ray_run(path: Path, rollouts: int) -> Path:
    lines: list[dict[str, Any]] = [
        {
            "kind": "train",
            "step": step,
            "time_rollout": 2.0,
            "time_weights": 0.25,
            **{f"idle_rollout_{index}": 0.25 * step for index in range(rollouts)},
            "idle_learner_0": 0.125 if step == 1 else None,
        }
        for step in (1, 2, 3)
    ]
    lines[0] |= {"startup_cluster": 9.0, "startup_actors": 9.0}
    lines[1] |= {"startup_cluster": 1.25, "startup_actors": 4.0, "startup_first_trajectory": None}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    actors = [
        describe(
            "learner", 0, node="10.0.0.<2>", node_id="bbbbbbbbbb", device="cuda", threads=2, ready_seconds=3.14159
        ),
        describe("rollout", 1, node="10.0.0.1", ready_seconds=float("nan"), imports=["torch", "<x>"]),
        describe("rollout", 0, node="10.0.0.1", node_id="aaaaaaaaaa", device="cpu", threads=1, ready_seconds=2.0),
    ]
    (path / "actors.json").write_text(json.dumps(actors))
    return path


def section(text: str) -> str:
    return text.partition("<h2>Actors</h2>")[2].partition("<h2>")[0]


def test_actors_of_a_ray_run(tmp_path: Path) -> None:
    text = write_report(make_ray_run(tmp_path, 3)).read_text()
    _, *stages = Tables(text).tables[0]
    assert stages == [["rollout", "2.00", "6", "3"], ["weights", "0.25", "1", "3"]]
    _, *rows = Tables(section(text)).tables[0]
    assert rows == [
        ["rollout 0", "10.0.0.1 (aaaaaa)", "cpu", "1", "2.0", "50%"],
        ["rollout 1", "10.0.0.1", "–", "–", "–", "50%"],
        ["rollout 2", "–", "–", "–", "–", "50%"],
        ["learner 0", "10.0.0.<2> (bbbbbb)", "cuda", "2", "3.1", "88%"],
    ]
    assert "3 actors on 2 nodes." in text
    assert "At the last start: connected to the cluster after 1.2 s, all actors ready 4.0 s later." in text
    assert "rollout: &lt;x&gt;, torch; learner: none" in text and "<x>" not in text and "10.0.0.<2>" not in text
    assert section(text).count("<svg") == 1 and "<details" not in section(text)


@pytest.mark.pictures
def test_many_actors_are_folded_away(tmp_path: Path) -> None:
    text = section(write_report(make_ray_run(tmp_path, 20)).read_text())
    assert len(Tables(text.partition("<details")[2]).tables[0]) == 22
    assert "rollout: median of 20" in text and "bands" in text


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '[{"role": "rollout"}]', '{"role": 1}', "nothing"])
def test_actors_that_nothing_describes(tmp_path: Path, damage: str) -> None:
    path = make_ray_run(tmp_path, 2) / "actors.json"
    if damage == "nothing":
        path.unlink()
    else:
        path.write_text(damage)
    text = write_report(tmp_path).read_text()
    _, *rows = Tables(section(text)).tables[0]
    assert [row[0] for row in rows] == ["rollout 0", "rollout 1", "learner 0"]
    assert "connected to the cluster" in section(text)
    notes = text.rpartition("Not in this run folder:")[2]
    assert "actors.json" in notes
    assert ("actors.json, which cannot be read" in notes) == (damage != "nothing")


def test_a_ray_run_that_did_no_iteration(tmp_path: Path) -> None:
    (make_ray_run(tmp_path, 2) / "metrics.jsonl").unlink()
    text = section(write_report(tmp_path).read_text())
    assert [row[-1] for row in Tables(text).tables[0][1:]] == ["–"] * 3
    assert "<svg" not in text


def test_failures_are_counted_over_the_run_and_named_only_if_there_were_any(tmp_path: Path) -> None:
    path = make_ray_run(tmp_path, 2) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line |= {f"{kind}_{role}": 0 for kind in ("replaced", "retried") for role in ("rollout", "reward")}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Failures" not in write_report(tmp_path).read_text()
    lines[0] |= {"replaced_rollout": 1, "retried_rollout": 2, "replaced_learner": 1}
    lines[2] |= {"replaced_rollout": 2, "retried_reward": 1}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        "Failures that the run recovered from: actors replaced: rollout 3, learner 1; requests sent again: rollout 2, "
        "reward 1." in section(write_report(tmp_path).read_text())
    )


@pytest.mark.pictures
def test_the_timeline_is_drawn_with_what_it_shows(tmp_path: Path) -> None:
    path = make_ray_run(tmp_path, 2) / "timeline.json"
    assert "When actors worked" not in write_report(tmp_path).read_text()
    spans = (Span("rollout", 0, "rollout", 0.0, 1.0), Span("learner", 0, "update", 1.5, 4.0))
    Timeline(3, 4.0, (("rollout", 0), ("rollout", 1), ("learner", 0)), spans).write(path)
    shown = write_report(tmp_path).read_text().partition("<h2>When actors worked</h2>")[2].partition("<h2>")[0]
    assert shown.count("<svg") == 1 and "Iteration 3, 4.00 s." in shown
    assert all(f">{actor}</text>" in shown for actor in ("rollout 0", "rollout 1", "learner 0"))
    path.write_text("{}")
    text = write_report(tmp_path).read_text()
    assert "When actors worked" not in text and "timeline.json, which cannot be read" in text


def test_one_process_has_no_actors(complete: tuple[Path, str]) -> None:
    assert "Actors" not in complete[1] and "actors.json" not in complete[1]


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    assert "<svg" not in write_report(tmp_path).read_text()
    with pytest.raises(DataError, match="there is no run folder"):
        write_report(tmp_path / "nothing")
