"""Refuses processes of a run that are not what its driver is: they would give other numbers, without a word."""

from __future__ import annotations

from collections.abc import Mapping

from omatg_ray.errors import SoftwareError
from omatg_ray.run.versions import software


def refuse_other(theirs: Mapping[str, str], who: str, node: str, ours: Mapping[str, str] | None = None) -> None:
    """Refuses another package, Ray, Python or PyTorch than that of the process that leads.

    Args:
        theirs: What `software` gave over there; nothing where the package does not know it yet.
        who: The process there, for the message.
        node: Its address.
        ours: The same of the process that leads, if that is not this one.

    Raises:
        SoftwareError: Names what differs, and what it is on both sides.
    """
    ours = software() if ours is None else ours
    differ = [
        f"{name} {theirs.get(name, 'unknown')} (the driver: {value})"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if differ:
        raise SoftwareError(
            f"{who} on node {node} runs other software than the driver, and would give other results: "
            f"{', '.join(differ)}. Install the same on all nodes, or submit a job, which brings its package along "
            "(ray job submit --working-dir)"
        )
