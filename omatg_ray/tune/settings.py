"""Settings of a sweep (`omatg-ray tune`): what varies, how trials are scheduled and chosen. Read from a YAML file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from omatg_ray.assets import quickstart
from omatg_ray.config import Config
from omatg_ray.distributed.settings import RaySettings, Share
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.metrics import REWARD, CSPMetrics, is_relaxed
from omatg_ray.hints import hint_at
from omatg_ray.run.advice import command, install
from omatg_ray.run.config_file import read_tree
from omatg_ray.run.job_paths import path_to_keep
from omatg_ray.run.location import BUNDLED, Location, as_location, is_remote
from omatg_ray.run.location_keys import LocalFolder
from omatg_ray.settings import Settings, current_key, current_names
from omatg_ray.tree import flatten, set_key
from omatg_ray.tune.guards import GuardSettings
from omatg_ray.tune.results import TRIALS, TRIALS_FILE, Goal
from omatg_ray.tune.schedulers import SchedulerSettings
from omatg_ray.tune.space import Domain

SWEEP_FILE = "sweep.yaml"
DEFAULT_METRIC = "relative_energy_mean_capped"
METRICS = [
    field.name
    for field in fields(CSPMetrics)
    if field.name not in ("n", "n_polymorphic", "coverage_at") and not is_relaxed(field.name)
]
HIGHER = frozenset(
    {"match_rate", "match_any", "match_lowest", "metre", "coverage", "unique_share", "unique_structures", REWARD}
    | {"plausible_share", "plausible_match_rate", "same_composition"}
)
"""Metrics for which more is better."""
MUTABLE = ("learner", "objective", "policy.noise", "advantage")
"""Groups of keys that population-based training may change during a run."""
MOST_CORNERS = 1024
"""Most combinations of values that are built to check that a sweep can be run."""
OF_THE_SWEEP = ("run", "device", "threads", "workers", "ray.address", "ray.pretrain", "checkpoint", "tracking")
"""Keys that a space cannot have: the sweep sets them for its trials, or they do not affect what is learned."""


def _flatten_domains(space: Any, prefix: str = "") -> Any:
    """Map dotted keys to domains, also for nested groups of keys, as `space.learner.lr.uniform=...` gives them."""
    if not isinstance(space, dict):
        return space
    domains: dict[str, Any] = {}
    for key, value in space.items():
        if not isinstance(value, dict | list | Domain) and key not in Domain.model_fields:
            raise ValueError(
                f"space.{prefix}{key}: give a domain such as {{uniform: [low, high]}}, not {value!r}; for one value "
                f"that all trials share, set overrides.{prefix}{key}"
            )
        is_group = isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values())
        if isinstance(value, dict) and not is_group:
            _flatten_domains(value, f"{prefix}{key}.")
        domains |= _flatten_domains(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return domains if prefix else dict(current_key(Config, str(key), value) for key, value in domains.items())


def _as_list(metric: Any) -> Any:
    return [metric] if isinstance(metric, str) else metric


class SweepSettings(Settings):
    """A sweep: one reinforcement run for each choice of values of some keys."""

    run: LocalFolder = Field(
        Path("runs/sweep"), description="folder of the sweep, with a run folder for each trial; not a URL"
    )
    config: Location | dict[str, Any] = Field(
        description="config file of the runs, its URL, or its keys; bundled: that of `omatg-ray train` "
        "(configs/quickstart.yaml)"
    )
    overrides: dict[str, Any] = Field({}, description="keys that all trials use in place of those of `config`")
    space: Annotated[dict[str, Domain], BeforeValidator(_flatten_domains)] = Field(
        min_length=1,
        description="what varies: config keys, such as learner.lr, each with a domain: {uniform: [a, b]}, "
        "{loguniform: [a, b]}, {quniform: [a, b, step]}, {randint: [a, b]} (b excluded), {choice: [...]}, "
        "{grid: [...]}",
    )
    trials: int = Field(16, ge=1, description="trials; if the space has grids, for each of their combinations")
    concurrent: int | None = Field(None, ge=1, description="trials at a time; null: as many as the cluster can hold")
    metric: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        [DEFAULT_METRIC],
        min_length=1,
        description="validation metric that decides; or several, to search for their Pareto front (search: optuna)",
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="min: less is better, max: more; null: what suits the metric"
    )
    scheduler: SchedulerSettings = Field(SchedulerSettings(), description="which trials continue")
    search: Literal["random", "grid", "optuna"] = Field(
        "random",
        description="random; grid: all combinations of grids and choices, once; optuna: TPE (needs the extra `sweep`)",
    )
    retries: int = Field(2, ge=0, description="how often a trial that lost a process resumes from its checkpoint")
    seed: int = Field(0, ge=0, description="seed of the search; the seed of the runs is a key of their config")
    trial: Share = Field(
        Share(),
        description="resources of a trial's process, which does all the work, or leads the actors (ray.*)",
    )
    guards: GuardSettings = Field(GuardSettings(), description="what marks a validation as reward hacking")
    exclude_hacked: bool = Field(True, description="leave out validations that a guard objects to")

    @field_validator("config", mode="before")
    @classmethod
    def _resolve_config(cls, config: Any) -> Any:
        if config == BUNDLED:
            return quickstart()
        return as_location(config) if isinstance(config, str) else config

    @model_validator(mode="after")
    def _sensible(self) -> SweepSettings:
        for key, domain in self.space.items():
            if key.startswith(OF_THE_SWEEP):
                raise ValueError(f"space.{key}: trials cannot differ in this key")
            if domain.kind == "grid" and self.search == "optuna":
                raise ValueError(f"space.{key}: optuna samples and has no grids; use choice")
            if domain.kind not in ("grid", "choice") and self.search == "grid":
                raise ValueError(f"space.{key}: with search=grid every key needs a grid or a choice")
        if self.scheduler.kind == "pbt":
            if self.search != "random":
                raise ValueError("scheduler.kind: pbt mutates the values of a random search; set search=random")
            if not self.mutable:
                raise ValueError(f"space: pbt has nothing to mutate; it changes only keys of {', '.join(MUTABLE)}")
        return self

    @model_validator(mode="after")
    def _known_metric(self) -> SweepSettings:
        known = [*METRICS, REWARD]
        for metric in self.metric:
            if metric not in known:
                hint = hint_at(metric, known, f"known are {', '.join(known)}", cutoff=0.4)
                raise ValueError(f"metric: validations have no {metric}; {hint}")
        return self

    @model_validator(mode="after")
    def _several_metrics(self) -> SweepSettings:
        if len(self.metric) == 1:
            return self
        if len(set(self.metric)) < len(self.metric):
            raise ValueError(f"metric: name each once, not {', '.join(self.metric)}")
        if self.search != "optuna":
            raise ValueError(f"search: only optuna can search for the front of several metrics, not {self.search}")
        if self.scheduler.kind != "none":
            raise ValueError(
                f"scheduler.kind: {self.scheduler.kind} compares by one metric; with several, all trials run to "
                "their end: set scheduler.kind=none"
            )
        if self.mode is not None:
            raise ValueError("mode: with several metrics each has its own; leave it out")
        return self

    @property
    def goals(self) -> list[Goal]:
        """The metrics that decide, each with whether less or more is better."""
        return [Goal(metric, self.mode or ("max" if metric in HIGHER else "min")) for metric in self.metric]

    @property
    def expected(self) -> int:
        """Total number of trials."""
        grids = [domain for domain in self.space.values() if domain.kind == "grid" or self.search == "grid"]
        return math.prod(len(domain.values) for domain in grids) * (1 if self.search == "grid" else self.trials)

    @property
    def mutable(self) -> dict[str, Domain]:
        """The keys of the space that population-based training may change during a run."""
        return {key: domain for key, domain in self.space.items() if key.startswith(MUTABLE)}

    @property
    def ray(self) -> RaySettings:
        """The cluster."""
        return self.with_values({}, self.run).ray

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The keys of all trials, without those that vary.

        Raises:
            ConfigError: The config file cannot be read, or an override is below a value.
        """
        # Overrides are applied to this copy, never to the settings.
        if isinstance(self.config, dict):
            tree = current_names(Config, deepcopy(self.config))
        else:
            tree, _ = read_tree(self.config, [], Config)
        for key, value in flatten(self.overrides).items():
            try:
                set_key(tree, *current_key(Config, key, value))
            except ConfigError as error:
                raise ConfigError(f"overrides.{key}: {error}") from error
        return tree

    def with_values(self, values: Mapping[str, Any], run: Path) -> Config:
        """Return the configuration of a trial.

        Args:
            values: Values of the keys of the space.
            run: Run folder of the trial.

        Raises:
            ConfigError: There is no such key, or it cannot have this value; names both.
        """
        tree = deepcopy(self.tree) | {"run": str(run)}
        for key, value in values.items():
            try:
                set_key(tree, *current_key(Config, key, value))
            except ConfigError as error:
                raise ConfigError(f"space.{key}: {error}") from error
        chosen = ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
        )
        return Config.from_tree(tree, f"space ({chosen})" if chosen else "config")

    def check(self) -> list[Config]:
        """Build configurations at the ends of the domains, and refuse what could not be run.

        Raises:
            ConfigError: As `with_values`; or Optuna is asked for and not installed; or the number of actors is not
                fixed.
        """
        if self.search == "optuna" and find_spec("optuna") is None:
            raise ConfigError(f"search: optuna is not installed here: {install('sweep')}")
        self.with_values({}, self.run)
        configs = [self.with_values(values, self.run) for values in self.corners()]
        # A range between whole numbers holds fractions, which integer keys reject.
        self.with_values({key: domain.inside for key, domain in self.space.items()}, self.run)
        if any(share.max_workers for config in configs for share in (config.ray.rollout, config.ray.reward)):
            raise ConfigError("ray.*.max_workers: a trial reserves room for a fixed number of actors; leave it out")
        return configs

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield values at the ends of all domains, in all combinations unless there are too many."""
        ends = {key: domain.ends for key, domain in self.space.items()}
        if math.prod(map(len, ends.values())) <= MOST_CORNERS:
            for values in itertools.product(*ends.values()):
                yield dict(zip(ends, values, strict=True))
            return
        first = {key: several[0] for key, several in ends.items()}
        for key, several in ends.items():
            for value in several:
                yield first | {key: value}

    @classmethod
    def load(cls, path: Location, overrides: Sequence[str] = ()) -> SweepSettings:
        """Read a YAML file and apply `key=value` overrides.

        Raises:
            ConfigError: The file cannot be read, or a key is unknown, mistyped or out of range; names the key.
        """
        tree, source = read_tree(path, overrides, cls)
        if "config" not in tree and "space" not in tree and set(tree) & set(Config.model_fields) - {"run", "seed"}:
            raise ConfigError(
                f"{path} configures a run of train; a sweep needs a file of its own that names it (config: {path}) and "
                "says what to vary (space), such as configs/sweep_velocity.yaml"
            )
        tree.setdefault("run", f"runs/{Path(path).stem}")
        return cls.from_tree(tree, source)


def refuse_taken_by_sweep(settings: SweepSettings) -> Path:
    """Return the folder of a new sweep. A sweep that has ended before its first trial may be started anew.

    Raises:
        ConfigError: It holds a sweep already.
    """
    folder = path_to_keep(settings.run).absolute()
    if (folder / TRIALS_FILE).exists() or any(folder.glob(f"{TRIALS}/*")):
        raise ConfigError(
            f"{folder} already holds a sweep; choose another name, or resume it: "
            f"{command('tune', '--resume', settings.run)}"
        )
    return folder


def folder_of_sweep(run: Location) -> Path:
    """Return the folder of a sweep to resume.

    Raises:
        ConfigError: There is none.
    """
    if is_remote(run):
        raise ConfigError(f"--resume: a sweep is a local folder, not the URL {run}")
    folder = path_to_keep(Path(run)).absolute()
    if not (folder / SWEEP_FILE).is_file():
        raise ConfigError(f"there is no sweep to resume in {folder}: no {SWEEP_FILE}")
    return folder
