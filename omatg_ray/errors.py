"""Errors the user can fix.

The command line prints them in one line and exits with a non-zero code. Everything else is a bug and keeps its
traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class OmatgRayError(Exception):
    """Base of all errors whose message tells the user what is wrong and how to fix it."""


class ConfigError(OmatgRayError):
    """A configuration key is unknown, mistyped or out of range."""


class InUseError(ConfigError):
    """Another process is writing to the folder."""


class DiskError(OmatgRayError):
    """A disk or quota is full, or a folder is not writable."""


class DataError(OmatgRayError):
    """A file, row or structure cannot be read or used.

    Args:
        message: What is wrong.
        reasons: The individual problems, one per line below the message.
    """

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([message, *reasons]))
        self.reasons = list(reasons)


class DataWarning(UserWarning):
    """Crystals of a file were left out or are doubtful; one per line below the first."""


class FormulaError(OmatgRayError):
    """A chemical formula cannot be parsed or asks for an impossible cell."""


class ModelError(OmatgRayError):
    """A checkpoint is missing, damaged or belongs to another architecture."""


class PotentialError(OmatgRayError):
    """An interatomic potential cannot be loaded, fails its known energy or does not know an element."""


class RewardError(OmatgRayError):
    """A reward cannot be built, cannot score its input, or violates its contract."""


class TrainingError(OmatgRayError):
    """Training cannot go on (NaN loss, too many failed rewards)."""


class ClusterError(OmatgRayError):
    """A Ray cluster cannot be reached, lacks the requested resources, or lost an actor."""


class SoftwareError(ClusterError):
    """A node of a cluster runs different software from the leading process."""


class StorageError(OmatgRayError):
    """Remote storage cannot be reached, or refuses a read or write."""
