"""Source files of a user's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.reward.build import fingerprint
from omatg_ray.reward.settings import RewardSettings
from omatg_ray.reward.sources import sources

FILES = {
    "own.py": "import math, helper\nfrom tools import parts\nfrom spaced.inner import f\nimport omatg_ray.errors\n"
    "def later():\n    import late\n",
    "helper.py": "import own\n",
    "tools/__init__.py": "",
    "tools/parts.py": "from . import deep\nfrom .near import x\nfrom ..above import y\n",
    "tools/deep.py": "",
    "tools/near.py": "x = 1\n",
    "tools/unused.py": "",
    "spaced/inner.py": "f = 1\n",
    "late.py": "this is no Python\n",
    "unrelated.py": "",
    "omatg_ray/errors.py": "",
}
USED = ("helper", "late", "own", "spaced/inner", "tools/__init__", "tools/deep", "tools/near", "tools/parts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_module_and_what_it_imports_from_its_folder(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in sources("own", folder)]
    assert found == [f"{name}.py" for name in USED]
    assert [path.name for path in sources("tools.near", folder)] == ["__init__.py", "near.py"]
    assert sources("torch", folder) == sources("nowhere.own", folder) == []


def test_the_hash_of_a_reward_is_that_of_its_modules(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RewardSettings.model_validate(
        {"weights": {"mine": 1}, "custom": {"mine": {"class": "own:R", "invalid": 0, "path": folder}}}
    )
    first = fingerprint(settings)
    assert first is not None
    for name in ("unrelated.py", "tools/unused.py", "omatg_ray/errors.py"):
        (folder / name).write_text("changed = 1\n")
        assert fingerprint(settings) == first
    for name in USED:
        path = folder / f"{name}.py"
        text = path.read_text()
        path.write_text(f"{text}# changed\n")
        assert fingerprint(settings) != first
        path.write_text(text)
    assert fingerprint(settings) == first
    # The same code from the working directory, and installed elsewhere: the latter by its own file alone.
    custom = settings.custom["mine"].model_copy(update={"path": None})
    settings = settings.model_copy(update={"custom": {"mine": custom}})
    monkeypatch.chdir(folder)
    assert fingerprint(settings) == first
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert fingerprint(settings) is None
    monkeypatch.syspath_prepend(folder)
    installed = fingerprint(settings)
    (folder / "helper.py").write_text("changed = 1\n")
    assert fingerprint(settings) == installed is not None
    (folder / "own.py").write_text("changed = 1\n")
    assert fingerprint(settings) != installed
