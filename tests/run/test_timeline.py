from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omatg_ray.errors import DataError
from omatg_ray.run.timeline import Span, Timeline


def example() -> Timeline:
    spans = [
        Span("learner", 0, "update", 103.0, 105.0),
        Span("rollout", 1, "rollout", 99.5, 101.0),
        Span("learner", 0, "load", 102.0, 102.0),
    ]
    return Timeline.between(100.0, 106.0, 7, [("rollout", 1), ("learner", 0)], spans)


def test_times_count_from_the_start_of_the_iteration_and_what_took_none_is_left_out() -> None:
    timeline = example()
    assert timeline.seconds == 6.0
    assert timeline.spans == (Span("rollout", 1, "rollout", -0.5, 1.0), Span("learner", 0, "update", 3.0, 5.0))


def test_a_file_holds_it(tmp_path: Path) -> None:
    example().write(tmp_path / "timeline.json")
    assert Timeline.read(tmp_path / "timeline.json") == example()
    found = json.loads((tmp_path / "timeline.json").read_text())
    assert found["spans"][1] == {"role": "learner", "actor": 0, "method": "update", "start": 3.0, "end": 5.0}


@pytest.mark.parametrize(
    "damage", [{"spans": [{"role": "rollout"}]}, {"spans": 3}, {"actors": [["rollout"]]}, {"seconds": 0}, None]
)
def test_what_is_no_timeline_is_refused(damage: dict[str, Any] | None, tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    example().write(path)
    path.write_text("[" if damage is None else json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(DataError, match=r"timeline\.json is not a readable timeline"):
        Timeline.read(path)
    with pytest.raises(DataError, match="nowhere"):
        Timeline.read(tmp_path / "nowhere")
