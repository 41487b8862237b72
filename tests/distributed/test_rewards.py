"""Rewards other than the energy, on actors: some hold processes, and one is code that the actors must find."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import train
from omatg_ray.errors import RewardError
from tests.distributed.conftest import SMALL, Workshop, run

FOLDER = Path(__file__).parents[1] / "reward" / "rewards"
ACTORS = ("ray.rollout.workers=1", "ray.reward.workers=2", "ray.learner.cpus=0.5")


def rewards(name: str) -> list[str]:
    return [
        f"reward.custom={{mine: {{class: 'user_rewards:{name}', invalid: -99, path: {FOLDER}}}}}",
        "reward.weights={energy: 1, crmse: 0.5, non_triclinic: 0, mine: 0.2}",
        "iterations=2",
    ]


@pytest.mark.filterwarnings("ignore:reward.second_potential")
def test_actors_give_what_one_process_gives(workshop: Workshop, base: Path, cluster: Cluster) -> None:
    second = f"reward.second_potential={workshop.potential}"
    alone = run(workshop, base, "rewards_alone", *rewards("Flat"), second)
    actors = run(workshop, base, "rewards_actors", *rewards("Flat"), second, *ACTORS)
    assert alone.lines() == actors.lines()
    line = alone.lines()[-1]
    assert line["kind"] == "train"
    assert {"reward_crmse.rmse_mean", "reward_mine.length_mean", "second_shift"} <= line.keys()


def test_an_actor_says_what_is_wrong_with_a_reward(workshop: Workshop, base: Path, cluster: Cluster) -> None:
    """It keeps to the contract for the crystals that it is tried on, and does not for all that are generated."""
    config = workshop.load(
        f"run={workshop.root / 'rewards_broken'}", f"base={base}", *SMALL, *rewards("Second"), *ACTORS
    )
    with pytest.raises(RewardError, match=r"^reward mine: its reward has shape"):
        train(config, progress=False)
