from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import omatg_ray as og
from omatg_ray.commands.evaluate import distinct_names, table
from omatg_ray.commands.train import TrainResult
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.policy.hand_made import LinearSchedule
from tests.commands.conftest import Command, Workshop

COLUMNS = (
    "relative_energy_mean_capped",
    "relative_energy_median",
    "invalid_share",
    "match_rate",
    "match_any",
    "match_lowest",
    "rmse",
    "crmse",
    "n",
    "n_polymorphic",
    "relative_energy_mean",
)


def evaluated(command: Command, out: Path, *words: object) -> dict[str, Any]:
    done = command("evaluate", *words, "--steps", 4, "--json", out, "--quiet")
    assert done.code == 0, done.err
    return json.loads(out.read_text()) | {"printed": done.out, "err": done.err}


def test_metrics_lie_at_the_top_of_the_json_and_equal_the_table(
    trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    crystals = tmp_path / "out.extxyz"
    result = evaluated(
        command,
        tmp_path / "a.json",
        workshop.root / "trained",
        "--data",
        workshop.data,
        "--workers",
        0,
        "--out",
        crystals,
    )
    assert result["n"] == 13
    assert set(COLUMNS) <= result.keys()
    assert result["potential"] == str(workshop.potential)
    cells = result["printed"].splitlines()[1].removeprefix(str(workshop.root / "trained")).split()
    # No composition of the data has two crystals.
    assert result["match_any"] is result["match_lowest"] is result["n_polymorphic"] is None
    assert "polymorph" not in result["per_structure"]
    shown = [key for key in COLUMNS if result[key] is not None]
    for key, cell in zip(shown, cells, strict=True):
        if key == "invalid_share":
            assert float(cell.rstrip("%")) == pytest.approx(100 * result[key], abs=0.05)
        else:
            assert float(cell) == pytest.approx(result[key], abs=5e-4)
    rows = result["per_structure"]
    relative = [value for value in rows["relative_energy"] if value is not None]
    assert result["relative_energy_mean"] == pytest.approx(sum(relative) / len(relative))
    assert result["invalid_share"] == pytest.approx(rows["valid"].count(False) / 13)
    assert read_dataset(crystals, allow_overlaps=True).compositions == read_dataset(workshop.data).compositions


@pytest.mark.processes
def test_one_seed_gives_one_result_whatever_the_workers(
    trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = [workshop.root / "trained", "--data", workshop.data, "--noise", "policy", "--limit", 6]
    first = evaluated(command, tmp_path / "a.json", *words, "--workers", 0)
    again = evaluated(command, tmp_path / "b.json", *words, "--workers", 2)
    other = evaluated(command, tmp_path / "c.json", *words, "--workers", 0, "--seed", 1)
    assert first["n"] == 6
    assert first == again
    assert first["per_structure"] != other["per_structure"]


def test_guidance_is_a_row_each_and_0_is_the_base(
    trained: TrainResult, base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = ["--data", workshop.data, "--limit", 3, "--potential", workshop.potential]
    rows = [word for weights in ("0", "1", "2:2,-1") for word in ("--guidance", weights)]
    found, _ = compared(command, tmp_path, trained.model, *words, "--steps", 4, *rows)
    assert [case["schedule"] for case in found["cases"]] == ["own, guidance 0", "own", "own, guidance 2:2,-1"]
    of_base, of_model, guided = (
        evaluated(command, tmp_path / "one.json", *asked, *words, "--workers", 0)["per_structure"]["energy_per_atom"]
        for asked in ((base,), (trained.model,), (trained.model, "--guidance", 0))
    )
    assert guided == pytest.approx(of_base) and guided != pytest.approx(of_model)
    options: dict[str, Any] = {"steps": 4, "limit": 3, "workers": 0, "guidance": [0]}
    with pytest.warns(UserWarning, match="outside of the training data"):
        once = og.evaluate(trained.model, workshop.data, potential=str(workshop.potential), **options)
    assert once.as_dict()["per_structure"]["energy_per_atom"] == pytest.approx(of_base)
    command("evaluate", base, *words, "--guidance", 2).refuses("guidance", "it is a base model", "guidance 0", code=1)


def test_a_base_model_has_no_potential_and_no_noise(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = [base, "--data", workshop.data, "--limit", 3, "--workers", 0]
    plain = evaluated(command, tmp_path / "a.json", *words)
    assert plain["relative_energy_mean"] is None
    missing, outside = plain["err"].splitlines()
    assert missing == "warning: no energies: the model names no potential; give one with --potential"
    assert outside.startswith(f"warning: outside of the training data: model {base}, ")
    noisy = evaluated(command, tmp_path / "b.json", *words, "--noise", "policy", "--potential", "none")
    assert "no policy noise" in noisy["err"] and noisy["err"].splitlines()[1:] == [outside]
    assert noisy["crmse"] == plain["crmse"]


def test_slopes_anneal(base: Path, workshop: Workshop, command: Command, tmp_path: Path) -> None:
    words = [base, "--data", workshop.data, "--limit", 3, "--workers", 0, "--potential", workshop.potential]
    plain = evaluated(command, tmp_path / "a.json", *words)
    annealed = evaluated(command, tmp_path / "b.json", *words, "--slope-pos", "5")
    assert plain["annealing"] is None
    assert annealed["annealing"] == {"kind": "linear", "pos": 5.0, "cell": 0.0}
    assert plain["per_structure"]["energy_per_atom"] != annealed["per_structure"]["energy_per_atom"]


def test_schedules_take_the_place_of_the_models_own(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path, assets: Path
) -> None:
    words = [base, "--data", workshop.data, "--limit", 3, "--workers", 0, "--potential", workshop.potential]
    by_slope = evaluated(command, tmp_path / "a.json", *words, "--slope-pos", 5)
    by_text = evaluated(command, tmp_path / "b.json", *words, "--schedule", "linear:pos=5")
    assert by_slope["per_structure"] == by_text["per_structure"]
    learned = evaluated(command, tmp_path / "c.json", *words, "--schedule", "bundled")
    assert learned["annealing"]["kind"] == "learned"
    assert learned["per_structure"]["energy_per_atom"] != by_text["per_structure"]["energy_per_atom"]
    (tmp_path / "copy").mkdir()
    for file in ("schedule.json", "weights.safetensors"):
        shutil.copy(assets / "schedule" / file, tmp_path / "copy")
    again = evaluated(command, tmp_path / "d.json", *words, "--schedule", tmp_path / "copy")
    assert again["per_structure"] == learned["per_structure"]
    # Several are cases.
    schedules = [word for name in ("none", "bundled", "own") for word in ("--schedule", name)]
    out = command("evaluate", *words, "--steps", 3, "--quiet", *schedules).out
    assert [name for name in ("none", "bundled", "own") if f" {name} " in out] == ["none", "bundled", "own"]
    command("evaluate", *words, "--steps", "3,4", "--to", base).refuses("--to", "that is a run")
    twice = ["--schedule", "none", "--schedule", "bundled"]
    command("generate", base, "--formula", "NaCl", *twice).refuses("one --schedule", "not 2")
    command("evaluate", *words, "--steps", 3, 4).refuses("unknown arguments: 4", "joined by commas")
    command("evaluate", *words, "--schedule", "none", "--slope-pos", 5).refuses("--schedule", "either")
    command("evaluate", *words, "--schedule", "nowhere").refuses("nowhere", "no such folder")


def test_relaxed_crystals_have_a_line_of_their_own(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = [base, "--data", workshop.data, "--limit", 3, "--workers", 0, "--potential", workshop.potential]
    plain = evaluated(command, tmp_path / "a.json", *words)
    relaxed = evaluated(command, tmp_path / "b.json", *words, "--relax", 2)
    head, line, below, *_, spent, _ = relaxed["printed"].splitlines()
    assert [head, line] == plain["printed"].splitlines()[:2]
    assert below.startswith(f"  relaxed, {relaxed['relaxed_steps']:.1f} steps ")
    assert below.split()[3] == f"{relaxed['relaxed_relative_energy_mean_capped']:+.3f}"
    assert spent.startswith("relaxed: in at most 2 steps; ")
    assert all(relaxed[key] == plain[key] for key in COLUMNS)
    # In Python likewise.
    options: dict[str, Any] = {"potential": str(workshop.potential), "steps": 4, "limit": 3, "workers": 0, "relax": 2}
    with pytest.warns(UserWarning, match="outside of the training data"):
        again = og.evaluate(base, workshop.data, **options)
    assert again.metrics.relaxed_relative_energy_mean_capped == relaxed["relaxed_relative_energy_mean_capped"]
    command("evaluate", *words[:-1], "none", "--steps", 4, "--relax", 2).refuses("relax", "no potential", "--potential")
    scored = ["--structures", workshop.data, "--reward", base, "--relax", 2]
    command("evaluate", *scored).refuses("--structures", "leave out --relax")
    with pytest.raises(ConfigError, match=r"relax: .* og\.relax first"):
        og.evaluate(workshop.data, potential="none", relax=2)


def test_a_table_prints_what_was_measured() -> None:
    metrics = dict.fromkeys(COLUMNS) | {"n": 4, "match_rate": 0.5, "rmse": 0.12345, "invalid_share": 0.25}
    metrics["relative_energy_mean"] = 0.1
    other = dict.fromkeys(COLUMNS) | {"n": 3, "match_any": 0.75, "match_lowest": 0.5, "n_polymorphic": 2}
    alone = table([{"label": "a model", "metrics": metrics}]).splitlines()
    assert " ".join(alone[0].split()) == "invalid match rate RMSE n mean, not capped"
    assert alone[1].split() == ["a", "model", "25.0%", "0.500", "0.123", "4", "+0.100"]
    both = table([{"label": "a model", "metrics": metrics}, {"label": "other", "metrics": other}]).splitlines()
    assert both[1].split() == ["a", "model", "25.0%", "0.500", "-", "-", "0.123", "4", "-", "+0.100"]
    assert both[2].split() == ["other", "-", "-", "0.750", "0.500", "-", "3", "2", "-"]
    assert len({len(line) for line in both}) == 1


# --- several cases --------------------------------------------------------------------------------------------


def compared(command: Command, folder: Path, *words: object) -> tuple[dict[str, Any], str]:
    done = command("evaluate", *words, "--workers", 0, "--to", folder, "--quiet")
    assert done.code == 0, done.err
    return json.loads((folder / "evaluation.json").read_text()), done.out


def test_models_whose_own_schedules_differ_are_not_compared_in_silence(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    model = FlowModel.load(base)
    description = model.description.model_copy(update={"schedule": LinearSchedule(pos=2.0)})
    (tmp_path / "annealed").mkdir()
    FlowModel(description, model.base_network).save(tmp_path / "annealed")
    words = ["evaluate", base, tmp_path / "annealed", "--data", workshop.data, "--limit", 2, "--steps", 3]
    words += ["--workers", 0, "--potential", "none", "--quiet"]
    done = command(*words)
    assert "schedules of their own, which differ (base: none, annealed: linear)" in done.err
    assert "own (none)" in done.out and "own (linear)" in done.out
    done = command(*words, "--schedule", "none")
    assert "which differ" not in done.err and "own (" not in done.out


def test_several_cases_in_one_call(
    trained: TrainResult, base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = [base, workshop.root / "trained", "--data", workshop.data, "--limit", 5, "--samples", 2]
    written, printed = compared(command, tmp_path / "to", *words, "--steps", "3,4")
    cases = written["cases"]
    assert [(case["model"], case["steps"]) for case in cases] == [
        ("base", 3), ("base", 4), ("trained", 3), ("trained", 4),
    ]  # fmt: skip
    assert all(case["metrics"]["n"] == 10 and len(case["metrics"]["coverage_at"]) == 2 for case in cases)
    assert [bool(case["less_first"]) for case in cases] == [False, True, True, True]
    assert written["about"]["potential"] == str(workshop.potential)
    assert len(printed.splitlines()) == 1 + 4 + 4 + 1 + 1
    assert printed.splitlines()[-1] == f"report: {tmp_path / 'to' / 'report.html'}"
    assert "<h2>Crystals" in (tmp_path / "to" / "report.html").read_text()
    assert (tmp_path / "to" / "compositions.parquet").is_file()
    # The first sample of each reference is what a call without samples gives.
    single = evaluated(command, tmp_path / "a.json", workshop.root / "trained", *words[2:6], "--workers", 0)
    (file,) = [
        found
        for path in (tmp_path / "to" / "cases").glob("*.json")
        if (found := json.loads(path.read_text()))["name"] == "trained" and found["steps"] == 4
    ]
    rows = file["evaluation"]["per_structure"]
    for key in ("id", "valid", "rmse", "energy_per_atom"):
        assert rows[key][:5] == single["per_structure"][key]


def test_the_bundled_model(command: Command, tmp_path: Path) -> None:
    """With real crystals and energies: annealing helps where there are points enough."""
    words = [
        "bundled-prototypes",
        "--data",
        "bundled-prototypes",
        "--limit",
        8,
        "--samples",
        2,
        "--steps",
        "5,20",
        "--threads",
        1,
    ]
    written, _ = compared(command, tmp_path, *words, "--slope-pos", 5, "--slope-cell", 2)
    few, many = written["cases"]
    assert few["metrics"]["n"] == many["metrics"]["n"] == 16
    assert many["less_first"]["relative_energy_mean_capped"]["high"] < 0
    assert many["metrics"]["coverage"] >= many["metrics"]["match_rate"] == many["metrics"]["coverage_at"][0]
    assert 1.0 <= many["metrics"]["unique_structures"] <= 2.0


def test_a_potential_that_is_not_what_it_was_when_it_rewarded_is_named(
    trained: TrainResult, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    words = ["--data", workshop.data, "--limit", 2, "--steps", 3, "--workers", 0, "--quiet"]
    assert "other weights" not in command("evaluate", trained.model, *words).err
    old = shutil.copytree(trained.model, tmp_path / "old")
    described = json.loads((old / "model.json").read_text())
    described["provenance"]["potential_fingerprint"] = "0123456789ab"
    (old / "model.json").write_text(json.dumps(described))
    said = command("evaluate", old, *words)
    assert said.code == 0 and f"{workshop.potential} has other weights now" in said.err
    assert "version 0.1" not in said.err
    assert "other weights" not in command("evaluate", old, *words, "--potential", "none").err


def test_a_second_call_goes_on_and_more_cases_add_to_it(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [base, "--data", workshop.data, "--limit", 4, "--potential", workshop.potential]
    first, _ = compared(command, tmp_path, *words, "--steps", "3,4")
    generated = []

    def watched(self: FlowModel, *given: Any, **options: Any) -> Any:
        generated.append(given[1].steps)
        return generate(self, *given, **options)

    generate = FlowModel.generate
    monkeypatch.setattr(FlowModel, "generate", watched)
    again, printed = compared(command, tmp_path, *words, "--steps", "3,4")
    assert again == first and generated == []
    assert "evaluated before, and not again: 2 of 2 cases" in printed
    more, printed = compared(command, tmp_path, *words, "--steps", 5, "--slope-pos", 2)
    assert generated == [5] and "from other calls with the same references, seed and samples: 2 cases" in printed
    assert [(case["schedule"], case["steps"]) for case in more["cases"]] == [
        ("linear:pos=2,cell=0", 5), ("own", 3), ("own", 4),
    ]  # fmt: skip
    assert [case["metrics"] for case in more["cases"][1:]] == [case["metrics"] for case in first["cases"]]
    # Another seed gives crystals that cannot be compared with these.
    other, _ = compared(command, tmp_path, *words, "--steps", 3, "--seed", 1)
    assert len(other["cases"]) == 1


def test_cases_without_a_folder(base: Path, workshop: Workshop, command: Command, tmp_path: Path) -> None:
    words = ["evaluate", base, "--data", workshop.data, "--limit", 3, "--potential", "none", "--workers", 0, "--quiet"]
    done = command(*words, "--steps", "3,4,3", "--json", tmp_path / "a.json")
    assert done.code == 0 and len(done.out.splitlines()) == 1 + 2 + 2 + 1
    assert [case["steps"] for case in json.loads((tmp_path / "a.json").read_text())["cases"]] == [3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    command(*words, "--steps", "3,4", "--out", tmp_path / "a.extxyz").refuses("--out", "single case")
    (tmp_path / "file").touch()
    command(*words, "--to", tmp_path / "file").refuses("file", "not a folder")


def test_names_of_models_tell_them_apart() -> None:
    assert distinct_names(["runs/a", "runs/b/"]) == ["a", "b"]
    places = ["runs/a/checkpoints/best", "runs/b/checkpoints/best", "bundled"]
    assert distinct_names(places) == ["a/checkpoints/best", "b/checkpoints/best", "bundled"]
    assert distinct_names(["a", "a"]) == ["a", "a"]


# --- bad input ------------------------------------------------------------------------------------------------


def test_missing_files_and_models_are_named(base: Path, workshop: Workshop, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    out.write_text("old")
    command("evaluate", tmp_path / "none", "--data", workshop.data, "--json", out).refuses("none", "model.json", code=1)
    command("evaluate", base, "--data", tmp_path / "no.csv", "--json", out, "--quiet").refuses("no.csv", code=1)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_bad_row_is_named_with_its_reason(base: Path, command: Command, tmp_path: Path) -> None:
    data = tmp_path / "bad.csv"
    data.write_text('material_id,cif\na,"data_x\n_cell_length_a 4"\n')
    command("evaluate", base, "--data", data, "--quiet").refuses("bad.csv", "row", code=1)


def test_references_that_cannot_be_used_are_listed_or_skipped(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    data = tmp_path / "some.xyz"
    frame = '2\nLattice="4.12 0 0 0 4.12 0 0 0 4.12"\nNa 0 0 0\nCl 2.06 2.06 {}\n'
    data.write_text(frame.format(2.06) + frame.format(-2) * 2 + "1\n\nNa 0 0 0\n".replace("Na", "Cl"))
    data.write_text(data.read_text() + frame.format(2.06).replace("Cl 2.06 2.06 2.06", "Cl 0 0 0.1"))
    refused = command("evaluate", base, "--data", data, "--steps", 3, "--quiet")
    assert refused.code == 1
    lines = refused.err.splitlines()
    assert lines[0].startswith(f"omatg-ray: 2 of 5 crystals of {data} cannot be used; ")
    assert [line.split(": ")[0] for line in lines[1:3]] == [f"  {data}, row 4", f"  {data}, row 5"]
    result = evaluated(command, tmp_path / "a.json", base, "--data", data, "--workers", 0, "--on-error", "skip")
    assert result["n"] == 3
    assert f"warning: 2 of 5 crystals of {data} are left out:" in result["err"]


def test_a_checkpoint_of_another_architecture_is_refused(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    best = base / "checkpoints" / "best"
    (tmp_path / "weights.safetensors").write_bytes((best / "weights.safetensors").read_bytes())
    description = json.loads((best / "model.json").read_text())
    description["network"]["hidden"] = 8
    (tmp_path / "model.json").write_text(json.dumps(description))
    command("evaluate", tmp_path, "--data", workshop.data, "--quiet").refuses("do not fit the network", code=1)
    (tmp_path / "model.json").write_text("{}")
    command("evaluate", tmp_path, "--data", workshop.data, "--quiet").refuses("model.json", code=1)


def test_a_potential_that_fails_its_known_energy_is_refused(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    for path in workshop.potential.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    known = json.loads((tmp_path / "known_energies.json").read_text())
    known[0]["energy_per_atom"] += 0.1
    (tmp_path / "known_energies.json").write_text(json.dumps(known))
    words = ["--data", workshop.data, "--potential", tmp_path, "--quiet"]
    command("evaluate", base, *words).refuses("fails known energy", "NaCl", code=1)


def test_elements_that_the_potential_does_not_know_are_refused(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    data = tmp_path / "new.extxyz"
    data.write_text(
        '2\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 pbc="T T T"\nU 0 0 0\nO 1.5 1.5 1.5\n'
    )
    done = command("evaluate", base, "--data", data, "--potential", workshop.potential, "--quiet")
    done.refuses("does not know U", code=1)
    assert f"warning: outside of the training data: model {base}: of its 8 training crystals none has U." in done.err
    # Of two crystals the first is asked for alone.
    data.write_text(data.read_text().replace("U ", "Na ").replace("O ", "Cl ") + data.read_text())
    done = command("evaluate", base, "--data", data, "--potential", workshop.potential, "--limit", 1, "--quiet")
    assert done.code == 0


def test_crystals_are_written_in_standard_cells_to_a_folder_of_poscars(
    base: Path, workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    """Those of an untrained model overlap: they stay as they are, and are named."""
    words = ["--data", workshop.data, "--steps", 3, "--workers", 0, "--quiet", "--potential", "none", "--limit", 4]
    out = [f"{tmp_path}/out/", "--format", "vasp", "--standardize", "primitive"]
    done = command("evaluate", base, *words, "--out", *out)
    assert done.code == 0, done.err
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 4 and all(file.suffix == ".vasp" for file in files)
    standard = [file for file in files if "standardized=primitive cell by spglib" in file.read_text()]
    kept = len(files) - len(standard)
    assert done.err.count(f"warning: {kept} of 4 crystals are kept in the cell they had") == (kept > 0)
    assert len(read_dataset(tmp_path / "out", allow_overlaps=True)) == 4
