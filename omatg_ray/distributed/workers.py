"""The actors: thin shells around code that also runs without Ray.

Every method returns the values that stay in the object store, then a small value with the seconds that it took
(`Timed`).
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import ray
import torch
from torch import Tensor
from torch.distributed import TCPStore

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.failures import ObjectHandle, Timed
from omatg_ray.distributed.process_group import LOOPBACK, TorchProcessGroup, open_rendezvous, rendezvous_host
from omatg_ray.distributed.settings import Share
from omatg_ray.errors import ClusterError, TrainingError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem, run_item
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import software

if TYPE_CHECKING:
    from omatg_ray.evaluate.backend import Block, Comparisons
    from omatg_ray.reward.build import Scorers

# Packages that take seconds to import; `info` lists those that an actor has imported.
HEAVY = ("ase", "matgl", "matplotlib", "pandas", "pymatgen", "scipy", "torch", "torch_geometric")


class BaseWorker:
    """Base of all actors."""

    def __init__(self, share: Share) -> None:
        quiet_libraries()
        torch.set_num_threads(share.n_threads)
        self._share = share
        self.device = torch.device(share.device if torch.cuda.is_available() else "cpu")

    def info(self) -> Timed:
        """Return where the actor runs, with what, and what it has imported; called before anything else.

        Raises:
            ClusterError: The actor has a GPU that PyTorch does not see.
        """
        context = ray.get_runtime_context()
        if self._share.gpus and self.device.type == "cpu":
            # Not in the constructor, whose errors Ray passes on only as text.
            raise ClusterError(
                f"node {ray.util.get_node_ip_address()} offers {self._share.gpus:g} GPU, but PyTorch sees none there; "
                "install its CUDA build, or set ray.*.gpus=0"
            )
        info = {
            "node": ray.util.get_node_ip_address(),
            "node_id": context.get_node_id(),
            "pid": os.getpid(),
            "software": software(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "imports": [name for name in HEAVY if name in sys.modules],
        }
        return Timed(info, 0.0)


class RolloutWorker(BaseWorker):
    """Actor that samples trajectories with the policy's weights, and crystals with any model.

    Args:
        share: Device and threads.
        model: Policy, base network and base distribution.
    """

    def __init__(self, share: Share, model: FlowModel) -> None:
        super().__init__(share)
        self._model = self._sampler = model.to(self.device)
        self._policy = model.policy()
        self._weights_key = self._sampler_key = ""

    def rollout(self, item: WorkItem, weights: ObjectHandle, with_base: bool) -> tuple[Trajectory, CrystalBatch, Timed]:
        """Run an item (`run_item`) with these weights; trajectories and final crystals stay here."""
        start = time.perf_counter()
        # A model evaluated before need not stay on the device beside the policy.
        self._sampler, self._sampler_key = self._model, ""
        if weights.key != self._weights_key:
            self._model.learned.load_state_dict(ray.get(weights.ref))
            self._weights_key = weights.key
        base = self._model.description.base_distribution
        trajectory = run_item(item, self._policy, base, with_base, self.device)
        on_cpu, crystals = trajectory.to("cpu"), trajectory.final().to("cpu")
        return on_cpu, crystals, Timed(None, time.perf_counter() - start)

    def generate(self, block: Block, model: ObjectHandle) -> tuple[CrystalBatch, Timed]:
        """Generate a block of crystals with any model, kept in the object store; the value is what that took."""
        start = time.perf_counter()
        if model.key != self._sampler_key:
            self._sampler = ray.get(model.ref).to(self.device)
            self._sampler_key = model.key
        crystals, spent = block.generate(self._sampler)
        return crystals, Timed(spent, time.perf_counter() - start)


class RewardWorker(BaseWorker):
    """Actor that scores and measures crystals.

    Args:
        share: Device and threads.
        scorers: Reward of the run and energies of evaluations, each if there is one.
        match_timeout: Seconds that a structure match may take.
    """

    def __init__(self, share: Share, scorers: Scorers, match_timeout: float) -> None:
        super().__init__(share)
        from omatg_ray.reward.matching import Matcher

        self._scorers = scorers.to(self.device)
        # A match can take forever, so it runs in a separate process that can be killed.
        self._matcher = Matcher(share.n_threads, match_timeout)

    def score(self, crystals: CrystalBatch, members: int = 1, objective: ObjectiveSettings | None = None) -> Timed:
        """Score an item's final crystals; arguments as for `omatg_ray.rl.scoring.score_item`."""
        from omatg_ray.rl.scoring import score_item

        start = time.perf_counter()
        assert self._scorers.reward is not None
        scored = score_item(crystals, self._scorers.reward, members, objective, self._scorers.energy)
        return Timed(scored, time.perf_counter() - start)

    def assess(
        self, crystals: CrystalBatch, comparisons: Comparisons | None, rewarded: bool = False, relax: int = 0
    ) -> Timed:
        """Measure a generated block (`evaluate.backend.assess`), with its rewards if `rewarded`."""
        from omatg_ray.evaluate.backend import assess

        start = time.perf_counter()
        reward = self._scorers.reward if rewarded else None
        measured = assess(crystals, comparisons, self._matcher, self._scorers.energy, reward, relax)
        return Timed(measured, time.perf_counter() - start)


