from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.contract import made_up_crystals
from omatg_ray.reward.custom import MAX_TIMEOUTS, CustomReward
from omatg_ray.reward.protocol import checked
from omatg_ray.run.bounded import Outcome
from tests.reward.rewards.user_rewards import Promises

pytestmark = pytest.mark.processes

FOLDER = Path(__file__).with_name("rewards")
NAN = torch.nan


def towers(*heights: float) -> CrystalBatch:
    """Cells of 3 x 3 Å with one atom, of various heights."""
    cell = torch.diag_embed(torch.tensor([[3.0, 3.0, height] for height in heights])).view(-1, 3, 3)
    return CrystalBatch(
        torch.full((len(heights),), 6), torch.zeros(len(heights), 3), cell, torch.ones(len(heights), dtype=torch.long)
    )


@contextmanager
def custom(
    name: str, *, timeout: float = 30.0, path: Path = FOLDER, invalid: float = -99.0, **options: Any
) -> Iterator[CustomReward]:
    reward = CustomReward("mine", f"user_rewards:{name}", invalid, options, path, timeout)
    try:
        yield reward
    finally:
        reward.close()


def test_a_reward_from_a_folder_with_options() -> None:
    with custom("Flat", axis=2) as reward:
        assert reward.name == "mine"
        assert reward(towers(4.0).select([])).reward.shape == (0,)
        for heights in ((4.0, 5.0, 6.0), (7.0,)):
            result = reward(towers(*heights))
            assert result.reward.tolist() == [-height for height in heights]
            assert result.reward.dtype == torch.float64
        assert result.values.keys() <= {"length"}
        assert reward(towers(4.0)).values["length"].tolist() == [4.0]
        copy = pickle.loads(pickle.dumps(reward))
        with custom("Flat", axis=0) as other:
            assert other(towers(8.0)).reward.tolist() == [-3.0]
        assert copy(towers(8.0)).reward.tolist() == [-8.0]
        copy.close()


def test_a_plain_tensor_is_enough() -> None:
    with custom("Plain") as reward:
        result = reward(towers(4.0, 5.0))
    assert result.reward.tolist() == [1.0, 1.0] and result.reward.dtype == torch.float64 and result.values == {}


@pytest.mark.parametrize("broken", ["dtype", "half", "integers", "array", "list", "result", "gradient"])
def test_real_numbers_of_any_kind_are_converted_exactly(broken: str) -> None:
    """As `check_reward` does."""
    crystals = made_up_crystals()
    with custom("Promises", broken=broken) as reward:
        result = reward(crystals)
    assert torch.equal(result.reward, checked("promises", Promises(broken)(crystals), len(crystals)).reward)


