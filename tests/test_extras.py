"""An install without extras has everything but what these are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.processes

PACKAGES = ("matminer", "mlflow", "optuna", "smact", "wandb")
"""Packages of the extras that are for users."""
NEED_EXTRAS = {"omatg_ray.evaluate.chemistry_tasks", "omatg_ray.tune.optuna"}
"""Modules that are imported only after a check of what they need."""

WITHOUT = f"""\
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {PACKAGES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""

IMPORT_ALL = f"""{WITHOUT}
import json, pkgutil
from importlib import import_module
import omatg_ray

failed = []
for module in pkgutil.walk_packages(omatg_ray.__path__, "omatg_ray.", onerror=failed.append):
    if not module.name.endswith("__main__"):
        try:
            import_module(module.name)
        except ModuleNotFoundError:
            failed.append(module.name)
print(json.dumps(failed))
"""

SWEEP = f"""{WITHOUT}
import json
from pathlib import Path
from ray import tune
from omatg_ray.tune.ray_tune import run_sweep
from omatg_ray.tune.settings import SweepSettings
from omatg_ray.tune.trial import SweepRuns

settings = SweepSettings.load(sys.argv[1])
settings.check()
fitted = []
tune.Tuner.fit = lambda tuner: fitted.append(tuner)
print(json.dumps([run_sweep(settings, SweepRuns(settings), resume, False) for resume in (False, True)]), len(fitted))
"""


def output(*words: str) -> str:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.long
def test_only_what_needs_an_extra_cannot_be_imported_without_it() -> None:
    assert set(json.loads(output(IMPORT_ALL))) == NEED_EXTRAS


def test_a_sweep_needs_no_extra(tmp_path: Path) -> None:
    """All that Ray Tune gets is made, up to the call that starts trials."""
    tree = {
        "run": str(tmp_path / "run"),
        "config": {"base": "bundled", "reward": {"potential": "bundled"}},
        "space": {"learner.lr": {"loguniform": [1e-4, 1e-2]}},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
    assert output(SWEEP, str(tmp_path / "sweep.yaml")) == "[true, true] 2"
