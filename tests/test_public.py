"""What `import omatg_ray as og` offers."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import omatg_ray as og


def test_every_public_name_completes_and_exists() -> None:
    assert set(og.__all__) <= set(dir(og))
    for name in og.__all__:
        assert callable(getattr(og, name)), name


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = og.trian


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_function_with_the_name_of_a_folder_stays_callable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = importlib.import_module(og._HOMES[name])
    importlib.import_module(f"omatg_ray.{name}.backend")
    assert inspect.signature(getattr(og, name)) == inspect.signature(getattr(home, name))
    assert getattr(og, name).__doc__ == getattr(home, name).__doc__
    monkeypatch.setattr(home, name, lambda *words, **keys: (words, keys))
    for _ in range(2):
        assert getattr(og, name)(1, progress=False) == ((1,), {"progress": False})


@pytest.mark.processes
def test_completion_imports_nothing() -> None:
    code = "import sys, omatg_ray as og; dir(og); print('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
