"""`scripts/studies/learning_curves.py`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.long
def test_learning_curves_count_what_was_spent_and_keep_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An energy with its gradient counts as three."""
    import study_run
    from learning_curves import ENERGIES, Way, measure
    from study_run import SECONDS

    keys = ["iterations=2", "rollout.groups=2", "validation.limit=2"]
    way = Way("quickstart", 1, "black", keys)
    curve = measure(way, 0, tmp_path / "run")
    assert [row[ENERGIES] for row in curve] == [0.0, 6.0, 12.0]
    assert curve[0][SECONDS] == 0.0 < curve[1][SECONDS] < curve[2][SECONDS]
    monkeypatch.setattr(study_run.og, "train", lambda *_, **__: pytest.fail("a finished run was repeated"))
    assert measure(way, 0, tmp_path / "run") == curve


def test_learning_curves_say_when_a_way_is_as_good_as_policy_gradients(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from learning_curves import BY_GRADIENT, BY_POLICY, ENERGIES, SCORE, draw, first_at, show
    from study_run import SECONDS

    def points(*scores: float) -> list[dict[str, float]]:
        return [{SCORE: score, SECONDS: 10.0 * i, ENERGIES: 100.0 * i} for i, score in enumerate(scores)]

    by_policy, by_gradient = points(0.6, 0.59, 0.55, 0.5), points(0.6, 0.5, 0.3)
    assert first_at(by_gradient, 0.5) == by_gradient[1]
    assert first_at(by_gradient, 0.2) is None
    show({BY_POLICY: [by_policy], BY_GRADIENT: [by_gradient]})
    assert "10 (1/3.0), 100 (1/3.0)" in capsys.readouterr().out
    draw({BY_POLICY: [by_policy], BY_GRADIENT: [by_gradient]}, tmp_path / "curves.svg")
    assert "processor seconds" in (tmp_path / "curves.svg").read_text()
