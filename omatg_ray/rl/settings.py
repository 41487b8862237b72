"""Settings of reinforcement: what an iteration samples, how it is scored and what is learned from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from omatg_ray.deferred import Deferred
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.seeding import generator
from omatg_ray.settings import FieldName, Settings

if TYPE_CHECKING:
    import torch

    from omatg_ray.policy.policy import Policy
else:
    torch = Deferred("torch")


class LearnFrom(Settings):
    """Transitions (Euler steps) of an iteration that are learned from; a plain integer sets their number."""

    renamed = {"steps": "transitions"}  # noqa: RUF012 - of the class

    transitions: int = Field(ge=1, description="transitions (Euler steps) per iteration that are learned from")
    kind: Literal["window", "random"] = Field(
        "window",
        description="window: consecutive steps, the only ones with noise, which move on from iteration to iteration "
        "(MixGRPO, arXiv 2507.21802) · random: drawn anew for every iteration, with noise in all steps",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_integer(cls, values: Any) -> Any:
        # bool is a subclass of int.
        return {"transitions": values} if type(values) is int else values

    def windows(self, n_steps: int) -> int:
        """Return how many iterations a window takes to cover trajectories of `n_steps` steps; 1 without a window."""
        return 1 if self.kind == "random" else -(-n_steps // self.transitions)

    def of(self, n_steps: int, turn: int, seed: int) -> tuple[int, ...]:
        """Return the steps of an iteration, increasing.

        Args:
            n_steps: Euler steps of its trajectories.
            turn: Completed rounds through all numbers of grid points.
            seed: Seed of random steps.
        """
        if self.kind == "random":
            return tuple(sorted(torch.randperm(n_steps, generator=generator(seed))[: self.transitions].tolist()))
        windows = self.windows(n_steps)
        # Even spacing keeps the overlap small where the windows do not fit exactly.
        start = turn % windows * (n_steps - self.transitions) // max(windows - 1, 1)
        return tuple(range(start, start + self.transitions))


class RolloutSettings(Settings):
    """Sampling of one iteration."""

    groups: int = Field(16, ge=1, description="compositions per iteration")
    group_size: int = Field(
        64,
        ge=1,
        description="trajectories per composition, compared with each other; 1 is for reward gradients, which compare "
        "nothing",
    )
    steps: int | list[int] = Field(
        50,
        description="points of the time grid, one more than Euler steps. Several numbers take turns, iteration by "
        "iteration (validations use validation.steps, by default the first)",
    )
    shared_start: bool = Field(False, description="all trajectories of a group start from the same x_0")
    groups_per_item: int = Field(1, ge=1, description="groups that one rollout call integrates together")
    max_staleness: int = Field(
        0,
        ge=0,
        description="iterations that may be sampled ahead while actors learn, with weights that many versions old; 0: "
        "on-policy",
    )
    learn_from: LearnFrom | None = Field(
        None, description="Euler steps that are learned from: {transitions: 3, kind: window or random}; null: all"
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="precision of the networks in rollouts and learning: float32, or bfloat16 for matrix products and "
        "messages (weights, residuals and heads stay float32), about twice as fast on hardware that supports it, but "
        "refused where it shifts actions by more than a tenth of their noise; auto: bfloat16 where this machine "
        "supports it and it is not refused, else float32. Validations always use float32",
    )

    @model_validator(mode="after")
    def _check_learn_from(self) -> RolloutSettings:
        fewest = min(self.turns) - 1
        if self.learn_from is not None and self.learn_from.transitions > fewest:
            raise ValueError(
                f"learn_from.transitions = {self.learn_from.transitions}: trajectories over {fewest + 1} grid points "
                f"have {fewest} Euler steps; take fewer, or learn_from=null for all"
            )
        return self

    @field_validator("steps", mode="plain")
    @classmethod
    def _check_steps(cls, steps: object) -> int | list[int]:
        several = steps if isinstance(steps, list) else [steps]
        if not several or not all(type(points) is int and points >= 2 for points in several):
            raise ValueError(f"a whole number of at least 2 grid points, or a list of such, not {steps!r}")
        return steps  # type: ignore[return-value]

    @property
    def turns(self) -> list[int]:
        """Numbers of grid points, which take turns from iteration to iteration."""
        return [self.steps] if isinstance(self.steps, int) else self.steps

    @property
    def period(self) -> int:
        """Iterations after which numbers of grid points and windows repeat."""
        selection = self.learn_from
        windows = [1 if selection is None else selection.windows(points - 1) for points in self.turns]
        return len(self.turns) * math.lcm(*windows)


class AdvantageSettings(Settings):
    """Conversion of a group's rewards to advantages."""

    shaping: Literal["none", "clip", "rank"] = Field(
        "rank",
        description="before normalising: none · clip: outliers to 3 robust standard deviations from the group's median "
        "· rank: rewards replaced by their rank in the group, so that a few very bad members do not dominate it",
    )
    clip_std: float | None = Field(
        None,
        gt=0,
        description="with shaping none: clip a group's rewards to their mean ± this many population standard "
        "deviations; null: no clipping",
    )

    diversity_weight: float = Field(
        0.0,
        ge=0,
        description="weight of a second advantage within the better half of a group: how different a member is from "
        "the others of that half (distance of radial distribution functions); 0: none",
    )

    @model_validator(mode="after")
    def _check_clip_std(self) -> AdvantageSettings:
        if self.clip_std is not None and self.shaping != "none":
            raise ValueError(
                f"clip_std cannot be combined with shaping {self.shaping}, which handles outliers itself; "
                "set advantage.shaping=none"
            )
        return self


