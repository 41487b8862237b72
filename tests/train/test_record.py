from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omatg_ray.train.record import actors_writer


def test_the_file_follows_who_is_there(tmp_path: Path) -> None:
    path, there = tmp_path / "actors.json", list[dict[str, Any]]()
    keep = actors_writer(path, lambda: list(there))
    keep()
    assert not path.exists()
    there.append({"role": "rollout", "index": 0, "pid": 1})
    keep()
    assert json.loads(path.read_text()) == there
    first = path.stat().st_ino
    keep()
    assert path.stat().st_ino == first, "it was written again though nothing has changed"
    there[0] = {"role": "rollout", "index": 0, "pid": 2}
    keep()
    assert json.loads(path.read_text()) == there and path.stat().st_ino != first
