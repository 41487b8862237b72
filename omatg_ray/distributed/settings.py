"""Distribution of a run over a Ray cluster. Does not import Ray: these keys belong to every configuration."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from omatg_ray.settings import Settings


class Share(Settings):
    """Resources of one actor."""

    cpus: float = Field(1.0, gt=0, description="CPU cores that an actor reserves; a fraction lets several share one")
    gpus: float = Field(
        0.0, ge=0, le=1, description="GPU, or share of one, that an actor reserves; 0: it computes on CPUs"
    )
    threads: int | None = Field(None, ge=1, description="PyTorch CPU threads of an actor; null: one per whole core")

    @field_validator("cpus", "gpus")
    @classmethod
    def _check_amount(cls, amount: float) -> float:
        if amount != round(amount, 4):
            raise ValueError(f"Ray counts in steps of 0.0001, not {amount}")
        return amount

    @property
    def n_threads(self) -> int:
        """Threads of an actor. They depend only on the configuration, as they affect the last bits of sums."""
        return max(1, math.floor(self.cpus)) if self.threads is None else self.threads

    @property
    def device(self) -> str:
        """Device of an actor."""
        return "cuda" if self.gpus else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        """The actor's bundle of a placement group."""
        return {"CPU": self.cpus, **({"GPU": self.gpus} if self.gpus else {})}


class WorkerShare(Share):
    """Number of actors, and resources of each."""

    workers: int = Field(1, ge=1, description="actors")


class OptionalWorkerShare(WorkerShare):
    """Number of actors, which may be 0, and resources of each."""

    workers: int = Field(0, ge=0, description="actors; 0: the work is done in this process, without Ray")


class ElasticShare(WorkerShare):
    """The same for a role whose actors may come and go during a run."""

    max_workers: int | None = Field(
        None, ge=1, description="up to this many actors while the cluster has room; null: no more than workers"
    )

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"max_workers={self.max_workers} is less than workers={self.workers}; raise it or leave it out"
            )
        return self


RewardShare = ElasticShare
"""Its former name for reward actors, which pickles of Ray Tune in the folders of sweeps still have."""


class RolloutShare(OptionalWorkerShare, ElasticShare):
    """Number of rollout actors, and resources of each."""


class RaySettings(Settings):
    """Actors and where they run. Results do not depend on these settings, except in the last bits on `threads`."""

    renamed = {"deadline": "request_timeout"}  # noqa: RUF012 - of the class

    address: str | None = Field(
        None,
        description="cluster to join: host:port, or auto for the one running on this machine; null: RAY_ADDRESS, or a "
        "Ray of its own on this machine",
    )
    rollout: RolloutShare = Field(RolloutShare(), description="actors that sample trajectories")
    reward: ElasticShare = Field(
        ElasticShare(), description="actors that score crystals, used if there are rollout actors"
    )
    learner: WorkerShare = Field(
        WorkerShare(), description="actors that learn, if rollout has workers; several share every update"
    )
    pretrain: OptionalWorkerShare = Field(OptionalWorkerShare(), description="data-parallel workers of pretraining")
    in_flight: int = Field(2, ge=1, description="requests given to an actor at a time; 2 keep it busy")
    strategy: Literal["pack", "spread"] = Field("pack", description="pack: few nodes · spread: as many as there are")
    wait: float = Field(
        10.0, gt=0, description="seconds to wait for room on the cluster; set more if it grows on demand"
    )
    request_timeout: float = Field(
        3600.0,
        gt=0,
        description="seconds that an actor may take for one request (an item, a block of an evaluation, an update of "
        "the learners) before it is replaced",
    )
