"""Errors that a user can mend.

The command line prints these in one line and exits with a non-zero code; everything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class OmatgRayError(Exception):
    """Base of all errors whose message tells the user what is wrong and what to do about it."""


class ConfigError(OmatgRayError):
    """A configuration key is unknown, mistyped or out of range."""


class InUseError(ConfigError):
    """Another process writes the folder."""


class DiskError(OmatgRayError):
    """A disk or quota is full, or a folder may not be written to."""


class DataError(OmatgRayError):
    """A file, row or structure cannot be read or used.

    Args:
        message: What is wrong.
        reasons: Where it is wrong in many places, what is wrong in each; a line each below the message.
    """

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *reasons]))
        self.reasons = list(reasons)


class DataWarning(UserWarning):
    """What was left out of a file, or is doubtful in it; a line each below the first."""


class FormulaError(OmatgRayError):
    """A chemical formula cannot be parsed or asks for an impossible cell."""


class ModelError(OmatgRayError):
    """A checkpoint is missing, torn or belongs to another architecture."""


class PotentialError(OmatgRayError):
    """An interatomic potential cannot be loaded, fails its known energy or does not know an element."""


class RewardError(OmatgRayError):
    """A reward cannot be put together, cannot score what it is asked to, or does not keep to its contract."""


class TrainingError(OmatgRayError):
    """Training cannot go on (NaN loss, too many failed rewards)."""


class ClusterError(OmatgRayError):
    """A Ray cluster cannot be reached, has no room for what is asked of it, or lost an actor."""


class SoftwareError(ClusterError):
    """A node of a cluster runs other software than the process that leads."""


class StorageError(OmatgRayError):
    """Storage beyond this machine cannot be reached, or refuses to be read or written."""
