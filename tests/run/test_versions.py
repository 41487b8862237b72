from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

import omatg_ray
from omatg_ray.assets import ASSETS
from omatg_ray.run.versions import git_commit, software, versions


def test_versions_are_those_of_the_modules() -> None:
    found = versions()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()
    assert all(isinstance(value, str) and value for value in found.values())


@pytest.mark.processes
def test_nothing_is_imported_for_it() -> None:
    code = "import sys; from omatg_ray.run.versions import versions; versions(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_commit_of_a_checkout(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert git_commit(tmp_path) is None
    (tmp_path / "file").write_text("one")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "one"], check=True)
    commit = (tmp_path / ".git" / (tmp_path / ".git" / "HEAD").read_text().split()[1]).read_text().strip()
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit} (modified)"


@pytest.mark.processes
def test_software_changes_with_the_source(tmp_path: Path) -> None:
    """The same wherever the package lies, another one with any change."""
    copies = []
    for name, text in (("same", ""), ("other", "# a line\n")):
        package = tmp_path / name / "omatg_ray"
        shutil.copytree(Path(omatg_ray.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", *ASSETS))
        with open(package / "seeding.py", "a", encoding="utf-8") as file:
            file.write(text)
        code = "import json; from omatg_ray.run.versions import software; print(json.dumps(software()))"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=package.parent, capture_output=True, text=True, check=True
        )
        copies.append(json.loads(done.stdout))
    same, other = copies
    assert same == software() and set(same) == {"omatg_ray", "ray", "torch", "python"}
    assert other | {"omatg_ray": same["omatg_ray"]} == same and other != same