@pytest.mark.parametrize("how, reason", [("raise", "too long"), ("die", "exit code 3")])
def test_what_is_at_fault_fails_alone(how: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with custom("Wrong", how=how) as reward, caplog.at_level(logging.WARNING):
        result = reward(towers(4.0, 5.0, 10.0, 6.0, 7.0))
    torch.testing.assert_close(result.reward, torch.tensor([-4.0, -5, NAN, -6, -7]).double(), equal_nan=True)
    torch.testing.assert_close(result.values["length"], torch.tensor([4.0, 5, NAN, 6, 7]).double(), equal_nan=True)
    assert "reward mine: structure 2 (C)" in caplog.text and reason in caplog.text


def test_nan_is_a_failed_reward(caplog: pytest.LogCaptureFixture) -> None:
    with custom("Wrong") as reward:
        assert reward(towers(4.0, 10.0)).reward.isnan().tolist() == [False, True]
        assert "reward mine: NaN or infinity for 1 of 2 structures" in caplog.text
        reward.try_out(towers(4.0, 10.0))
        assert "tried on" not in caplog.text
        reward.try_out(towers(10.0, 11.0))
        assert "NaN or infinity for all 2 crystals of the training split" in caplog.text


def test_infinity_has_failed_and_minus_infinity_is_low(tmp_path: Path) -> None:
    (tmp_path / "unbounded.py").write_text(
        "class Unbounded:\n"
        "    def __call__(self, crystals):\n"
        "        return (crystals.cell[:, 2, 2] - 5) * float('inf')\n"
    )
    reward = CustomReward("mine", "unbounded:Unbounded", -6.0, path=tmp_path, timeout=30.0)
    try:
        found = reward(towers(4.0, 6.0)).reward
    finally:
        reward.close()
    torch.testing.assert_close(found, torch.tensor([-6.0, NAN]).double(), equal_nan=True)


def test_a_hang_is_ended_and_fails_alone() -> None:
    with custom("Wrong", how="hang", timeout=2.0) as reward:
        result = reward(towers(4.0, 10.0))
    torch.testing.assert_close(result.reward, torch.tensor([-4.0, NAN]).double(), equal_nan=True)


def test_a_reward_that_always_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    with custom("Flat") as reward:

        def late(crystals: CrystalBatch) -> Any:
            asked.append(len(crystals))
            return Outcome(error="took longer", timed_out=True)

        monkeypatch.setattr(reward, "_ask", late)
        assert reward(towers(*[10.0] * 64)).reward.isnan().all()
        assert len(asked) == MAX_TIMEOUTS
        # From then on it gets one chance per batch.
        for _ in range(3):
            assert reward(towers(*[10.0] * 64)).reward.isnan().all()
        assert asked[MAX_TIMEOUTS:] == [64] * 3
        monkeypatch.undo()
        assert reward(towers(4.0, 5.0)).reward.tolist() == [-4.0, -5.0]
        monkeypatch.setattr(reward, "_ask", late)
        asked.clear()
        assert reward(towers(*[10.0] * 64)).reward.isnan().all()
    assert len(asked) == MAX_TIMEOUTS


def test_time_outs_count_across_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    with custom("Flat") as reward:
        monkeypatch.setattr(reward, "_ask", lambda part: asked.append(len(part)) or Outcome(error="x", timed_out=True))
        for _ in range(MAX_TIMEOUTS):
            reward(towers(10.0))
        asked.clear()
        assert reward(towers(*[10.0] * 4)).reward.isnan().all()
    assert asked == [4]


def test_invalid_structures_are_not_shown_to_it_and_valid_ones_never_score_below_them(tmp_path: Path) -> None:
    """The second tower has no height worth the name; the last one is long, and would score below it."""
    (tmp_path / "picky.py").write_text(
        "class Picky:\n"
        "    def __call__(self, crystals):\n"
        "        height = crystals.cell[:, 2, 2]\n"
        "        assert height.min() > 1\n"
        "        return -height\n"
    )
    reward = CustomReward("mine", "picky:Picky", -6.0, path=tmp_path, timeout=30.0)
    try:
        assert reward(towers(4.0, 0.1, 5.0, 8.0)).reward.tolist() == [-4.0, -6.0, -5.0, -6.0]
        assert reward(towers(0.1, 0.2)).reward.tolist() == [-6.0, -6.0]
    finally:
        reward.close()
    with custom("Flat", invalid=-6.0) as flat:
        lengths = flat(towers(4.0, 0.1, 8.0)).values["length"]
    torch.testing.assert_close(lengths, torch.tensor([4.0, NAN, 8.0]).double(), equal_nan=True)


def test_what_a_reward_returns_is_never_read_as_code(tmp_path: Path) -> None:
    """Objects of classes that this process cannot import, in an array, as a value's name and as an exception."""
    (tmp_path / "odd.py").write_text(
        "import numpy as np\n"
        "from omatg_ray.reward.protocol import RewardResult\n"
        "class Name(str):\n    pass\n"
        "class Thing:\n    pass\n"
        "class Odd:\n"
        "    def __call__(self, crystals):\n"
        "        n, what = len(crystals), int(crystals.cell[0, 2, 2])\n"
        "        things = np.array([Thing()] * n, dtype=object)\n"
        "        if what == 3:\n            return things\n"
        "        name, value = {4: ('x', things), 5: ('', np.zeros(n)), 6: ('a/b', np.zeros(n))}.get(\n"
        "            what, (Name('x'), np.arange(n)))\n"
        "        return RewardResult(np.ones(n, dtype=bool), {name: value})\n"
    )
    reward = CustomReward("mine", "odd:Odd", -1.0, path=tmp_path, timeout=30.0)
    try:
        for height, said in (
            (3.0, "its reward is no array of real numbers"),
            (4.0, "its value 'x' is no array of real numbers"),
            (5.0, "a value is called ''"),
            (6.0, "a value is called 'a/b'"),
        ):
            with pytest.raises(RewardError, match=f"^reward mine: {said}"):
                reward(towers(height, 9.0))
        result = reward(towers(7.0, 9.0))
    finally:
        reward.close()
    assert result.reward.tolist() == [1.0, 1.0] and result.values["x"].tolist() == [0.0, 1.0]
    assert {type(name) for name in result.values} == {str} and "odd" not in sys.modules


@pytest.mark.parametrize(
    "how, said", [("length", r"reward has shape \(2,\), not \(3,\)"), ("values", "value 'x'"), ("none", "numbers")]
)
def test_something_else_than_a_number_per_structure_ends_the_run(how: str, said: str) -> None:
    with custom("Wrong", how=how) as reward, pytest.raises(RewardError, match=f"^reward mine: its {said}|{said}"):
        reward(towers(4.0, 10.0, 11.0))


@pytest.mark.parametrize(
    "target, options, said",
    [
        ("user_rewards:Flot", {}, "Flot"),
        ("nowhere:Flat", {}, "No module named 'nowhere'"),
        ("user_rewards:Flat", {"axes": 3}, "axes"),
        ("user_rewards:Wrong", {"how": "init"}, "no weights found"),
        ("user_rewards:Wrong", {"how": "raise"}, "too long"),
        ("user_rewards:Wrong", {"how": "length"}, "shape"),
    ],
)
def test_a_reward_that_does_not_work_is_refused_before_a_run(target: str, options: dict[str, Any], said: str) -> None:
    reward = CustomReward("mine", target, -99.0, options, FOLDER)
    try:
        with pytest.raises(RewardError, match=f"^reward mine: .*{said}"):
            reward.try_out(towers(10.0))
    finally:
        reward.close()


def test_without_a_folder_the_working_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.py").write_text(
        "class One:\n    def __call__(self, crystals):\n        return [1.0] * len(crystals)\n"
    )
    monkeypatch.chdir(tmp_path)
    reward = CustomReward("mine", "here:One", 0.0)
    try:
        assert reward(towers(4.0)).reward.tolist() == [1.0]
    finally:
        reward.close()


def test_the_process_ends_with_the_reward() -> None:
    with custom("Flat") as reward:
        reward(towers(4.0))
        pid = reward._pool._idle[0]._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
