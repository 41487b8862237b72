"""Settings as text: what words mean, what is refused, what a command line holds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from omatg_ray.cli.arguments import split_words
from omatg_ray.config import Config
from omatg_ray.errors import ConfigError
from omatg_ray.run.advice import command
from omatg_ray.tree import dump, override, parse, parse_value

NAMES = ["001", "2", "2026-11-28", "12:30", "no", "on", "a #2", "#2", "lr=1e-4", "it's", "a, b", "x y", "0x1f", "1_000"]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name: str) -> None:
    assert Config.load(None, [f"run={name}"]).run == Path(name)


@pytest.mark.parametrize("name", [name for name in NAMES if "#" not in name])
def test_a_file_means_the_same_as_a_command_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"run: {name}\n")
    assert Config.load(path).run == Path(name)


@pytest.mark.parametrize(
    "name", [*NAMES, "1e5", "12e4567", "1.50", "true", "null", "~x", ": b", "a: b", "[a]", "*a", "é"]
)
def test_what_is_kept_is_read_back_by_this_reader_and_by_others(name: str) -> None:
    tree = {"run": name, "seed": 3, "lr": 1e-5, "flag": False, "nothing": None, "list": [1.5, name]}
    assert parse(dump(tree)) == tree
    assert yaml.safe_load(dump(tree)) == tree
    key, _, text = override("run", name).partition("=")
    assert (key, parse_value(text)) == ("run", name)


@pytest.mark.parametrize("name", ["1.5", "1e5", "true"])
def test_a_name_that_reads_as_something_else_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(ConfigError, match=r"run: .*\./"):
        Config.load(None, [f"run={name}"])
    assert Config.load(None, [f"run=./{name}"]).run == Path(name)


@pytest.mark.parametrize(("text", "seed"), [("010", 10), ("008", 8), ("+7", 7), ("1_000", 1000)])
def test_whole_numbers_are_decimal(text: str, seed: int) -> None:
    assert Config.load(None, [f"seed={text}"]).seed == seed


@pytest.mark.parametrize("text", ["0x10", "0o10", "1:30"])
def test_other_ways_of_writing_numbers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"seed: .*{text}"):
        Config.load(None, [f"seed={text}"])


def test_floats_and_truth() -> None:
    assert parse("[1e-4, 1.0e+3, .5, -2., 1E5, true, False, null, ~]") == [
        1e-4,
        1e3,
        0.5,
        -2.0,
        1e5,
        True,
        False,
        None,
        None,
    ]
    assert Config.load(None, ["rollout.shared_start=yes"]).rollout.shared_start is True
    assert Config.load(None, ["rollout.shared_start=off"]).rollout.shared_start is False


def test_a_key_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("learner:\n  lr: 1e-3\nseed: 1\nlearner:\n  epochs: 1\n")
    with pytest.raises(ConfigError, match=rf"^{path}: the key learner is there twice, in lines 1 and 4"):
        Config.load(path)
    path.write_text("learner:\n  lr: 1e-3\n  'lr': 1e-4\n")
    with pytest.raises(ConfigError, match="the key lr is there twice, in lines 2 and 3"):
        Config.load(path)
    with pytest.raises(ConfigError, match="override 'reward.weights=.*the key energy is there twice, in line 1"):
        Config.load(None, ["reward.weights={energy: 1, energy: 2}"])


def test_a_key_of_a_merged_mapping_may_be_given_anew() -> None:
    assert parse("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}}


def test_what_follows_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="'# of them' follows the value"):
        Config.load(None, ["seed={a: 1} # of them"])


def test_the_home_and_the_environment_stand_for_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.delenv("NOTHING", raising=False)
    keys = ["run=~/x", "base=$SCRATCH/base", "data.file=${SCRATCH}/a.csv", "policy.schedule_from=~/s"]
    keys += ["reward.potential=~/p", "reward.hull.entries=$SCRATCH/e.json"]
    config = Config.load(None, keys)
    assert (config.run, config.base) == (Path("/somewhere/x"), tmp_path / "base")
    assert (config.data.file, config.policy.schedule_from) == (tmp_path / "a.csv", Path("/somewhere/s"))
    assert (config.reward.potential, config.reward.hull.entries) == ("/somewhere/p", tmp_path / "e.json")
    assert Config.load(None, ["run=s3://bucket/$HOME"]).run == "s3://bucket//somewhere"
    for key in ("run", "base", "data.file", "reward.potential"):
        with pytest.raises(ConfigError, match=rf"{key}: \$NOTHING/x: \$NOTHING is not set"):
            Config.load(None, [f"{key}=$NOTHING/x"])
        with pytest.raises(ConfigError, match=rf"{key}: .*~nobody-of-that-name has no home"):
            Config.load(None, [f"{key}=~nobody-of-that-name/x"])


def test_what_has_such_a_name_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/elsewhere")
    (tmp_path / "$HERE-too").mkdir()
    assert Config.load(None, [f"run={tmp_path}/$HERE-too/new"]).run == tmp_path / "$HERE-too" / "new"
    assert Config.load(None, [f"run={tmp_path}/$HERE/new"]).run == Path(f"{tmp_path}//elsewhere/new")


def test_a_path_with_an_equals_sign_is_no_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1e-4").mkdir()
    (tmp_path / "lr=1e-4" / "config.yaml").touch()
    words = ["lr=1e-4/config.yaml", "sweeps/a=1,b=2/config.yaml", "s3://b/seed=1/c.yaml", "base=runs/lr=1e-4", "seed=1"]
    assert split_words(words) == (words[:3], words[3:])
    with pytest.raises(ConfigError, match="cannot read config sweeps/a=1,b=2/config.yaml: No such file"):
        Config.load(split_words(words)[0][1])


@pytest.mark.parametrize("name", ["runs/a #2", "runs/it's", "runs/$x y", "runs/lr=1e-4"])
def test_a_command_that_is_advised_is_one_for_the_shell(name: str) -> None:
    assert shlex.split(command("train", "--resume", Path(name))) == ["omatg-ray", "train", "--resume", name]
