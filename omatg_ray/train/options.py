"""Options of generation and measurement outside of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch

from omatg_ray.distributed.settings import RaySettings
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.model.sampling import DEFAULT, Sampling
from omatg_ray.policy.settings import CHUNK_PAIRS
from omatg_ray.run.location import Location
from omatg_ray.train.device import driver_device, set_threads


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """Options of generation and measurement that do not depend on the sampler.

    Attributes:
        seed: Seed of x_0 and noise.
        potential: Potential of the energies: name, folder or bundled.
        workers: Processes that compare structures; 0 compares in this one.
        timeout: Seconds that one comparison may take.
        device: auto, cpu, cuda or cuda:N.
        threads: PyTorch's CPU threads; None leaves the choice to PyTorch.
        chunk_pairs: Ordered pairs of atoms per network call.
        block: Crystals generated and measured together, each block by one actor if there are several.
        ray: Actors that generate and measure. Without rollout workers this process does, on `device` with `threads`.
    """

    seed: int = 0
    potential: str | None = None
    workers: int = os.cpu_count() or 1
    timeout: float = 10.0
    device: str = "auto"
    threads: int | None = None
    chunk_pairs: int = CHUNK_PAIRS
    block: int = BLOCK
    ray: RaySettings = field(default_factory=RaySettings)

    def prepare(self) -> torch.device:
        """Set the threads and return the device of this process, which is a CPU if actors do the work."""
        set_threads(self.threads)
        return driver_device(self.device, self.ray)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(WorkOptions):
    """Options of verbs that take one sampler.

    Attributes:
        model: Model or run folder, or bundled.
        sampling: How it generates.
    """

    model: Location
    sampling: Sampling = DEFAULT
