from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.config import Config
from omatg_ray.errors import ConfigError
from omatg_ray.run.job_paths import find_file, find_potential, path_to_keep
from omatg_ray.train.job import find_input, with_job_paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stays; the user's home is above it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "omatg_ray"


def copy_of_upload(tmp_path: Path, name: str) -> Path:
    """A folder where Ray would unpack an upload."""
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / name
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def job(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a job, which this process is in."""
    folder = copy_of_upload(tmp_path, "_ray_pkg_0123456789abcdef")
    monkeypatch.chdir(folder)
    return folder


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_outside_of_a_job_everything_stays_as_it_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(home / "crystals.csv")
    config = Config.load(None, ["run=runs/x", "base=runs/base", "data.file=crystals.csv", "reward.potential=pbe"])
    assert with_job_paths(config) == config
    assert path_to_keep(Path("out.json")) == Path("out.json")
    assert find_file(Path("nowhere.csv"), "--data") == Path("nowhere.csv")
    assert find_potential("./pbe") == "./pbe"
    assert capsys.readouterr() == ("", "")


def test_a_folder_that_only_looks_like_a_copy_is_none(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert path_to_keep(Path("out.json")) == Path("out.json")


def test_the_run_folder_of_a_job_is_in_the_home_and_one_line_says_so(
    job: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "runs" / "x").mkdir(parents=True)
    config = with_job_paths(Config.load(None, ["run=runs/x"]))
    assert config.run == home / "runs" / "x"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1 and str(home / "runs" / "x") in printed.err


def test_inputs_are_those_of_the_upload_where_it_has_them(job: Path, home: Path) -> None:
    touch(job / "crystals.csv")
    for place in (job / "pbe", home / "pbe", home / "runs" / "base"):
        place.mkdir(parents=True)
    touch(home / "crystals.csv")
    config = Config.load(None, ["data.file=crystals.csv", "base=runs/base", "reward.potential=pbe", "seed=7"])
    at = with_job_paths(config)
    assert at.data.file is not None and at.data.file.resolve() == job / "crystals.csv"
    assert at.reward.potential is not None and Path(at.reward.potential).resolve() == job / "pbe"
    assert at.base == home / "runs" / "base"
    assert at.model_copy(update={"run": config.run, "base": config.base}) == config


def test_three_files_and_a_potential_are_looked_for_in_the_home(job: Path, home: Path) -> None:
    parts = [touch(home / "data" / f"{name}.extxyz") for name in ("train", "val", "test")]
    (home / "potentials" / "pbe").mkdir(parents=True)
    keys = [f"data.{path.stem}=data/{path.name}" for path in parts]
    config = with_job_paths(Config.load(None, [*keys, "reward.potential=potentials/pbe"]))
    assert [config.data.train, config.data.val, config.data.test] == parts
    assert config.data.file is None and config.base is None
    assert config.reward.potential == str(home / "potentials" / "pbe")


def test_the_name_of_a_potential_stays_a_name(job: Path) -> None:
    config = with_job_paths(Config.load(None, ["reward.potential=TensorNet-PES-MatPES-PBE-2025.2"]))
    assert config.reward.potential == "TensorNet-PES-MatPES-PBE-2025.2"


def test_what_is_bundled_is_looked_for_nowhere(job: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "bundled").mkdir(parents=True)
    config = Config.load(None, ["base=bundled", "reward.potential=bundled"])
    at = with_job_paths(config)
    assert (at.base, at.reward.potential) == ("bundled", "bundled")
    assert find_input("bundled", "MODEL") == "bundled"
    assert f"{config.run} is" in capsys.readouterr().err
    assert find_input("./bundled", "MODEL") == home / "bundled"


def test_absolute_paths_stay_whether_or_not_they_exist(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [f"{key}={tmp_path / key}" for key in ("run", "base", "data.file", "reward.potential")]
    config = Config.load(None, keys)
    assert with_job_paths(config) == config
    assert capsys.readouterr().err == ""


def test_doing_it_twice_changes_nothing_more(job: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "runs" / "base").mkdir(parents=True)
    once = with_job_paths(Config.load(None, ["base=runs/base"]))
    capsys.readouterr()
    assert with_job_paths(once) == once
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("key", ["base", "data.file"])
def test_what_is_nowhere_is_refused_with_its_key_and_both_places(job: Path, home: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: runs/base is neither in the working directory of this job nor in "):
        with_job_paths(Config.load(None, [f"{key}=runs/base"]))
    with pytest.raises(ConfigError, match=f"^--data: .* nor in {home} "):
        find_file(Path("crystals.csv"), "--data")


def test_a_path_into_the_copy_lasts_no_longer_than_a_relative_one(job: Path, home: Path) -> None:
    assert with_job_paths(Config.load(None, [f"run={job / 'runs' / 'x'}"])).run == home / "runs" / "x"
    assert path_to_keep(Path("deep/../out.json")) == home / "out.json"


def test_a_resumed_run_finds_inputs_that_an_earlier_job_had_uploaded(job: Path, home: Path, tmp_path: Path) -> None:
    earlier = copy_of_upload(tmp_path, "_ray_pkg_fedcba9876543210")
    config = Config.load(None, [f"data.file={earlier / 'crystals.csv'}"])
    with pytest.raises(ConfigError, match=r"^data\.file: "):
        with_job_paths(config)
    in_home = touch(home / "crystals.csv")
    assert with_job_paths(config).data.file == in_home
    uploaded = touch(job / "crystals.csv")
    assert with_job_paths(config).data.file == uploaded


def test_a_command_in_a_subfolder_of_the_upload_takes_paths_from_there(
    job: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(job / "study" / "crystals.csv")
    monkeypatch.chdir(job / "study")
    at = with_job_paths(Config.load(None, ["data.file=crystals.csv", "run=runs/x"]))
    assert at.data.file is not None and at.data.file.resolve() == job / "study" / "crystals.csv"
    assert at.run == home / "runs" / "x"


def test_every_path_that_moved_is_told(job: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "runs" / "x").mkdir(parents=True)
    (home / "pbe").mkdir()
    touch(job / "list.txt")
    assert find_file(Path("runs/x"), "MODEL") == home / "runs" / "x"
    assert path_to_keep(Path("out.json")) == home / "out.json"
    assert find_potential("pbe") == str(home / "pbe")
    assert find_file(Path("list.txt"), "--formulas").resolve() == job / "list.txt"
    assert (find_potential("none"), find_potential(None)) == ("none", None)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("runs/x", "out.json", "pbe"), strict=True):
        assert f" {name} is {home / name} " in line


def test_without_a_home_a_relative_path_is_refused(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="HOME"):
        with_job_paths(Config.load(None, ["run=runs/x"]))
    assert with_job_paths(Config.load(None, ["run=/mnt/runs/x"])).run == Path("/mnt/runs/x")
