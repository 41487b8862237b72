"""How long threads spin, by what the OpenMP runtime of PyTorch itself says as it is loaded.

Those of actors: `tests/distributed/test_training.py`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omatg_ray.run.openmp import SPIN, SPINS
from tests.conftest import ROOT

needs_gnu_openmp = pytest.mark.skipif(
    not list((Path(torch.__file__).parent / "lib").glob("libgomp*")), reason="PyTorch brings another OpenMP than GNU's"
)
pytestmark = [pytest.mark.processes, needs_gnu_openmp]


def said_by(code: str, **variables: str) -> str:
    """Standard output and error of a fresh interpreter in which runtimes say what they go by."""
    environment = {key: value for key, value in os.environ.items() if key not in SPIN and not key.startswith("RAY_")}
    environment |= {"OMP_DISPLAY_ENV": "verbose", **variables}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def spins(text: str) -> list[int]:
    return [int(count) for count in re.findall(r"GOMP_SPINCOUNT = '(\d+)'", text)]


def test_threads_spin_a_little_and_sleep_then() -> None:
    assert spins(said_by("import torch")) == [300_000]  # as the runtime has it
    assert spins(said_by("import omatg_ray, torch")) == [SPINS]
    assert spins(said_by("from omatg_ray.model.flow_model import FlowModel")) == [SPINS]


@pytest.mark.parametrize(
    "variable, value, expected", [("GOMP_SPINCOUNT", "17", 17), ("OMP_WAIT_POLICY", "ACTIVE", 30_000_000_000)]
)
def test_what_the_user_has_decided_goes_first(variable: str, value: str, expected: int) -> None:
    assert spins(said_by("import omatg_ray, torch", **{variable: value})) == [expected]
