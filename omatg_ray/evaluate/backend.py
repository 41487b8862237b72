"""Evaluation backends, which generate and measure crystals in blocks: the interface, and one in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.settings import CHUNK_PAIRS
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher, MatchResult
from omatg_ray.reward.protocol import Reward, RewardResult, reward_of_known
from omatg_ray.reward.weighted import Weighted

if TYPE_CHECKING:
    from omatg_ray.rl.backend import TrainingBackend
    from omatg_ray.run.timeline import Timeline


@dataclass(frozen=True)
class Comparisons:
    """Known crystals to compare a generated block with.

    Attributes:
        references: Known crystals.
        pairs: Pairs to compare: (index in the block, index in `references`).
    """

    references: CrystalBatch
    pairs: Sequence[tuple[int, int]]

    @classmethod
    def among(cls, known: CrystalBatch, pairs: Sequence[tuple[int, int]]) -> Self:
        """Keep only those of many known crystals that occur in pairs (index in the block, index in `known`)."""
        index = {name: position for position, name in enumerate(dict.fromkeys(name for _, name in pairs))}
        return cls(known.select(list(index)), [(row, index[name]) for row, name in pairs])


class Spent(NamedTuple):
    """Time that a process spent: seconds on the clock, and of processors, all its threads together."""

    seconds: float
    processor: float


class CrystalGenerator(Protocol):
    """What makes crystals of given species: a `FlowModel`, or whatever stands in for it."""

    def generate(
        self,
        species: Sequence[Sequence[int]],
        sampling: Sampling = ...,
        seed: int = ...,
        indices: Sequence[int] | None = ...,
        chunk_pairs: int = ...,
        *,
        turns: Sequence[int] | None = ...,
        judged: bool = ...,
    ) -> CrystalBatch:
        """Generate one crystal for each list of atomic numbers (`FlowModel.generate`)."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Move it to a device."""
        ...


@dataclass(frozen=True)
class Block:
    """Crystals to generate together.

    Attributes:
        species: Atomic numbers of each cell.
        indices: Identity of each crystal; with the seed it determines x_0 and noise.
        sampling: Settings of the sampler.
        seed: Seed of x_0 and noise.
        comparisons: Crystals to match them with; None matches nothing.
        chunk_pairs: Ordered pairs of atoms per network call.
        relax: Most steps of a relaxation, after which they are measured once more; 0 relaxes nothing.
        turns: Turn of each crystal among the weights of guidance; None: its identity.
    """

    species: Sequence[Sequence[int]]
    indices: Sequence[int]
    sampling: Sampling
    seed: int = 0
    comparisons: Comparisons | None = None
    chunk_pairs: int = CHUNK_PAIRS
    relax: int = 0
    turns: Sequence[int] | None = None

    def generate(self, model: CrystalGenerator) -> tuple[CrystalBatch, Spent]:
        """Generate the crystals, on the CPU, and say what that took."""
        start, processor = time.perf_counter(), time.process_time()
        crystals = model.generate(
            self.species, self.sampling, self.seed, self.indices, self.chunk_pairs, turns=self.turns, judged=True
        )
        return crystals, Spent(time.perf_counter() - start, time.process_time() - processor)


@dataclass(frozen=True)
class Relaxation:
    """A block after relaxation.

    Attributes:
        crystals: B crystals, float64; where invalid or failed as they were.
        energy: eV/atom (B,), NaN where invalid or failed.
        match: As of the block.
        steps: Steps taken (B,), float64, NaN likewise.
        converged: Whether they rest (B,), bool.
        processor: Processor seconds that the relaxing process spent on it.
    """

    crystals: CrystalBatch
    energy: Tensor
    match: MatchResult | None
    steps: Tensor
    converged: Tensor
    processor: float


@dataclass(frozen=True)
class Assessed:
    """What was measured of B crystals.

    Attributes:
        energy: eV/atom (B,), NaN where invalid or failed; None without a potential.
        match: One row per pair of the comparisons; None without comparisons.
        reward: The user's own reward, its parts and values; None where it is not measured.
        relaxed: The same after relaxation; None where nothing is relaxed.
    """

    energy: Tensor | None
    match: MatchResult | None
    reward: RewardResult | None = None
    relaxed: Relaxation | None = None


@dataclass(frozen=True)
class Measured:
    """A generated and measured block.

    Attributes:
        crystals: B crystals.
        generation: Time that the generating process spent on it.
        found: What was measured.
    """

    crystals: CrystalBatch
    generation: Spent
    found: Assessed


