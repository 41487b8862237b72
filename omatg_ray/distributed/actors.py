"""The actors: thin shells around what also runs without Ray.

Every method returns what stays in the object store, then a small value with the seconds that it took (`Timed`).
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import TYPE_CHECKING

import ray
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.pool import Published, Timed
from omatg_ray.distributed.settings import Share
from omatg_ray.errors import ClusterError
from omatg_ray.model import FlowModel
from omatg_ray.rl.learner import Learner, LearnerSettings
from omatg_ray.rl.objective import ObjectiveSettings
from omatg_ray.rl.trajectory import Trajectory
from omatg_ray.rl.work import WorkItem, run_item

if TYPE_CHECKING:
    from omatg_ray.evaluate.bench import Block, Comparisons
    from omatg_ray.reward.build import Judges

# Packages that cost seconds to import; which of them an actor has is part of what it says of itself.
HEAVY = ("ase", "matgl", "matplotlib", "pandas", "pymatgen", "scipy", "torch", "torch_geometric")


class Shell:
    """What all actors do when they start."""

    def __init__(self, share: Share) -> None:
        # As everywhere in the program: what libraries warn of is nothing that users can act on.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module="omatg_ray")
        torch.set_num_threads(share.n_threads)
        self._share = share
        self.device = torch.device(share.device if torch.cuda.is_available() else "cpu")

    def about(self) -> Timed:
        """Where the actor runs, and what it has imported; asked before anything else."""
        context = ray.get_runtime_context()
        if self._share.gpus and self.device.type == "cpu":
            # Not in the constructor, whose errors Ray only hands on as text.
            raise ClusterError(
                f"node {ray.util.get_node_ip_address()} lends {self._share.gpus:g} GPU, but PyTorch sees none there; "
                "install its CUDA build, or set ray.*.gpus=0"
            )
        about = {
            "node": ray.util.get_node_ip_address(),
            "node_id": context.get_node_id(),
            "pid": os.getpid(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "imports": [name for name in HEAVY if name in sys.modules],
        }
        return Timed(about, 0.0)


class RolloutWorker(Shell):
    """Samples trajectories with the policy's weights, and crystals with any model.

    Args:
        share: Device and threads.
        model: Policy, base, base distribution.
    """

    def __init__(self, share: Share, model: FlowModel) -> None:
        super().__init__(share)
        self._model = self._sampler = model.to(self.device)
        self._policy = model.policy()
        self._weights_key = self._sampler_key = ""

    def rollout(
        self, item: WorkItem, version: int, weights: Published, steps: int, with_base: bool
    ) -> tuple[Trajectory, CrystalBatch, Timed]:
        """An item by `run_item`, with a version of the policy's weights; trajectories and final crystals stay here."""
        start = time.perf_counter()
        if weights.key != self._weights_key:
            self._model.learned.load_state_dict(ray.get(weights.ref))
            self._weights_key = weights.key
        base = self._model.description.base_distribution
        trajectory = run_item(item, self._policy, base, steps, with_base, self.device, version)
        kept, crystals = trajectory.to("cpu"), trajectory.final().to("cpu")
        return kept, crystals, Timed(None, time.perf_counter() - start)

    def generate(self, block: Block, model: Published) -> tuple[CrystalBatch, Timed]:
        """A block of crystals by any model, which stay in the object store."""
        start = time.perf_counter()
        if model.key != self._sampler_key:
            self._sampler = ray.get(model.ref).to(self.device)
            self._sampler_key = model.key
        return block.generate(self._sampler), Timed(None, time.perf_counter() - start)


class RewardWorker(Shell):
    """Judges and measures crystals.

    Args:
        share: Device and threads.
        judges: The reward of a run, and the energies of evaluations, as far as there are any.
        match_timeout: Seconds that a structure match may take.
    """

    def __init__(self, share: Share, judges: Judges, match_timeout: float) -> None:
        super().__init__(share)
        from omatg_ray.reward.matching import Matcher

        self._judges = judges.to(self.device)
        # In processes of their own, which may be killed: a match can take forever.
        self._matcher = Matcher(share.n_threads, match_timeout)

    def judge(self, crystals: CrystalBatch, members: int | None = None) -> Timed:
        """Rewards of an item's final crystals; `members` as for `omatg_ray.rl.judge.judge`."""
        from omatg_ray.rl.judge import judge

        start = time.perf_counter()
        assert self._judges.reward is not None
        judged = judge(crystals, self._judges.reward, members)
        return Timed(judged, time.perf_counter() - start)

    def assess(self, crystals: CrystalBatch, comparisons: Comparisons | None) -> Timed:
        """Energies of a generated block and its matches with known crystals."""
        from omatg_ray.evaluate.bench import assess

        start = time.perf_counter()
        found = assess(crystals, comparisons, self._matcher, self._judges.energy)
        return Timed(found, time.perf_counter() - start)


class LearnerWorker(Shell):
    """Updates the weights.

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

    def update(self, counted: Tensor, advantage: Tensor, *trajectories: Trajectory) -> tuple[dict[str, Tensor], Timed]:
        """All epochs on an iteration's trajectories; the new weights, and the metrics."""
        start = time.perf_counter()
        trajectory = Trajectory.cat(trajectories).select(counted).to(self.device)
        metrics = self._learner.update(trajectory, advantage)
        weights = {name: value.detach().cpu() for name, value in self._learned.state_dict().items()}
        return weights, Timed(metrics, time.perf_counter() - start)

    def state_dict(self) -> Timed:
        """The optimizer's state."""
        return Timed(self._learner.state_dict(), 0.0)

    def load_state_dict(self, state: dict[str, Tensor]) -> Timed:
        """Inverse of `state_dict`."""
        self._learner.load_state_dict(state)
        return Timed(None, 0.0)
