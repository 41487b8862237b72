"""Progress display: a bar in a terminal; in a log a line at the end, and now and then before."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

LOG_INTERVAL = 60.0
"""Seconds between the lines of a bar in a log, where a bar that is redrawn would fill it."""
# In a narrow terminal the bar shrinks: it only fills the space that the numbers leave.
LINE = "{desc} {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
COUNT = "{desc} {n_fmt} {elapsed}{postfix}"
BAR = LINE + " {bar}"


class Progress:
    """A bar over `total` steps, with elapsed and remaining time, and a few values beside it.

    Args:
        total: Number of steps; None if unknown before the end.
        label: What is being done.
        start: Steps already done, for a resumed run.
        shown: Whether to print anything.
    """

    def __init__(self, total: int | None, label: str, start: int = 0, shown: bool = True) -> None:
        terminal = sys.stderr.isatty()
        log = None if terminal else _Lines()
        # tqdm draws a bar as soon as it is made. In a log that is a line without news.
        self._total, self._in_log, self._last = total, not terminal, time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=label,
            disable=not shown,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else math.inf,
            bar_format=COUNT if total is None else BAR if terminal else LINE,
            file=sys.stderr if log is None else log,
        )
        if log is not None:
            log.silent = False
        # tqdm would append a colon to the label.
        self._bar.set_description_str(label, refresh=False)

    def advance(self, values: Mapping[str, str] | None = None, steps: int = 1) -> None:
        """Count steps as done and show values by name."""
        if values:
            self._bar.set_postfix_str(" ".join(f"{name} {value}" for name, value in values.items()), refresh=False)
        self._bar.update(steps)
        # The last line is written when the bar is closed.
        if self._in_log and self._bar.n != self._total and time.monotonic() - self._last >= LOG_INTERVAL:
            self._last = time.monotonic()
            self._bar.refresh()

    def note(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        if not self._bar.disable:
            print_line(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


def print_line(text: str) -> None:
    """Print a line on standard error, above the bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class _Lines:
    """A stream to standard error in which every redrawn bar becomes a line of its own.

    Attributes:
        silent: Whether nothing is written yet.
    """

    def __init__(self) -> None:
        self.silent = True

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text and not self.silent:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