class LearnerWorker(BaseWorker):
    """Actor that updates the weights, alone or as one of several that share every update.

    Several have to meet first: rank 0 names the address (`rendezvous`), then all `join`, and from then on every
    `update` goes to all at the same time. If one fails other than with a TrainingError, the others cannot continue.

    Args:
        share: Device and threads.
        model: The sampler to update.
        objective: Loss.
        settings: Optimizer.
    """

    def __init__(self, share: Share, model: FlowModel, objective: ObjectiveSettings, settings: LearnerSettings) -> None:
        super().__init__(share)
        model.to(self.device)
        self._learned = model.learned
        self._learner = Learner(model.policy(), objective, settings)
        self._served: TCPStore | None = None
        self._group: TorchProcessGroup | None = None

    def rendezvous(self) -> Timed:
        """Return the address where the learners of a set meet, HOST:PORT; this one becomes rank 0."""
        start = time.perf_counter()
        self._served, address = open_rendezvous(rendezvous_host())
        return Timed(address, time.perf_counter() - start)

    def join(self, address: str, rank: int, world: int) -> Timed:
        """Meet the other learners, on all of which this must be called.

        Raises:
            LearnersLostError: They did not come in time.
        """
        start = time.perf_counter()
        self._leave()
        host = LOOPBACK if address.startswith(LOOPBACK) else ray.util.get_node_ip_address()
        # NCCL refuses two ranks on one GPU.
        nccl = self.device.type == "cuda" and self._share.gpus == 1
        self._group = TorchProcessGroup(address, rank, world, host, nccl, self._served if rank == 0 else None)
        self._learner.process_group = self._group
        return Timed(None, time.perf_counter() - start)

    def update(
        self, signal: Signal, total: int, *trajectories: Trajectory
    ) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None, Timed]:
        """Run all epochs on this learner's share of an iteration.

        Args:
            signal: Its share (`Signal.share`), of structures of these `trajectories`; may be empty.
            total: Number of structures that all learners learn from.
            trajectories: Trajectories of the share, see `plan_shares`.

        Returns:
            From rank 0 what a learner needs to resume exactly, the weights and the state of the optimizer; and from
            all the metrics.

        Raises:
            TrainingError: As `Learner.update`, on all learners.
            LearnersLostError: Another learner is gone.
        """
        start = time.perf_counter()
        try:
            counted, part = signal.counted, None
            if len(counted):
                part = Trajectory.cat(trajectories).select(counted).to(self.device)
            examples = signal.examples_on(self.device)
            metrics = self._learner.update(part, signal.advantage, total, signal.gradient, examples)
        except TrainingError:
            raise
        except BaseException:
            # The others wait for this one.
            self._leave()
            raise
        weights = optimizer = None
        if self._group is None or self._group.rank == 0:
            weights = {name: value.detach().cpu() for name, value in self._learned.state_dict().items()}
            optimizer = self._learner.state_dict()
        return weights, optimizer, Timed(metrics, time.perf_counter() - start)

    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> Timed:
        """Resume from what `update` returned.

        Raises:
            ModelError: The state of the optimizer belongs to another network.
        """
        start = time.perf_counter()
        self._learned.load_state_dict(weights)
        self._learner.load_state_dict(optimizer)
        return Timed(None, time.perf_counter() - start)

    def _leave(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
