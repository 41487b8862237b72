from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from omatg_ray.cli import main, program, verbs
from omatg_ray.cli.arguments import weights


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.processes
def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "omatg_ray", "config", "rollout.gr"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("rollout.groups = ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    "which, keys",
    [
        ("sweep", ["scheduler.kind = asha", "space = {KEY: {uniform: [0.0, 1.0]}}", "guards.match_rate = 0.8"]),
        ("ablation", ["sets.NAME.potential = null", "run = runs/ablation"]),
    ],
)
def test_keys_of_other_commands_are_listed(capsys: pytest.CaptureFixture[str], which: str, keys: list[str]) -> None:
    code, out, _ = run(capsys, "config", which)
    assert code == 0
    assert set(keys) <= set(out.splitlines())


def test_help_of_the_command_names_every_verb_and_that_of_a_verb_every_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "--help")
    verbs = re.findall(r"^    (\w+) ", out, flags=re.MULTILINE)
    assert code == 0
    assert {"pretrain", "train", "evaluate", "generate", "report", "info", "doctor", "config"} <= set(verbs)
    examples = out
    for verb in verbs:
        code, out, _ = run(capsys, verb, "--help")
        assert code == 0
        examples += out
    # Whatever an example of one verb says is an option of that verb.
    for verb, example in re.findall(r"^ +omatg-ray (\w+) (.*)$", examples, flags=re.MULTILINE):
        _, out, _ = run(capsys, verb, "--help")
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", example):
            assert re.search(rf"^ +(-n |.*)?{option}\b", out, flags=re.MULTILINE), (verb, option)


