"""Timeline of the actors of a run in one iteration: `timeline.json` of a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from omatg_ray.errors import DataError
from omatg_ray.run.atomic import write_json

Actor = tuple[str, int]
"""Role and index."""


class Span(NamedTuple):
    """One activity of an actor, in seconds since the epoch."""

    role: str
    actor: int
    method: str
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """Activities of the actors in one iteration, which begins where the previous one ended.

    Attributes:
        iteration: Its number, from 1.
        seconds: Its duration.
        actors: The actors that were present.
        spans: Their activities, in seconds since the iteration began. A negative start lies before it; an activity that
            the iteration did not wait for ends with it.
    """

    iteration: int
    seconds: float
    actors: tuple[Actor, ...]
    spans: tuple[Span, ...]

    @classmethod
    def between(
        cls, began: float, ended: float, iteration: int, actors: Sequence[Actor], spans: Sequence[Span]
    ) -> Timeline:
        """Build the timeline of an iteration from `began` to `ended`, in seconds since the epoch, like the spans."""
        moved = (span._replace(start=span.start - began, end=span.end - began) for span in spans)
        worked = sorted((span for span in moved if span.end > span.start), key=lambda span: span.start)
        return cls(iteration, ended - began, tuple(actors), tuple(worked))

    def write(self, path: Path) -> None:
        """Write the timeline as JSON.

        Raises:
            OmatgRayError: The disk is full or the folder is not writable.
        """
        write_json(
            path,
            {
                "iteration": self.iteration,
                "seconds": round(self.seconds, 4),
                "actors": [list(actor) for actor in self.actors],
                "spans": [
                    {**span._asdict(), "start": round(span.start, 4), "end": round(span.end, 4)} for span in self.spans
                ],
            },
        )

    @classmethod
    def read(cls, path: Path) -> Timeline:
        """Read a timeline that `write` wrote.

        Raises:
            DataError: The file cannot be read or is not a timeline.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            actors = tuple((str(role), int(index)) for role, index in data["actors"])
            spans = tuple(
                Span(str(row["role"]), int(row["actor"]), str(row["method"]), float(row["start"]), float(row["end"]))
                for row in data["spans"]
            )
            seconds = float(data["seconds"])
            if not seconds > 0:
                raise ValueError(f"an iteration of {seconds} s")
            return cls(int(data["iteration"]), seconds, actors, spans)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a readable timeline") from error