class EvaluationBackend(Protocol):
    """Interface of what generates and measures blocks.

    Attributes:
        energy: Potential of the energies; None measures none.
        stol: Site tolerance of the matcher.
    """

    energy: MatGLEnergy | None
    stol: float

    def measure(self, model: CrystalGenerator, blocks: Sequence[Block]) -> Iterator[Measured]:
        """Yield blocks generated by a model in order, each as soon as it and those before it are done.

        Actors may begin before the first block is asked for, so that calling this early for the next model keeps them
        busy.
        """
        ...

    def weigh(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        """Yield the energies (B,) in eV/atom of every batch, in order. Needs a potential."""
        ...


class LocalEvaluationBackend:
    """Evaluation backend in this process, with the worker processes of a matcher.

    Args:
        matcher: Compares structures.
        energy: Potential of the energies.
        reward: The user's own reward, measured beside the energies; None measures none.
    """

    def __init__(self, matcher: Matcher, energy: MatGLEnergy | None, reward: Reward | None = None) -> None:
        self.matcher, self.energy, self.stol, self._reward = matcher, energy, matcher.settings.stol, reward

    def measure(self, model: CrystalGenerator, blocks: Sequence[Block]) -> Iterator[Measured]:
        for block in blocks:
            crystals, generation = block.generate(model)
            found = assess(crystals, block.comparisons, self.matcher, self.energy, self._reward, block.relax)
            yield Measured(crystals, generation, found)

    def weigh(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        assert self.energy is not None
        for batch in batches:
            yield self.energy(batch).values["energy_per_atom"]


def assess(
    crystals: CrystalBatch,
    comparisons: Comparisons | None,
    matcher: Matcher,
    energy: MatGLEnergy | None,
    reward: Reward | None = None,
    relax: int = 0,
) -> Assessed:
    """Measure a block: its energies, matches and rewards, and energies and matches after `relax` steps."""
    match = _match(crystals, comparisons, matcher)
    rewarded = None if reward is None else reward_of_known(reward, crystals)
    if energy is None:
        return Assessed(None, match, rewarded)
    shared = reward.energy_like(energy) if isinstance(reward, Weighted) else energy
    unknown = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
    weights = reward_of_known(shared, crystals).values.get("energy_per_atom", unknown)
    if not relax:
        return Assessed(weights, match, rewarded)
    start = time.process_time()
    relaxed = relax_all(crystals, energy, relax)
    processor = time.process_time() - start
    steps = relaxed.steps.double().where(relaxed.energy.isfinite(), torch.nan)
    rematch = _match(relaxed.crystals, comparisons, matcher)
    energies = relaxed.energy / crystals.n_atoms
    after = Relaxation(relaxed.crystals, energies, rematch, steps, relaxed.converged, processor)
    return Assessed(weights, match, rewarded, after)


def _match(crystals: CrystalBatch, comparisons: Comparisons | None, matcher: Matcher) -> MatchResult | None:
    return None if comparisons is None else matcher.listed(crystals, comparisons.references, comparisons.pairs)


@dataclass(frozen=True)
class Backend:
    """Backends of a run: this process alone, or actors on a Ray cluster.

    Attributes:
        evaluate: Carries out evaluations.
        training: Carries out iterations; None if nothing is trained.
        info: Describes each actor that is ready; nothing in one process.
        timeline: Returns what the actors did in the last iteration, if there was one.
    """

    evaluate: EvaluationBackend
    training: TrainingBackend | None = None
    info: Callable[[], list[dict[str, Any]]] = list
    timeline: Callable[[], Timeline | None] = lambda: None

    @property
    def train(self) -> TrainingBackend:
        """The training backend, where something is trained."""
        assert self.training is not None
        return self.training


@contextmanager
def local_backend(
    processes: int,
    timeout: float,
    energy: MatGLEnergy | None,
    reward: Reward | None = None,
    training: TrainingBackend | None = None,
) -> Iterator[Backend]:
    """Provide backends in this process, with worker processes that match structures while the context lasts.

    Args:
        processes: Number of worker processes that match structures; 0 matches in this one.
        timeout: Seconds that one comparison may take.
        energy: Potential of the energies.
        reward: The user's own reward, measured beside the energies; None measures none.
        training: Carries out iterations, where something is trained.
    """
    with Matcher(processes, timeout) as matcher:
        yield Backend(LocalEvaluationBackend(matcher, energy, reward), training)
