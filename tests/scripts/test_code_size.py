from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import code_size

SOURCE = '''"""A module,
in two lines."""

# A comment.
from pathlib import Path  # behind code

PLACE = Path(
    "here"
)
"""What it is."""


class Tree:
    """A tree."""

    def height(self) -> int:
        """In metres."""
        text = """two
lines"""
        return len(text)
'''


def test_comments_and_docstrings_are_no_code() -> None:
    assert code_size.code_lines(SOURCE) == {5, 7, 8, 9, 13, 16, 18, 19, 20}
    assert list(code_size.functions(SOURCE)) == [("height", 5)]


def test_folders_are_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wood").mkdir()
    for path in (tmp_path / "wood" / "tree.py", tmp_path / "wood" / "other.py", tmp_path / "top.py"):
        path.write_text(SOURCE)
    monkeypatch.setattr(sys, "argv", ["code_size.py", str(tmp_path)])
    code_size.main()
    printed = capsys.readouterr().out.splitlines()
    counts = {words[0]: [int(word) for word in words if word.isdigit()] for words in map(str.split, printed[:2])}
    assert counts == {".": [9, 1, 1], "wood": [18, 2, 2]}
    assert [int(word) for word in printed[2].split() if word.isdigit()] == [27, 3, 3]
