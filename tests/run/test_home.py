"""Homes as containers and batch systems have them: none at all, none that exists, none that can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from omatg_ray.run.home import NOWHERE, cache_folder, home, import_with_home

NO_ACCOUNT = ["unshare", "--user", "--map-user=4711", "--map-group=4711"]
"""Runs a command under a user id without an account, as OpenShift does."""

LOADED = """\
import os, warnings
warnings.simplefilter("ignore")
import omatg_ray as og
from omatg_ray.assets import crystals
from omatg_ray.reward.potential import HOMELESS
from omatg_ray.run.home import cache_folder

energy = og.MatGLEnergy("bundled")
og.bundled_model()
og.read_dataset(crystals("val"), limit=2)
print(HOMELESS, cache_folder(), os.environ.get("HOME"))
"""


@pytest.fixture
def no_account() -> list[str]:
    if subprocess.run([*NO_ACCOUNT, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no user namespaces")
    return NO_ACCOUNT


def loaded(prefix: list[str], folder: Path | None) -> list[str]:
    """What a process says that loads all that is bundled, with this home."""
    names = {"HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {} if folder is None else {"HOME": str(folder)}
    command = [*prefix, sys.executable, "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.long
@pytest.mark.processes
def test_what_is_bundled_needs_no_home_and_no_account(no_account: list[str]) -> None:
    assert loaded(no_account, None) == ["True", "None", NOWHERE]


@pytest.mark.long
@pytest.mark.processes
def test_what_is_bundled_needs_no_home_that_can_be_written(tmp_path: Path, no_account: list[str]) -> None:
    tmp_path.chmod(0o555)
    assert loaded(no_account, tmp_path) == ["True", f"{tmp_path}/.cache/omatg_ray", str(tmp_path)]


@pytest.mark.long
@pytest.mark.processes
def test_what_is_bundled_needs_no_home_that_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    missing = tmp_path / "file" / "home"
    assert loaded([], missing) == ["True", f"{missing}/.cache/omatg_ray", str(missing)]


def test_a_home_that_can_be_written_is_the_library_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home() == tmp_path
    assert not import_with_home(partial(import_module, "no_such_module"), ".cache/lib")
    assert (tmp_path / ".cache" / "lib").is_dir()


def test_a_home_on_loan_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib.py").write_text("import pathlib\nmade = pathlib.Path.home() / 'made'\nmade.mkdir()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HOME", NOWHERE)
    assert home() is None
    assert import_with_home(partial(import_module, "lib"), ".cache/lib")
    made = sys.modules.pop("lib").made
    assert not made.exists() and not made.parent.exists() and made.parent != Path(NOWHERE)
    assert os.environ["HOME"] == NOWHERE


def test_the_environment_names_the_folder_of_caches_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder() == tmp_path / "caches" / "omatg_ray"
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / "home" / ".cache" / "omatg_ray"
    assert not list(tmp_path.iterdir())  # Whoever writes makes it.


def test_a_user_without_a_home_has_no_folder_of_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expanduser(path: str) -> str:
        return path  # What the system's says of an unknown user.

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", expanduser)
    assert cache_folder() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "omatg_ray"
