"""The configuration of a run: one documented tree of keys, read from YAML, overridden by `key=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from omatg_ray.crystal.settings import CompositionSettings, DataSettings
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.flow.settings import PretrainSettings
from omatg_ray.model.variants import NAMES, VariantName, summary, variant
from omatg_ray.policy.settings import CHUNK_PAIRS, AnyHandMade, NoiseMode, NoiseSettings, ScheduleSettings
from omatg_ray.reward.settings import RewardSettings
from omatg_ray.rl.settings import AdvantageSettings, LearnerSettings, ObjectiveSettings, RolloutSettings
from omatg_ray.run.config_file import read_tree
from omatg_ray.run.location import Location, is_bundled
from omatg_ray.run.location_keys import (
    Kind,
    ModelLocation,
    RunLocation,
    ScheduleLocation,
    relocate,
)
from omatg_ray.run.tracking import Tracker
from omatg_ray.settings import FIELDS, FieldName, Settings
from omatg_ray.tree import dump


class PolicySettings(Settings):
    """The Gaussian step policy."""

    variant: VariantName = Field("velocity", description=" · ".join(map(summary, NAMES)))
    active: list[FieldName] = Field(["pos"], min_length=1, description="fields to reinforce; others follow the base")
    noise: dict[FieldName, NoiseSettings] = Field(
        {"pos": NoiseSettings(kind="sqrt", a=0.1668)}, description="σ(t) of each active field"
    )
    fixed_schedule: AnyHandMade = Field(
        None,
        description="schedule made by hand, v · (1 + s(t)): {kind: linear | quadratic | cosine | constant, pos: 5, "
        "cell: 2} with s at t = 1, and limit: 0.6 so that few steps do not overshoot; or {kind: steps, power: 2} for a "
        "grid of unequal steps",
    )
    schedule_from: ScheduleLocation | None = Field(
        None,
        description="a learned schedule (its folder, or bundled), or a model or run that learned one; used "
        "frozen, in place of `fixed_schedule`",
    )
    learned_schedule: ScheduleSettings = Field(
        ScheduleSettings(), description="the schedule that an annealing policy learns"
    )
    acts_from: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="time from which the policy acts: until then trajectories are the base's, bit for bit, and only "
        "later steps are learned from; null: as in a reinforced base, else always",
    )

    renamed: ClassVar = {
        "annealing": "fixed_schedule",
        "annealing_from": "schedule_from",
        "schedule": "learned_schedule",
    }

    @model_validator(mode="after")
    def _noise_for_active(self) -> PolicySettings:
        if len(set(self.active)) != len(self.active):
            raise ValueError("`active` names a field twice")
        missing = [field for field in self.active if field not in self.noise]
        if missing:
            raise ValueError(f"active field {missing[0]!r} has no noise; set noise.{missing[0]}.kind and .a")
        return self

    @model_validator(mode="after")
    def _acts_through_a_network(self) -> PolicySettings:
        if self.acts_from and variant(self.variant).learns_schedule:
            raise ValueError(
                "acts_from: an annealing policy acts from the start; set policy.acts_from=0, or begin with "
                "configs/annealing_energy.yaml, which learns a schedule"
            )
        return self

    @model_validator(mode="after")
    def _frozen_schedule(self) -> PolicySettings:
        frozen = [name for name in ("fixed_schedule", "schedule_from") if getattr(self, name) is not None]
        learns_schedule = variant(self.variant).learns_schedule
        if frozen and learns_schedule:
            raise ValueError(f"an annealing policy learns its own schedule; set policy.{frozen[0]}=null")
        if self.learned_schedule != ScheduleSettings() and not learns_schedule:
            raise ValueError(
                "`learned_schedule` only applies to policies of variant annealing; set policy.variant=annealing, or "
                "leave it out"
            )
        if len(frozen) == 2:
            raise ValueError(
                "give either fixed_schedule or schedule_from, not both; policy.schedule_from=null unsets it"
            )
        return self


class ValidationSettings(Settings):
    """Evaluation on the validation split during reinforcement, which decides which checkpoint is `best`."""

    every: int = Field(10, ge=1, description="iterations between validations")
    limit: int | None = Field(128, ge=1, description="crystals of the validation split to use; null: all")
    steps: int | None = Field(
        None, ge=2, description="grid points of validations and the final test; null: the first of rollout.steps"
    )
    noise: NoiseMode = Field("none", description="generate without noise or with that of the policy")
    best: Literal["reward", "match_lowest"] = Field(
        "reward",
        description="what makes a checkpoint the best. reward: the lowest capped mean of the relative energy if the "
        "energy alone is rewarded, else the highest mean reward; match_lowest: the largest share of crystals that are "
        "closest to the lowest of several known polymorphs",
    )
    match_timeout: float = Field(10.0, gt=0, description="seconds that one structure match may take")
    chunk_pairs: int = Field(CHUNK_PAIRS, ge=1, description="ordered pairs of atoms per network call when generating")
    block: int = Field(BLOCK, ge=1, description="crystals generated and measured together, by one process")


class FinalTestSettings(Settings):
    """The comparison of base and best checkpoint on the test split, with which a run of reinforcement ends."""

    limit: int | None = Field(
        None,
        ge=0,
        description="crystals of the test split that the final test uses, spread over the file; null: all; 0 (or the "
        "short form test=false): no test",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, values: Any) -> Any:
        if isinstance(values, bool):
            return {"limit": None if values else 0}
        return values


class CheckpointSettings(Settings):
    """Checkpoints of a run."""

    every: int = Field(10, ge=1, description="iterations between checkpoints (the last one is always written)")
    keep: int = Field(3, ge=1, description="checkpoints kept besides best and last")


class Config(Settings):
    """Everything a run needs. `pretrain` reads data and pretrain; `train` all but pretrain."""

    hints_within: ClassVar[Mapping[str, frozenset[str]]] = {
        "pretrain": frozenset(["pretrain", "data", "run", "seed", "device", "threads", "checkpoint", "tracking", "ray"])
    }

    run: RunLocation = Field(
        Path("runs/run"), description="run folder, created by the run; or a URL such as s3://bucket/runs/better"
    )
    seed: int = Field(0, ge=0, description="seed of all random numbers")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N; actors use ray.*.gpus instead")
    threads: int | None = Field(
        None, ge=1, description="PyTorch's CPU threads of this process; null: PyTorch's choice; actors: ray.*.threads"
    )
    workers: int = Field(2, ge=0, description="processes that match structures; 0: this process; unused with actors")
    data: DataSettings = Field(DataSettings(), description="crystals; null for train: the splits of the base's run")
    pretrain: PretrainSettings = Field(PretrainSettings(), description="pretraining of the base model")
    base: ModelLocation | None = Field(
        None,
        description="model to reinforce: a model folder, a run folder, the URL of one, a model published "
        "by OMatG (OMatG/MP-20-CSP/Linear-ODE), or bundled (the base of the package, with its crystals)",
    )
    iterations: int = Field(300, ge=0, description="rollout iterations")
    compositions: CompositionSettings | None = Field(
        None, description="cells to sample, in place of those of the training crystals"
    )
    rollout: RolloutSettings = Field(RolloutSettings(), description="what one iteration samples")
    policy: PolicySettings = Field(PolicySettings(), description="the policy")
    reward: RewardSettings = Field(RewardSettings(), description="the reward")
    advantage: AdvantageSettings = Field(AdvantageSettings(), description="from rewards to advantages")
    objective: ObjectiveSettings = Field(ObjectiveSettings(), description="the PPO objective")
    learner: LearnerSettings = Field(LearnerSettings(), description="optimizer and microbatches")
    validation: ValidationSettings = Field(ValidationSettings(), description="evaluation during training")
    test: FinalTestSettings = Field(FinalTestSettings(), description="test of base and best checkpoint at the end")
    checkpoint: CheckpointSettings = Field(CheckpointSettings(), description="checkpoints")
    tracking: list[Tracker] = Field(
        [],
        description="services that receive the metrics: wandb, mlflow (extras of the package); TensorBoard always does",
    )
    ray: RaySettings = Field(RaySettings(), description="actors on a Ray cluster; without workers: this process alone")

    @model_validator(mode="after")
    def _weights_that_count(self) -> Config:
        learned = [field for field in self.policy.active if self.policy.noise[field].kind == "learned"]
        stochastic = variant(self.policy.variant).stochastic
        for field, noise in self.objective.reference_noise.items():
            key = f"objective.reference_noise.{field}"
            if noise.kind == "learned":
                raise ValueError(f"{key}: a reference learns nothing; take kind constant or sqrt")
            if stochastic or field not in self.policy.active:
                why = (
                    "score policies have their own noise there"
                    if field in self.policy.active
                    else "the field is frozen"
                )
                raise ValueError(f"{key}: {why}; leave it out")
        for field in FIELDS:
            if self.objective.entropy_weight.of(field) and field not in learned:
                raise ValueError(
                    f"objective.entropy_weight.{field}: only learned noise has an entropy to raise; set "
                    f"policy.noise.{field}.kind=learned, or the weight to 0"
                )
            if self.objective.distillation_weight.of(field) and not stochastic:
                raise ValueError(
                    f"objective.distillation_weight.{field}: only score policies have a denoiser; set "
                    "policy.variant=score, or the weight to 0"
                )
        return self

    @model_validator(mode="after")
    def _learned_from(self) -> Config:
        by, points = self.objective.reward_gradient, min(self.rollout.turns)
        if by is not None and not any(self.reward.differentiable.values()):
            raise ValueError(
                "objective.reward_gradient: no reward with a weight has a gradient (energy, hull, volume and density "
                "have, energies only without reward.relax_steps); set objective.reward_gradient=null, or give one of "
                "these a weight"
            )
        if by is not None and variant(self.policy.variant).learns_schedule:
            raise ValueError(
                "objective.reward_gradient: schedules are learned by policy gradient alone, since gradients explode on "
                "the way back through all steps; set objective.reward_gradient=null, or take policy.variant=velocity"
            )
        learned = [field for field in self.policy.active if self.policy.noise[field].kind == "learned"]
        if by is not None and (variant(self.policy.variant).stochastic or (learned and not self.by_policy)):
            what = f"policy.noise.{learned[0]}.kind=learned" if learned else "policy.variant=score"
            raise ValueError(
                f"objective.reward_gradient: it learns velocities, and nothing of {what}; set it to null, or take "
                f"{'noise of another kind' if learned else 'policy.variant=velocity'}"
            )
        if by is not None and by.transitions >= points:
            raise ValueError(
                f"objective.reward_gradient.transitions = {by.transitions}: trajectories over {points} grid points "
                f"have {points - 1} Euler steps"
            )
        matched = {"flow_matching": self.objective.flow_matching, "replay": self.objective.replay}
        kind = variant(self.policy.variant)
        for name, settings in matched.items():
            if settings is None:
                continue
            if kind.learns_schedule or kind.stochastic:
                what = "its denoiser would go its own way" if kind.stochastic else "it leaves these as they are"
                raise ValueError(
                    f"objective.{name}: it trains velocities, and {what} with policy.variant={self.policy.variant}; "
                    f"set objective.{name}=null, or take policy.variant=velocity"
                )
            if not any(settings.weight.of(field) for field in self.policy.active):
                raise ValueError(
                    f"objective.{name}.weight: it is 0 for all active fields ({', '.join(self.policy.active)}); "
                    f"give one of them a weight, or set objective.{name}=null"
                )
        replay = self.objective.replay
        if replay is not None and replay.relax and self.reward.potential is None:
            raise ValueError(
                "objective.replay.relax: relaxing needs a potential; name one (reward.potential=...), or set "
                "objective.replay.relax=0"
            )
        if replay is not None and replay.energies is not None and not self.reward.is_energy:
            raise ValueError(
                "objective.replay.energies: they rank known crystals in eV/atom, and found ones are compared with them "
                "by the reward, so it has to be the energy alone (reward.weights={energy: 1}); set it to null"
            )
        if by is None and replay is None and not self.by_policy:
            raise ValueError(
                "objective.policy_weight: it is 0 for all active fields, so nothing would be learned from rewards; "
                "give one a weight, or set objective.reward_gradient or objective.replay"
            )
        if self.rollout.group_size == 1 and self.by_policy:
            without = [name for name, offered in self.reward.differentiable.items() if not offered]
            why = f"{', '.join(without)} has no gradient and is learned by policy gradient, which compares"
            if by is None:
                why = "a policy gradient (objective.reward_gradient is null) compares"
            raise ValueError(
                f"rollout.group_size: {why} the members of a group; take at least 2, for example "
                "rollout='{groups: 8, group_size: 8, groups_per_item: 8}', or start from configs/bundled_velocity.yaml"
            )
        return self

    @property
    def by_policy(self) -> bool:
        """Whether the policy gradient is used: without reward gradients, and for rewards without a gradient.

        A replay learns from all rewards, so beside one the policy gradient may have no weight.
        """
        if not any(self.objective.policy_weight.of(field) for field in self.policy.active):
            return False
        return self.objective.reward_gradient is None or not all(self.reward.differentiable.values())

    @property
    def validated_steps(self) -> int:
        """Grid points of validations and of the final test."""
        return self.validation.steps or self.rollout.turns[0]

    @classmethod
    def load(cls, path: Location | None = None, overrides: Sequence[str] = ()) -> Config:
        """Read a YAML file, which may be at a URL, and apply `key=value` overrides, e.g. `rollout.groups=8`.

        If neither names a run folder, it is `runs/<name of the file>`.

        Raises:
            ConfigError: The file cannot be read, or a key is unknown, mistyped or out of range. The message names the
                key and, for unknown keys, the nearest valid one.
            StorageError: A URL cannot be read.
        """
        tree, source = read_tree(path, overrides, cls)
        if path is not None:
            tree.setdefault("run", f"runs/{Path(path).stem}")
        return cls.from_tree(tree, source)

    def resolved(self) -> Config:
        """Return the same configuration with absolute paths, so that any working directory can resume the run."""

        def absolute(key: str, location: Location, kind: Kind) -> Location:
            if kind == "potential" and not is_bundled(location) and Path(location).is_dir():
                return str(Path(location).absolute())
            return location.absolute() if isinstance(location, Path) and kind != "run" else location

        here = relocate(self, absolute)
        custom = {
            name: term.model_copy(update={"path": term.path or Path.cwd()}) for name, term in here.reward.custom.items()
        }
        return here.model_copy(update={"reward": here.reward.model_copy(update={"custom": custom})})

    def to_yaml(self) -> str:
        """Return all keys with their values as YAML; `load` reads it back."""
        return dump(self.model_dump(mode="json"))
