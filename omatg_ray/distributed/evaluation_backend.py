"""Evaluation and generation on rollout and reward actors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import ray
import torch
from ray import ObjectRef
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.actor_set import ActorSet
from omatg_ray.distributed.failures import ObjectHandle, OutputLost, fetch
from omatg_ray.distributed.worker_group import Request
from omatg_ray.evaluate.backend import Assessed, Block, CrystalGenerator, Measured, Relaxation, Spent
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import MatchResult, MatchSettings
from omatg_ray.reward.protocol import RewardResult

Result = TypeVar("Result")


class RayEvaluationBackend:
    """Evaluation backend on actors: rollout actors generate, reward actors measure and match.

    Args:
        actors: Actors, with rollout and reward actors among them.
        energy: Potential of the reward actors, if they have one.
        rewarded: Whether the reward actors have a reward that is to be measured beside the energies.
    """

    def __init__(self, actors: ActorSet, energy: MatGLEnergy | None, rewarded: bool = False) -> None:
        self._loop, self._rollout, self._reward = actors.loop, actors.pools["rollout"], actors.pools["reward"]
        self.energy, self.stol, self._rewarded = energy, MatchSettings().stol, rewarded

    def measure(self, model: CrystalGenerator, blocks: Sequence[Block]) -> Iterator[Measured]:
        published = ObjectHandle(ray.put(model))
        measured: dict[int, Measured] = {}
        for index, block in enumerate(blocks):
            self._generate(published, measured, index, block)
        return self._in_order(measured, len(blocks))

    def _generate(self, published: ObjectHandle, measured: dict[int, Measured], index: int, block: Block) -> None:
        # Functions that called each other here would keep the model in the object store until a garbage collection.
        then = partial(self._assess, published, measured, index, block)
        arguments = (replace(block, comparisons=None), published)
        self._rollout.submit(Request(f"block {index}", "generate", arguments, then, kept=1))

    def _assess(
        self,
        published: ObjectHandle,
        measured: dict[int, Measured],
        index: int,
        block: Block,
        generation: Spent,
        crystals: ObjectRef[Any],
    ) -> None:
        again = partial(self._generate, published, measured, index, block)

        def done(found: Assessed) -> None:
            try:
                measured[index] = Measured(fetch(crystals, "a rollout actor"), generation, found)
            except OutputLost:
                again()

        def give_up(_: str) -> None:
            generated: CrystalBatch = fetch(crystals, "a rollout actor")
            measured[index] = Measured(generated, generation, self._fail(generated, block))

        arguments = (crystals, block.comparisons, self._rewarded, block.relax)
        self._reward.submit(Request(f"block {index}", "assess", arguments, done, lost=again, given_up=give_up))

    def _in_order(self, measured: dict[int, Measured], count: int) -> Iterator[Measured]:
        for following in range(count):
            self._loop.until(partial(measured.__contains__, following))
            yield measured.pop(following)

    def _fail(self, crystals: CrystalBatch, block: Block) -> Assessed:
        """Return the result of a block that kills the actors measuring it: no energy, no match, no reward."""
        failed, match = torch.full((len(crystals),), math.nan, dtype=torch.float64), None
        if block.comparisons is not None:
            n = len(block.comparisons.pairs)
            match = MatchResult(torch.full((n,), math.nan, dtype=torch.float64), timed_out=0, failed=n)
        unmoved = crystals.to("cpu", torch.float64)
        relaxed = Relaxation(unmoved, failed, match, failed, torch.zeros(len(crystals), dtype=torch.bool), 0.0)
        return Assessed(
            energy=None if self.energy is None else failed,
            match=match,
            reward=RewardResult(failed, {}) if self._rewarded else None,
            relaxed=relaxed if block.relax else None,
        )

    def weigh(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        return self._of_each("assess", [(batch, None) for batch in batches], lambda value: value.energy)

    def _of_each(
        self, method: str, arguments: Sequence[tuple[Any, ...]], of: Callable[[Any], Result]
    ) -> Iterator[Result]:
        results: dict[int, Result] = {}

        def done(index: int, value: Any) -> None:
            results[index] = of(value)

        for index, call in enumerate(arguments):
            self._reward.submit(Request(f"batch {index}", method, call, partial(done, index)))
        self._loop.until(lambda: len(results) == len(arguments))
        return iter([results[index] for index in range(len(arguments))])
