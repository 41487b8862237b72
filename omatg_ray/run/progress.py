"""Progress display: a bar in a terminal, an occasional line in a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

# Without a terminal, a bar redrawn many times a second would fill the log; a line every few seconds does not.
LOG_INTERVAL = 10.0
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
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=label,
            disable=not shown,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else LOG_INTERVAL,
            bar_format=COUNT if total is None else BAR if terminal else LINE,
            file=sys.stderr if terminal else _Lines(),
        )
        # tqdm would append a colon to the label.
        self._bar.set_description_str(label, refresh=False)

    def advance(self, values: Mapping[str, str] | None = None, steps: int = 1) -> None:
        """Count steps as done and show values by name."""
        if values:
            self._bar.set_postfix_str(" ".join(f"{name} {value}" for name, value in values.items()), refresh=False)
        self._bar.update(steps)

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
    """A stream to standard error in which every redrawn bar becomes a line of its own."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
