"""The scripts that make the assets import each other by name, as they do when they are run."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*(str(ROOT / "scripts" / folder) for folder in ("assets", "studies")), *sys.path])
