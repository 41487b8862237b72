"""Answers of actors, and the meaning of their failures."""

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

# Ray's errors when the process or its surroundings are gone; none of these is a RayActorError.
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
    """Last return value of an actor's method: a small value, and the seconds it took."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class ObjectHandle:
    """Something in the object store that actors fetch if they do not have it yet.

    Inside this object it travels as a reference: Ray resolves only references that are arguments themselves.
    """

    ref: ObjectRef[Any]

    @property
    def key(self) -> str:
        """Key that nothing else ever published has."""
        return self.ref.hex()


class ActorGone(ClusterError):
    """The actor or its node is gone: it has to be replaced, and another actor has to do its work.

    Attributes:
        alone: Whether the process ended by itself, not with its node; then its work may be the reason.
    """

    def __init__(self, message: str, alone: bool = True) -> None:
        super().__init__(message)
        self.alone = alone


class ActorSilent(ClusterError):
    """The actor cannot be reached now, but may be reachable again."""


class InputLost(ClusterError):
    """The actor's input was lost with a node or actor: it has to be made again."""


class OutputLost(ClusterError):
    """The actor's output was lost with its node or actor: it has to be made again."""


def fetch(ref: ObjectRef[Any], who: str) -> Any:
    """Call `ray.get`, with errors that say what to do.

    Args:
        ref: Object to get.
        who: Name of the actor that makes it.

    Raises:
        OmatgRayError: The actor raised it, as an error of this package.
        ActorGone, ActorSilent, InputLost, OutputLost: Failures that the caller can recover from.
        ClusterError: The actor raised something else.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, OmatgRayError):
            raise error.cause from error
        if isinstance(error.cause, ObjectLostError):
            # For example the trajectories of a learner.
            lost = "which was lost with a node or actor"
            raise InputLost(f"{who} cannot get its input, {lost}") from error
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
        raise OutputLost(f"the output of {who} was lost with its node or actor") from error
    except RayError as error:
        raise ClusterError(f"{who}: {type(error).__name__}: {error}") from error


def _reason(error: RayActorError) -> str:
    """Return what Ray says about a dead actor, without identifiers and the list of other possible reasons."""
    lines = ANSI.sub("", str(error)).splitlines()
    text = " ".join(line for line in lines if not line.startswith("\t"))
    text = text.removeprefix(ActorDiedError.BASE_ERROR_MSG).partition("There are some potential root causes")[0]
    return text.strip(" .")
