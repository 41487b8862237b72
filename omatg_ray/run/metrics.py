"""The metrics of a run: one JSON object per line, and the same numbers for TensorBoard and other sinks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from omatg_ray.errors import DataError
from omatg_ray.run.atomic import disk_errors, write_text
from omatg_ray.run.tracking import Sink

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Kind = Literal["train", "validation", "pretrain"]


class MetricsLog:
    """A log that appends metrics to `metrics.jsonl` and to the TensorBoard folder `tensorboard/`.

    Args:
        folder: Run folder.
        resume_from: Step of the checkpoint that the run resumes from. Later lines are dropped because they will be
            written again, so log a step before saving its checkpoint. None starts with an empty log.
        sinks: Other receivers of the metrics; closed with the log.

    Raises:
        DataError: The log to resume is damaged before its last line.
        OmatgRayError: The disk is full or the folder is not writable.
    """

    def __init__(self, folder: Path, resume_from: int | None = None, sinks: Sequence[Sink] = ()) -> None:
        self.path = folder / "metrics.jsonl"
        self._tensorboard_folder = folder / "tensorboard"
        self._purge_step = None if resume_from is None else resume_from + 1
        self._tensorboard: SummaryWriter | None = None
        self._sinks = sinks
        kept: list[dict[str, Any]] = []
        if resume_from is None:
            shutil.rmtree(self._tensorboard_folder, ignore_errors=True)
        elif self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["step"] <= resume_from]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open until the log is left

    def log(self, kind: Kind, step: int, values: Mapping[str, float]) -> None:
        """Write and flush one line.

        Args:
            kind: Source of the values: an iteration, a validation or an epoch of pretraining.
            step: Iteration or epoch, from 1; validation before training is step 0.
            values: Numbers by name. NaN and infinity are written as null.

        Raises:
            ValueError: A name is `kind` or `step`, or contains a "/" (Ray drops such metrics).
            OmatgRayError: The disk is full.
        """
        for name in values:
            if "/" in name or name in ("kind", "step"):
                raise ValueError(f"{name!r} cannot be the name of a metric")
        finite = {name: _number(value) for name, value in values.items()}
        with disk_errors(self.path):
            self._file.write(json.dumps({"kind": kind, "step": step, **finite}) + "\n")
            self._file.flush()
            if self._tensorboard is None:
                from torch.utils.tensorboard import SummaryWriter

                self._tensorboard = SummaryWriter(str(self._tensorboard_folder), purge_step=self._purge_step)
            scalars = {f"{kind}/{name}": value for name, value in finite.items() if value is not None}
            for name, value in scalars.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()
        for sink in self._sinks:
            sink.log(step, scalars)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close files and sinks, and tell the sinks whether the run failed."""
        for sink in self._sinks:
            sink.close(failed=kind is not None)
        with disk_errors(self.path):
            self._file.close()
            if self._tensorboard is not None:
                self._tensorboard.close()


def _number(value: float) -> float | None:
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a `metrics.jsonl`, each with `kind`, `step` and its values; a value that was NaN is None.

    An unfinished last line is left out.

    Raises:
        DataError: The file is missing, or a line before the last is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the metrics {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # text after the last line break is unfinished
        try:
            value = json.loads(line)
            if not (isinstance(value, dict) and isinstance(value["step"], int) and isinstance(value["kind"], str)):
                raise ValueError
        except (ValueError, KeyError) as error:
            if number == len(lines) - 1:
                break
            raise DataError(f"{path}, line {number}: not a line of metrics; delete the line to continue") from error
        records.append(value)
    return records
