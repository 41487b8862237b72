"""What actors answer, and what their failures mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray import ObjectRef
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

from omatg_ray.errors import ClusterError, OmatgRayError

# What Ray says where the process, or what was around it, is gone; none of these is a RayActorError.
GONE = (
    ActorUnschedulableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Timed(NamedTuple):
    """What an actor's method gives last: a small value, and the seconds it took."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class ObjectHandle:
    """Something in the object store that actors fetch when they do not have it yet.

    Inside of this it travels as a reference: Ray resolves only what is an argument itself.
    """

    ref: ObjectRef[Any]

    @property
    def key(self) -> str:
        """Differs from that of anything else ever published."""
        return self.ref.hex()


class ActorGone(ClusterError):
    """The actor or its node is gone: it has to be replaced, and its work done by another.

    Attributes:
        alone: Whether the process ended by itself, and not with its node: what it was at may be the reason.
    """

    def __init__(self, message: str, alone: bool = True) -> None:
        super().__init__(message)
        self.alone = alone


class ActorSilent(ClusterError):
    """The actor cannot be reached at present; it may be again."""


class InputLost(ClusterError):
    """What the actor was given has gone with a node: it has to be made again."""


class OutputLost(ClusterError):
    """What the actor made has gone with a node: it has to be made again."""


def fetch(ref: ObjectRef[Any], who: str) -> Any:
    """`ray.get` with errors that say what to do.

    Args:
        ref: What to get.
        who: The actor that makes it.

    Raises:
        OmatgRayError: What the actor raised, if it is one of ours.
        ActorGone, ActorSilent, InputLost, OutputLost: What can be mended.
        ClusterError: It raised something else.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, OmatgRayError):
            raise error.cause from error
        if isinstance(error.cause, ObjectLostError):
            # What it was given, for example the trajectories that a learner was to learn from.
            lost = "it is lost with a node or actor"
            raise InputLost(f"{who} cannot get what others made for it; {lost}") from error
        raise ClusterError(f"{who} failed:\n{ANSI.sub('', str(error))}") from error
    except ActorUnavailableError as error:
        raise ActorSilent(f"{who} cannot be reached: {_reason(error)}") from error
    except RayActorError as error:
        reason = _reason(error)
        with_node = getattr(error, "preempted", False) or "its node has died" in reason
        raise ActorGone(f"{who} died: {reason}", alone=not with_node) from error
    except GONE as error:
        by_itself = isinstance(error, OutOfMemoryError | WorkerCrashedError)
        raise ActorGone(f"{who} died: {type(error).__name__}: {ANSI.sub('', str(error))}", alone=by_itself) from error
    except ObjectLostError as error:
        raise OutputLost(f"what {who} made is lost with its node or actor") from error
    except RayError as error:
        raise ClusterError(f"{who}: {type(error).__name__}: {error}") from error


def _reason(error: RayActorError) -> str:
    """What Ray says of a dead actor, without its identifiers and its list of what else could be the reason."""
    lines = ANSI.sub("", str(error)).splitlines()
    text = " ".join(line for line in lines if not line.startswith("\t"))
    text = text.removeprefix(ActorDiedError.BASE_ERROR_MSG).partition("There are some potential root causes")[0]
    return text.strip(" .")
