"""Silencing of library warnings that users cannot act on."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """Ignore all warnings except those of this package, in this process or within `warnings.catch_warnings`."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=UserWarning, module="omatg_ray")
