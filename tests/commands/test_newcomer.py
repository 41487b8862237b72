"""A reward and a policy variant are added as the documentation says, and nothing else is touched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

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
        if source.suffix == ".py":
            copy.write_bytes(source.read_bytes())
        elif source.is_file() and "__pycache__" not in source.parts:
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
