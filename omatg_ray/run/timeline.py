"""What the actors of a run did in one iteration, and when: `timeline.json` of a run folder."""

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
    """What an actor did when, in seconds since the epoch."""

    role: str
    actor: int
    method: str
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """An iteration, from the end of the one before.

    Attributes:
        iteration: Its number, from 1.
        seconds: How long it took.
        actors: Who was there.
        spans: What they did, in seconds since the iteration began; what is negative was begun before, and what the
            iteration did not wait for ends with it.
    """

    iteration: int
    seconds: float
    actors: tuple[Actor, ...]
    spans: tuple[Span, ...]

    @classmethod
    def between(
        cls, began: float, ended: float, iteration: int, actors: Sequence[Actor], spans: Sequence[Span]
    ) -> Timeline:
        """Of an iteration from `began` to `ended`, in seconds since the epoch as the spans are."""
        moved = (span._replace(start=span.start - began, end=span.end - began) for span in spans)
        worked = sorted((span for span in moved if span.end > span.start), key=lambda span: span.start)
        return cls(iteration, ended - began, tuple(actors), tuple(worked))

    def write(self, path: Path) -> None:
        """As JSON.

        Raises:
            OmatgRayError: The disk is full or the folder may not be written to.
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
        """What `write` wrote.

        Raises:
            DataError: The file cannot be read, or is no timeline.
        """
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            actors = tuple((str(role), int(index)) for role, index in found["actors"])
            spans = tuple(
                Span(str(one["role"]), int(one["actor"]), str(one["method"]), float(one["start"]), float(one["end"]))
                for one in found["spans"]
            )
            seconds = float(found["seconds"])
            if not seconds > 0:
                raise ValueError(f"an iteration of {seconds} s")
            return cls(int(found["iteration"]), seconds, actors, spans)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no timeline that can be read") from error
