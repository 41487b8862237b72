from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios

import pytest

from omatg_ray.run.progress import Progress

VALUES = {"E": "-3.214", "invalid": "2.0%", "clip": "12%", "KL": "0.0031", "s": "5.1+0.8+4.0"}


def drawn_in_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a terminal of this width shows, state after state."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(child, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress(40, "train", 3) as bar:
            bar.advance(VALUES)
            bar._bar.refresh()
            bar.note("iteration 4: validation")
        terminal.flush()
        text = b""
        while select.select([parent], [], [], 0.2)[0]:
            text += os.read(parent, 4096)
    os.close(parent)
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[\w", "", text.decode())) if line.strip()]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_bar_fits_its_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = drawn_in_terminal(columns, monkeypatch)
    assert max(map(len, lines)) <= columns
    assert any("4/40" in line and "E -3.214" in line for line in lines)
    assert any(line.strip() == "iteration 4: validation" for line in lines)
    if columns >= 80:
        assert any("s 5.1+0.8+4.0" in line for line in lines)


def test_a_log_gets_lines_with_the_numbers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("omatg_ray.run.progress.LOG_INTERVAL", 0.0)
    with Progress(3, "train", 1) as bar:
        bar.advance(VALUES)
        bar.note("a note")
        bar.advance({"E": "-4.000"})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[1] == "a note"
    assert re.fullmatch(r"train 2/3 \d\d:\d\d<.*, E -3\.214 invalid 2\.0% clip 12% KL 0\.0031 s 5\.1.*", lines[0])
    assert re.match(r"train 3/3 .*E -4\.000", lines[-1])
    assert not any("\r" in line or "|" in line for line in lines)


@pytest.mark.parametrize("total", [4, None])
def test_a_log_shows_a_short_bar_once(total: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total, "test") as bar:
        for _ in range(4):
            bar.advance()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("test 4/4 " if total else "test 4 ")


def test_a_hidden_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "train", shown=False) as bar:
        bar.advance(VALUES)
        bar.note("a note")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
