"""Progress for people: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from tqdm import tqdm

# Without a terminal a bar redrawn many times a second fills the log; a line every few seconds does not.
LOG_INTERVAL = 10.0
# The bar is what gives way in a narrow terminal: it fills what the numbers leave.
LINE = "{desc} {n_fmt}/{total_fmt} {elapsed}<{remaining}{postfix}"
COUNT = "{desc} {n_fmt} {elapsed}{postfix}"
BAR = LINE + " {bar}"


class Progress:
    """A bar over `total` steps, with time gone and time left, and a few values beside it.

    Args:
        total: Steps of the whole work; None where nobody knows before the end.
        label: What is being done.
        start: Steps already done, for a resumed run.
        shown: False for no output at all.
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
        # tqdm puts a colon behind its label.
        self._bar.set_description_str(label, refresh=False)

    def advance(self, values: Mapping[str, str] | None = None, steps: int = 1) -> None:
        """Counts steps as done and shows values by name."""
        if values:
            self._bar.set_postfix_str(" ".join(f"{name} {value}" for name, value in values.items()), refresh=False)
        self._bar.update(steps)

    def note(self, text: str) -> None:
        """Prints a line without disturbing the bar."""
        if not self._bar.disable:
            print_line(text)

    def close(self) -> None:
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def print_line(text: str) -> None:
    """Prints a line on standard error, above a bar that may be there."""
    tqdm.write(text, file=sys.stderr)


class _Lines:
    """A stream on standard error in which every redrawn bar becomes a line of its own."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n ")
        if text:
            sys.stderr.write(text + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
