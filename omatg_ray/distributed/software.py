"""Check that the processes of a run have the driver's software: any other would silently give other numbers."""

from __future__ import annotations

from collections.abc import Mapping

from omatg_ray.errors import SoftwareError
from omatg_ray.run.versions import software


def refuse_other(theirs: Mapping[str, str], who: str, node: str, ours: Mapping[str, str] | None = None) -> None:
    """Refuse another version of this package, Ray, Python or PyTorch than that of the leading process.

    Args:
        theirs: Result of `software` in the other process; empty if its package has no such function yet.
        who: Name of the other process, for the message.
        node: Its address.
        ours: The same of the leading process, if that is not this one.

    Raises:
        SoftwareError: The software differs; the message names what, and both versions.
    """
    ours = software() if ours is None else ours
    differ = [
        f"{name} {theirs.get(name, 'unknown')} (the driver: {value})"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if differ:
        raise SoftwareError(
            f"{who} on node {node} runs other software than the driver and would give different results: "
            f"{', '.join(differ)}. Install the same on all nodes, or submit a job, which brings its package along "
            "(ray job submit --working-dir)"
        )
