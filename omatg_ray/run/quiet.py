"""What libraries warn of, which users cannot act on, is not shown."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """Leaves out all warnings but those of this package, in this process or within `warnings.catch_warnings`."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", category=UserWarning, module="omatg_ray")