def test_configs_that_the_help_names_are_in_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parents[2]
    texts = [run(capsys, *words)[1] for words in (["--help"], ["pretrain", "--help"], ["train", "--help"])]
    names = set(re.findall(r"configs/\S+\.yaml", " ".join(texts)))
    assert names
    assert all((root / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["evaluate", "m", "--data", "d", "--steps", "1"], ["--steps", "'1'", "at least 2"]),
        (["evaluate", "m", "--data", "d", "--limit", "0"], ["--limit", "at least 1"]),
        (["evaluate", "m", "--data", "d", "--workers", "-1"], ["--workers", "at least 0"]),
        (["evaluate", "m", "--data", "d", "--timeout", "0"], ["--timeout", "above 0"]),
        (["evaluate", "m", "--data", "d", "--timeout", "nan"], ["--timeout", "'nan'"]),
        (["evaluate", "m", "--data", "d", "--slope-pos", "-2"], ["--slope-pos", "at least -1"]),
        (["evaluate", "m", "--data", "d", "--seed", "-3"], ["--seed", "at least 0"]),
        (["evaluate", "m", "--data", "d", "--seed", "x"], ["--seed", "'x'", "integer"]),
        (["evaluate", "m", "--data", "d", "--invalid-energy", "inf"], ["--invalid-energy"]),
        (["evaluate", "m", "--data", "d", "--noise", "much"], ["--noise", "policy"]),
        (["evaluate", "m", "--data", "d", "--guidance", "2:0,1"], ["--guidance", "'2:0'", "0,3"]),
        (["evaluate", "m", "--data", "d", "--guidance", "much"], ["--guidance", "'much'", "2:3,-1"]),
        (["evaluate", "m"], ["--data"]),
        (["generate", "m", "--formula", "TiO2", "-n", "0", "--out", "x.cif"], ["-n", "at least 1"]),
        (["generate", "m", "--out", "x.cif"], ["--formula"]),
        (["generate", "m", "--formula", "A", "--formulas", "f", "--out", "x.cif"], ["--formulas"]),
        (["evaluate", "m", "--data", "d", "--stepz", "5"], ["--stepz"]),
        (["generate", "m", "n", "--formula", "TiO2"], ["n"]),
        (["reinforce"], ["reinforce", "train"]),
        ([], ["VERB"]),
    ],
)
def test_arguments_out_of_range_are_refused_in_one_line(
    words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("omatg-ray")
    assert all(name in err for name in named), err


@pytest.mark.parametrize(
    "words",
    [
        ["--resume", "runs/x"],
        ["--resume=runs/x"],
        ["--resume", "train"],
        ["evaluate", "--resume", "runs/x"],
        ["report", "--resume", "runs/x"],
    ],
)
def test_who_resumes_is_said_where_nothing_can_be(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--resume: give it to pretrain, train, tune or search, after the verb" in err


def test_weights_of_guidance_may_be_repeated_by_a_number() -> None:
    assert weights("0,3") == (0.0, 3.0)
    assert weights("2:3,-1") == (2.0, 2.0, 2.0, -1.0)
    assert weights("-.5 : 2, +1.") == (-0.5, -0.5, 1.0)


def test_verbs_that_resume_are_those_with_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    having = [verb for verb in program.verbs() if "--resume" in run(capsys, verb, "--help")[1]]
    assert sorted(having) == sorted(program.RESUMABLE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "bundled", "--steps", "10", "--steps=50"], "argument --steps: give it once;"),
        (["evaluate", "bundled", "--steps", "10", "--steps", "10"], "give it once; several are joined by commas"),
        (["train", "--resume", "a", "--resume", "b"], "argument --resume: give it once;"),
    ],
)
def test_options_are_given_once(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Argparse would take the last one in silence."""
    code, _, err = run(capsys, *words)
    assert code == 2
    assert said in err


@pytest.mark.parametrize("code", ["import no_such_module", "SUMMARY ="])
def test_a_broken_verb_breaks_no_other(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaks_here.py").write_text(code)
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path)])
    assert run(capsys, "config", "rollout.gr")[1].startswith("rollout.groups = ")
    helped, out, _ = run(capsys, "--help")
    assert helped == 0
    assert re.search(r"breaks-here\s+cannot be loaded: ", out)
    with pytest.raises((ImportError, SyntaxError)):
        main(["breaks-here"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "base=x", "rollout.grops=3"], ["rollout.grops", "did you mean rollout.groups?"]),
        (["train", "iterations=-1"], ["iterations", "-1"]),
        (["train", "objective.clip=much"], ["objective.clip", "much"]),
        (["train", "missing.yaml"], ["missing.yaml", "No such file"]),
        (["train", "a.yaml", "b.yaml"], ["a.yaml, b.yaml"]),
        (["train", "--resume", "nowhere"], ["nowhere", "config.yaml"]),
        (["train", "x.yaml", "--resume", "nowhere"], ["x.yaml"]),
        (["pretrain", "--quiet"], ["data.file"]),
        (["train", "--quiet", "base=null"], ["base", "bundled"]),
        (["train", "--quiet", "base=x", "reward.potential=null"], ["reward.potential", "bundled"]),
        (["train", "--quiet", "reward.potential=x"], ["base: ", "base=bundled"]),
        (["train", "--quiet", "reward={potential: x}"], ["base: ", "base=bundled"]),
        (["train", "--quiet", "data.file=x.csv"], ["base: ", "base=bundled"]),
        (["train", "--quiet", "base=x"], ["reward.potential: ", "bundled"]),
        (["train", "--quiet", "base=[3]"], ["base", "bundled", "3"]),
        (["config", "rolout"], ["rolout", "omatg-ray config"]),
        (["report", "nowhere"], ["nowhere"]),
        (["evaluate", "bundled", "--data", "bundled", "--device", "gpu"], ["'gpu'", "cuda"]),
    ],
)
def test_wrong_configuration_is_refused_with_exit_code_two(
    words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert all(name in err for name in named), err


def test_overrides_may_stand_before_and_after_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("iterations: 3\n")
    for words in ([config, "--quiet", "seed=-1"], [config, "seed=-1", "--quiet"], ["--quiet", config, "seed=-1"]):
        code, _, err = run(capsys, "train", *words)
        assert code == 2
        assert "seed" in err and "-1" in err


def test_a_run_folder_whose_name_is_a_number_can_be_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = tmp_path / "2024"
    run_folder.mkdir()
    (run_folder / "config.yaml").write_text("base: no_such_model\nreward: {potential: none_such}\n")
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.chdir(tmp_path)
        code, _, err = run(capsys, "train", "--resume", "2024")
    assert code == 1
    assert "no_such_model" in err


@pytest.mark.parametrize(
    ("name", "named"),
    [("x.pdb", ["unknown suffix", ".extxyz"]), ("full/", ["with files in it"]), ("dir.cif", ["dir.cif"])],
)
def test_outputs_that_could_not_be_written_are_refused_at_once(
    name: str, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.cif").write_text("kept")
    (tmp_path / "dir.cif").mkdir()
    out = f"{tmp_path}/{name}"
    code, _, err = run(capsys, "generate", "no_model", "--formula", "NaCl", "--out", out)
    assert code == 2
    assert "cannot write" in err
    assert all(part in err.replace("suffix must be", "") for part in named if part != ".vasp"), err
    assert (tmp_path / "full" / "old.cif").read_text() == "kept"


def test_an_output_below_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "evaluate", "m", "--data", "d", "--json", tmp_path / "file" / "out.json")
    assert code == 2
    assert str(tmp_path / "file") in err


@pytest.mark.processes
def test_a_locale_without_utf_8_is_told_once_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "ä.yaml").write_text("# α\nseed: 1\nworkers: -1\n", encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "omatg_ray"]
    done = subprocess.run([*command, "config", "policy.noise"], capture_output=True, env=environment)
    assert done.returncode == 0
    assert rb"\u03c3(t) of each active field" in done.stdout
    assert done.stderr.startswith(b"warning: the encoding of the locale is ") and done.stderr.count(b"\n") == 1
    done = subprocess.run([*command, "train", "ä.yaml"], capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert b"workers: Input should be greater than or equal to 0" in done.stderr and b"Traceback" not in done.stderr
