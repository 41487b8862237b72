"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference files beside the checkout: parity numbers, real crystals, real MatGL weights.

    A clone without them skips the tests that need them. Where they must be present (continuous integration sets
    OMATG_RAY_SHARED), their absence is a failure.
    """
    path = Path(os.environ.get("OMATG_RAY_SHARED", ROOT.parent / "shared"))
    if not (path / "parity" / "README.md").is_file():
        message = f"reference files not found at {path}"
        if "OMATG_RAY_SHARED" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # Small networks gain nothing from threads, and lose a lot where a test shares its cores.
    torch.set_num_threads(1)
    torch.manual_seed(0)