MATCHING, REPLAY = "matching", "replay"
"""Sources of examples of flow matching: training crystals, and the best crystals known and found."""
PositionReduction = Literal["none", "per_structure", "per_atom"]


class FieldWeights(Settings):
    """One weight per field; only those of active fields matter."""

    pos: float = Field(1.0, ge=0, description="weight for positions")
    cell: float = Field(1.0, ge=0, description="weight for lattices")

    def of(self, field: FieldName) -> float:
        return self.pos if field == "pos" else self.cell


class RewardGradientSettings(Settings):
    """Learning from the gradient of the reward through the last steps of a trajectory (docs/gradients.md)."""

    transitions: int = Field(3, ge=1, description="last Euler steps that are differentiated")
    limit: float = Field(
        1.0,
        gt=0,
        description="largest gradient of a crystal's reward, in its units per Å: for energies, the root mean square of "
        "the forces (eV/Å) together with the stress per atom (eV); larger ones are scaled down",
    )
    growth: float = Field(
        4.0, ge=1, description="largest adjoint on the way back through the steps, as a multiple of that gradient"
    )
    distance: float = Field(
        0.0,
        ge=0,
        description="weight of the distance to the base: the squared difference of both velocities in Å², its mean "
        "over the atoms plus that over the lattice vectors, integrated over the time of the differentiated steps",
    )


class FlowMatchingSettings(Settings):
    """Flow matching on training crystals beside the update, which keeps the policy close to the data."""

    crystals: int = Field(64, ge=1, description="training crystals per update (learner.epochs an iteration)")
    weight: FieldWeights = Field(
        FieldWeights(pos=2.0, cell=0.1),
        description="weight of the squared error of the velocity, its mean over components: in fractional units for "
        "positions, in Å for lattices",
    )


