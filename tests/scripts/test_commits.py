"""`scripts/compare_commits`: what counts as a difference, and that two commits are run and compared."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts" / "commits"), *sys.path])


TRAIN = {"kind": "train", "step": 1, "loss": 0.25, "time_learn": 1.0, "idle_rollout_0": 0.5}
MODEL = {"format": 1, "provenance": {"seed": 0, "versions": {"torch": "2", "commit": "a"}}}


def write_run(folder: Path) -> Path:
    """What a run writes, in small."""
    checkpoint = folder / "run" / "checkpoints" / "iteration_1"
    checkpoint.mkdir(parents=True)
    (checkpoint.parent / "last").symlink_to("iteration_1")
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}, checkpoint / "weights.safetensors")
    (checkpoint / "model.json").write_text(json.dumps(MODEL))
    (checkpoint / "manifest.json").write_text(json.dumps({"files": {"model.json": {"sha256": "1"}}}))
    (folder / "run" / "metrics.jsonl").write_text(json.dumps(TRAIN) + "\n")
    (folder / "run" / "config.yaml").write_text("seed: 0\nrollout: {groups: 2}\n")
    (folder / "run" / "crystals.extxyz").write_text("1\n\nNa 0 0 0\n")
    torch.save({"state_dict": {"a": torch.ones(2)}}, folder / "run" / "exported.ckpt")
    (folder / "run" / "report.html").write_text("<p>loss 0.5, in 3.2 s</p>")
    (folder / "run" / "tensorboard").mkdir()
    (folder / "run" / "tensorboard" / "events.1").write_bytes(b"1")
    return folder


def tensors(folder: Path, **values: torch.Tensor) -> None:
    save_file(values, folder / "run" / "checkpoints" / "iteration_1" / "weights.safetensors")


def metrics(folder: Path, **values: Any) -> None:
    (folder / "run" / "metrics.jsonl").write_text(json.dumps(TRAIN | values) + "\n")


def text(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "run" / name).write_text(text)


A, B = torch.arange(6.0).reshape(2, 3), torch.tensor([1, 2])
WEIGHTS, LOG = "run/checkpoints/iteration_1/weights.safetensors", "run/metrics.jsonl"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: tensors(folder, a=A + torch.tensor([0, 0, 1e-6]), b=B),
            f"{WEIGHTS}: a: 2 of 6 elements, first 2: 2.0, after 2.0000009536743164",
        ),
        (lambda folder: tensors(folder, a=A * -0.0, b=B), f"{WEIGHTS}: a: 6 of 6 elements, first 0: 0.0, after -0.0"),
        (lambda folder: tensors(folder, a=A.double(), b=B), f"{WEIGHTS}: a: dtype F32, after F64"),
        (lambda folder: tensors(folder, a=A.reshape(3, 2), b=B), f"{WEIGHTS}: a: shape (2, 3), after (3, 2)"),
        (lambda folder: tensors(folder, a=A), f"{WEIGHTS}: b: not there after"),
        (lambda folder: metrics(folder, loss=0.25000000000000006), f"{LOG}: [0].loss: 0.25, after 0.25000000000000006"),
        (lambda folder: metrics(folder, loss=None), f"{LOG}: [0].loss: 0.25, after None"),
        (lambda folder: metrics(folder, step=1.0), f"{LOG}: [0].step: 1, after 1.0"),
        (lambda folder: metrics(folder, other=1), f"{LOG}: [0].other: not there before"),
        (lambda folder: (folder / LOG).unlink(), f"{LOG}: not there after"),
        (text("new.json", "{}"), "run/new.json: not there before"),
        (text("config.yaml", "seed: 0\nrollout: {}\n"), "run/config.yaml: rollout.groups: not there after"),
        (text("crystals.extxyz", "1\n\nK 0 0 0\n"), "run/crystals.extxyz: [2]: 'Na 0 0 0', after 'K 0 0 0'"),
        (text("report.html", "<p>loss 0.6, in 3.2 s</p>"), "run/report.html: [0]: '<p>loss 0.5, in SECONDS</p>'"),
        (
            lambda folder: torch.save({"state_dict": {"a": torch.zeros(2)}}, folder / "run" / "exported.ckpt"),
            "run/exported.ckpt: state_dict.a: 2 of 2 elements, first 0: 1.0, after 0.0",
        ),
    ],
)
def test_what_differs_first_is_named(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    from differences import folder_difference

    before, after = (write_run(tmp_path / name) for name in ("before", "after"))
    assert folder_difference(before, after) is None
    change(after)
    found = folder_difference(before, after)
    assert found is not None and found.startswith(said)


def test_links_lead_to_the_same(tmp_path: Path) -> None:
    from differences import folder_difference

    before, after = (write_run(tmp_path / name) for name in ("before", "after"))
    last = after / "run" / "checkpoints" / "last"
    last.unlink()
    last.symlink_to("iteration_2")
    assert folder_difference(before, after) == "run/checkpoints/last: 'iteration_1', after 'iteration_2'"


def test_times_commits_and_new_keys_of_a_configuration_are_no_difference(tmp_path: Path) -> None:
    from differences import folder_difference

    before, after = (write_run(tmp_path / name) for name in ("before", "after"))
    metrics(after, time_learn=2.0, idle_rollout_0=0.1)
    (after / "run" / "report.html").write_text("<p>loss 0.5, in 11.0 s</p>")
    (after / "run" / "config.yaml").write_text("seed: 0\nrollout: {groups: 2, new: 1}\n")
    (after / "run" / "tensorboard" / "events.1").rename(after / "run" / "tensorboard" / "events.2")
    other = MODEL | {"provenance": {"seed": 0, "versions": {"torch": "2", "commit": "b"}}}
    (after / "run" / "checkpoints" / "iteration_1" / "model.json").write_text(json.dumps(other))
    manifest = after / "run" / "checkpoints" / "iteration_1" / "manifest.json"
    manifest.write_text(json.dumps({"files": {"model.json": {"sha256": "2"}}}))
    assert folder_difference(before, after) is None


def test_renamed_keys_and_texts_are_no_difference_where_that_is_asked_for(tmp_path: Path) -> None:
    from differences import folder_difference

    before, after = write_run(tmp_path / "before"), write_run(tmp_path / "after")
    text("config.yaml", "seed: 0\nrollout: {crystals: 2}\n")(after)
    text("report.html", "<p>the loss is 0.5, in 3.2 s</p>")(after)
    renamed = {"rollout.groups": "rollout.crystals"}
    assert folder_difference(before, after, renamed, texts=False) is None
    found = folder_difference(before, after, renamed)
    assert found == "run/report.html: [0]: '<p>loss 0.5, in SECONDS</p>', after '<p>the loss is 0.5, in SECONDS</p>'"
    assert folder_difference(before, after, texts=False) == "run/config.yaml: rollout.groups: not there after"
    text("config.yaml", "seed: 0\nrollout: {crystals: 3}\n")(after)
    found = folder_difference(before, after, renamed, texts=False)
    assert found == "run/config.yaml: rollout.crystals: 2, after 3"


def test_times_in_tables_and_reports_are_left_out_and_nothing_else() -> None:
    from differences import masked

    table = "model  E    s/1000\na      1.5     7.1\nb        -   118.0\nE: eV/atom\n"
    assert masked(table) == "model  E    s/1000\na      1.5\nb        -\nE: eV/atom\n"
    heads = "<thead><tr><th>E</th><th>s/1000</th></tr></thead>"
    page = f"{heads}<tbody><tr><td>1.5</td><td>7.1</td></tr></tbody><td>2</td></tr>"
    assert masked(page) == page.replace("<td>7.1</td></tr>", "")
    assert masked("<h2>A</h2>1\n<h2>Time of every iteration</h2>\n<p>2\n<h2>B</h2>3") == "<h2>A</h2>1\n<h2>B</h2>3"


PACKAGE = """\
import pathlib, sys
number = 1 if sys.argv[1] == "start" else 1 + int(pathlib.Path("run/number").read_text())
pathlib.Path("run").mkdir(exist_ok=True)
pathlib.Path("run/number").write_text(str(number))
print("--old --kept")
with open({log!r}, "a") as log:
    log.write(sys.argv[1] + " ")
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A repository whose package writes a number, and adds to it; commits another text of it, and gives the commit."""
    import checkouts
    import commits
    from cases import Case, options

    root = tmp_path / "repository"
    (root / "omatg_ray").mkdir(parents=True)
    (root / "configs").mkdir()
    (root / "configs" / "one.yaml").write_text("seed: 0\n")
    (root / "omatg_ray" / "__init__.py").touch()
    listed = [
        Case("start", (("start",),), writes=("run",)),
        Case("go_on", (("go_on",),), ("start",), writes=("run",)),
        Case("options", (("start",),), writes=(), promised=options),
    ]
    monkeypatch.setattr(checkouts, "ROOT", root)
    monkeypatch.setattr(commits, "cases", lambda configs, folder: listed)
    monkeypatch.setattr(commits, "write_inputs", lambda folder, code: folder.mkdir())

    def git(*words: str) -> str:
        author = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        done = subprocess.run(["git", *author, *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(program: str) -> str:
        (root / "omatg_ray" / "__main__.py").write_text(program)
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", "another")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    return commit


@pytest.mark.processes
def test_two_commits_run_the_same_and_are_compared(
    repository: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from commits import main

    log = tmp_path / "log"
    first = repository(PACKAGE.format(log=str(log)))
    same = repository(PACKAGE.format(log=str(log)) + "# moved\n")
    assert main([first, same, "--keep", str(tmp_path / "kept")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["equal"] * 3 and lines[5].endswith("all 3 are equal")
    assert log.read_text().split() == ["start", "start", "go_on", "go_on", "start", "start"]

    # What the first wrote is there already; the other goes on with that, and not with what it wrote itself.
    log.unlink()
    other = repository(PACKAGE.format(log=str(log)).replace("1 if", "7 if").replace("--old ", ""))
    assert main([first, other, "--keep", str(tmp_path / "kept")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "run/number: [0]: '1', after '7'" in lines[2] and "1.out: [0]: '--old --kept'" in lines[3]
    assert "not there after: --old" in lines[4] and lines[5].endswith("3 of 3 differ: start, go_on, options")
    assert log.read_text().split() == ["start", "go_on", "start"]


@pytest.mark.processes
def test_without_a_second_commit_the_files_of_the_checkout_are_compared(
    repository: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from commits import main

    first = repository(PACKAGE.format(log=str(tmp_path / "log")))
    (tmp_path / "repository" / "omatg_ray" / "__main__.py").write_text("raise SystemExit('broken')")
    assert main([first, "--only", "go_on"]) == 1
    assert "after: command 1 ended with 1: broken" in capsys.readouterr().out


@pytest.mark.processes
def test_a_package_from_elsewhere_is_refused(tmp_path: Path) -> None:
    from checkouts import CheckoutError, Code

    (tmp_path / "code").mkdir()
    with pytest.raises(CheckoutError, match="a command should import omatg_ray from .*code, not "):
        Code(tmp_path / "code", tmp_path / "cache").refuse_other(tmp_path, actors=False)


def test_cases_and_revisions_that_there_are_not_are_named(
    repository: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    from commits import main

    first = repository("")
    for words, said in (([first, "--only", "nothing"], "no case nothing"), (["nowhere"], "nowhere")):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert said in capsys.readouterr().err


def test_every_need_is_a_case_before_it() -> None:
    from cases import cases

    configs = ROOT / "configs"
    listed = cases(sorted(path.name for path in configs.glob("*.yaml")), configs)
    seen: set[str] = set()
    for case in listed:
        assert set(case.needs) <= seen, case.name
        seen.add(case.name)
    assert len(seen) == len(listed)
