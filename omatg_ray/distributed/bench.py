"""Evaluation and generation on rollout and reward actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import ray
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.pool import Published, Request, answers, fetch
from omatg_ray.distributed.staff import Staff
from omatg_ray.evaluate.bench import Block, Measured
from omatg_ray.model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import MatchSettings


class RayBench:
    """Rollout actors generate, reward actors measure and match.

    Args:
        staff: With rollout and reward actors.
        reward: What the reward actors have, if they have one.
    """

    def __init__(self, staff: Staff, reward: MatGLEnergy | None) -> None:
        self.rollout, self.reward_pool = staff.pools["rollout"], staff.pools["reward"]
        self.reward, self.stol = reward, MatchSettings().stol

    def measure(self, model: FlowModel, blocks: Sequence[Block]) -> Iterator[Measured]:
        published = Published(ray.put(model))
        for index, block in enumerate(blocks):
            self.rollout.submit(Request(index, "generate", (replace(block, comparisons=None), published), kept=1))
        generated: dict[int, CrystalBatch] = {}
        measured: dict[int, Measured] = {}
        following = 0
        for pool, answer in answers(self.rollout, self.reward_pool):
            index = answer.index
            if pool is self.rollout:
                (crystals,) = answer.kept
                self.reward_pool.submit(Request(index, "assess", (crystals, blocks[index].comparisons)))
                generated[index] = fetch(crystals, "a rollout actor")
            else:
                measured[index] = Measured(generated.pop(index), *answer.value)
            while following in measured:
                yield measured.pop(following)
                following += 1

    def weigh(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        for index, batch in enumerate(batches):
            self.reward_pool.submit(Request(index, "assess", (batch, None)))
        energies = {answer.index: answer.value[0] for _, answer in answers(self.reward_pool)}
        for index in range(len(batches)):
            yield energies[index]

    def judge(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        for index, batch in enumerate(batches):
            self.reward_pool.submit(Request(index, "judge", (batch,)))
        rewards = {answer.index: answer.value.result.reward for _, answer in answers(self.reward_pool)}
        for index in range(len(batches)):
            yield rewards[index]