class ReplaySettings(Settings):
    """Flow matching on the best crystals known and found (docs/polymorphs.md)."""

    crystals: int = Field(
        64, ge=1, description="examples per update (learner.epochs an iteration), of compositions in turn"
    )
    known: bool = Field(
        True,
        description="begin with the training crystals, rewarded as those found; false: learn from those found alone",
    )
    energies: str | None = Field(
        None,
        description="column of the training crystals, an energy in eV/atom, that ranks them in place of their reward; "
        "what is found is compared with the lowest of them by the difference of their rewards",
    )
    keep: int = Field(2, ge=1, description="distinct crystals kept of each composition, the best ones")
    relax: int = Field(
        5,
        ge=0,
        description="relaxation steps of every crystal before it is compared, rewarded anew and kept; 0: as generated",
    )
    temperature: float = Field(
        0.0,
        ge=0,
        description="T of the weights exp(R / T) with which the kept crystals of a composition are drawn, in units of "
        "the reward (energies: eV/atom); 0: only the best. Higher ones keep more polymorphs",
    )
    weight: FieldWeights = Field(
        FieldWeights(pos=1.0, cell=0.05), description="weight of the squared error of the velocity, as flow_matching's"
    )

    @model_validator(mode="after")
    def _ranks_what_is_known(self) -> ReplaySettings:
        if self.energies is not None and not self.known:
            raise ValueError("energies: they rank known crystals; set known=true, or leave them out")
        return self


class ObjectiveSettings(Settings):
    """Loss of a step: a weighted sum of clipped surrogate, KL to the frozen base, entropy and distillation."""

    clip: float = Field(0.28, gt=0, lt=1, description="ε: probability ratios are clipped to [1 − ε, 1 + ε]")
    position_reduction: PositionReduction = Field(
        "per_atom",
        description="none: one ratio per structure · per_structure: the same, advantage / number of atoms · per_atom: "
        "one ratio per atom, averaged over the structure",
    )
    policy_weight: FieldWeights = Field(FieldWeights(pos=2.3, cell=1.0), description="weight of the surrogate")
    kl_weight: FieldWeights = Field(FieldWeights(pos=1e-3, cell=1e-3), description="weight of the KL to the base")
    reference_noise: dict[FieldName, NoiseSettings] = Field(
        {},
        description="σ(t) of the KL's reference; a field without an entry uses that of the policy, or the initial "
        "value of learned noise; score policies always use their own",
    )
    entropy_weight: FieldWeights = Field(
        FieldWeights(pos=0, cell=0), description="weight of the negative entropy of learned noise"
    )
    distillation_weight: FieldWeights = Field(
        FieldWeights(pos=0, cell=0),
        description="weight of the squared distance between a score policy's η and the base's",
    )
    reward_gradient: RewardGradientSettings | None = Field(
        None,
        description="learn from the gradients of rewards that have one (energy, hull, volume, density), and by policy "
        "gradient only from the others; null: by policy gradient from all",
    )

    flow_matching: FlowMatchingSettings | None = Field(
        None,
        description="beside the rewards, match the flow of training crystals, at the times at which the policy acts: "
        "what the base learned of known crystals is kept; null: no",
    )
    replay: ReplaySettings | None = Field(
        None,
        description="match the flow of the best crystals known and found, which chooses basins; null: no. With weights "
        "of the policy gradient of 0 and without reward gradients, nothing else is learned from",
    )

    def matching_weight(self, source: str) -> FieldWeights:
        """Return the weights of examples from a source: MATCHING or REPLAY."""
        settings = self.flow_matching if source == MATCHING else self.replay
        assert settings is not None, f"examples without the settings of {source}"
        return settings.weight

    def needs_base(self, policy: Policy) -> bool:
        """Return whether rollouts must record the base's outputs; only a KL or distillation with weight needs them."""
        weights = (self.kl_weight, self.distillation_weight)
        return bool(policy.heads) and any(weight.of(field) > 0 for weight in weights for field in policy.active)


class LearnerSettings(Settings):
    """Optimizer and microbatches."""

    epochs: int = Field(2, ge=1, description="PPO epochs per iteration, one optimizer step each")
    lr: float = Field(1.2e-4, gt=0, description="learning rate of Adam")
    grad_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    microbatch_pairs: int = Field(
        16_000,
        ge=1,
        description="ordered pairs of atoms per network call; bounds memory and is halved if memory runs out",
    )
