"""What the documentation tells newcomers to write works: a reward, a policy variant, the page on Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import omatg_ray as og
from omatg_ray.rl.backend import LocalTrainingBackend
from omatg_ray.rl.trainer import Trainer
from tests.commands.conftest import Workshop
from tests.conftest import ROOT

BLOCK = re.compile(r"```python\n# (omatg_ray/\S+?\.py)(?:, in (\w+))?\n(.*?)```", re.DOTALL)
"""Code of the documentation that begins with its file, and perhaps where in that file it stands."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the package with what the pages on policies and rewards add to it; its assets are links."""
    for source in (ROOT / "omatg_ray").rglob("*"):
        copy = tmp_path / source.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix in (".py", ".pyc"):  # with its time, so that what is compiled already counts
            shutil.copy2(source, copy)
        elif source.is_file():
            copy.symlink_to(source)
    blocks = [
        block for page in ("policies", "rewards") for block in BLOCK.findall((ROOT / f"docs/{page}.md").read_text())
    ]
    assert [(path, name) for path, name, _ in blocks] == [
        ("omatg_ray/model/variants/damped.py", ""),
        ("omatg_ray/reward/built_in/flat.py", ""),
        ("omatg_ray/reward/built_in/__init__.py", "NAMES"),
    ]
    for path, name, code in blocks:
        if name:
            text = (tmp_path / path).read_text()
            added = re.sub(rf"^({name}\b.*? = \(\n(?:    .*\n)*)\)", rf"\1{code})", text, flags=re.MULTILINE)
            assert added != text
            code = added
        (tmp_path / path).write_text(code)
    return tmp_path


@pytest.mark.processes
def test_a_reward_and_a_variant_are_a_file_each(tree: Path, workshop: Workshop, base: Path) -> None:
    words = [str(workshop.config), f"base={base}", f"run={tree / 'run'}", "iterations=1", "workers=0"]
    words += ["policy.variant=damped", "policy.fixed_schedule=null", "reward.weights={flat: 1}", "reward.flat.axis=1"]
    done = subprocess.run(
        [sys.executable, "-m", "omatg_ray", "train", *words], cwd=tree, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = [
        row
        for row in map(json.loads, (tree / "run" / "metrics.jsonl").read_text().splitlines())
        if row["kind"] == "train"
    ]
    assert row["reward_flat_mean"] == pytest.approx(-row["reward_flat.length_mean"])
    weights = load_file(tree / "run" / "checkpoints" / "last" / "weights.safetensors")
    assert float(weights["damping.strength"]) != 0.0


def python_blocks() -> list[str]:
    """The Python code of the page on Python, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)


def test_the_page_on_python_runs_as_written(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text(f"{workshop.config.read_text()}base: {base}\n")
    *blocks, loop = python_blocks()
    scope: dict[str, object] = {}
    for block in blocks:
        exec(block, scope)
    assert [len(scope[name]) for name in ("crystals", "one", "structures")] == [2, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "best.extxyz", "runs"}
    assert scope["model"].description.active
    capsys.readouterr()
    # As written, apart from what it costs.
    assert 20 <= len([line for line in loop.splitlines() if line.strip()]) <= 30
    short = loop.replace("iterations=20", "iterations=2").replace("group_size=16", "group_size=4")
    exec(short.replace("steps=10", "steps=4"), scope)
    assert len(capsys.readouterr().out.splitlines()) == 2
    reinforced = load_file(tmp_path / "mine" / "weights.safetensors")
    # The same work by the trainer gives the same weights.
    config = og.Config.load(None, ["rollout.groups=2", "rollout.group_size=4", "rollout.steps=4", "learner.lr=2e-4"])
    model = og.policy_model(og.FlowModel.load("bundled/base"), config)
    learner = og.Learner(model.policy(), config.objective, config.learner)
    backend = LocalTrainingBackend(learner, model, scope["energy"])
    trainer = Trainer(config.rollout, scope["cells"], config.advantage, backend, seed=0, total=2)
    for _ in range(2):
        trainer.step()
    moved = [name for name, value in model.learned.state_dict().items() if not value.equal(reinforced[name])]
    assert not moved
    learned = [name for name in reinforced if name.startswith("policy.")]
    assert any(not reinforced[name].equal(reinforced[name.replace("policy.", "base.", 1)]) for name in learned)
