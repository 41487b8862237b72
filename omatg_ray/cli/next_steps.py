"""Suggestions after a reinforcement run: commands that work as printed."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omatg_ray.assets import polymorphs, set_with
from omatg_ray.cli.ranked import RELAX_STEPS
from omatg_ray.config import Config
from omatg_ray.crystal.fields import FIELDS
from omatg_ray.crystal.formula import parse_formula
from omatg_ray.model.variants import variant
from omatg_ray.run.location import BUNDLED, BundledName, Location
from omatg_ray.run.state import free_run
from omatg_ray.tree import override

# The suggested command uses four Ray actors: a learner, one that scores and two that roll out.
ROLLOUT_WORKERS = 2
FINE_STEPS, MANY_TIMES = 50, 10
NOT_IMPROVED = """\
Reinforcement did not improve validation: the best checkpoint is the model as it was before, and the table compares it
with itself, and with the last one. What to try next: more iterations, or smaller steps"""


def next_steps(
    config: Config,
    rows: list[dict[str, Any]],
    cell: str,
    generates_species: bool = False,
    improved: bool = True,
) -> str:
    """Return commands to try after a finished run, each after a comment.

    Args:
        config: The run.
        rows: Its evaluations on the test split, as `Evaluation.as_dict` gives them; empty without a test.
        cell: Formula of a cell of its crystals, to generate more of.
        generates_species: Whether its model takes numbers of atoms instead of formulas.
        improved: Whether any validation was better than the one before reinforcement.
    """
    run = str(config.run)
    formula, z = reduced(cell)
    n_atoms = sum(parse_formula(cell).values())
    what = ["--atoms", n_atoms] if generates_species else ["--formula", formula, *(["--z", z] if z > 1 else [])]
    out = "new.extxyz" if generates_species else f"{formula}.extxyz"
    potential = config.resolved().reward.potential
    energies = [] if potential is None else ["--potential", potential, "--relax", RELAX_STEPS]
    trained = config.rollout.turns[0]
    steps = max(FINE_STEPS, trained)
    # The bundled schedule suits few and many points; the linear slopes of training suit only few.
    of = set_with("schedule", config.base)
    schedule = [] if of is None else ["--schedule", of]
    finer = ["--steps", steps, *schedule]
    annealed = "" if schedule else _describe_slopes(rows[1:])
    if config.policy.schedule_from is not None:
        # Another schedule would replace the one that it was reinforced with.
        finer, annealed = ["--steps", steps], " (annealed as in the run)"
    compared, comparison = finer, f"with {steps} grid points in place of {trained}"
    if variant(config.policy.variant).learns_schedule:
        # The schedule was learned for few steps; compare with many steps without it.
        finer, annealed, many = ["--steps", trained], " (annealed as learned)", MANY_TIMES * trained
        compared, comparison = ["--steps", many, "--schedule", "none"], f"with {many} grid points and no schedule"
    uses = [
        f"  # new crystals{', relaxed and ranked by energy' if energies else ''}{annealed}",
        _line("generate", run, *what, "-n", 16, *finer, *energies, "--out", out),
        f"  # the test split {comparison}",
        _line("evaluate", run, "--data", f"{run}/data/test.extxyz", *compared),
    ]
    if config.objective.replay is not None:
        uses[2:2] = [
            "  # more of the lowest polymorph, and one crystal in eight of the others (docs/polymorphs.md)",
            _line(
                "generate", run, *what, "-n", 16, "--steps", trained, "--guidance", "2:7,-1", *energies, "--out", out
            ),
        ]
    elif of is not None:
        uses += ["  # which of several polymorphs: learn to choose the lowest", _line("train", *_choosing(of))]
    more = ["  # more iterations", _line("train", "--resume", run, f"iterations={2 * config.iterations}")]
    lines = ["What to try next", *uses, *more]
    if not improved:  # Its best checkpoint generates what the base does.
        other = _beside(config.run, "-slower")
        groups, members = config.rollout.groups, config.rollout.group_size
        larger = f"rollout.group_size={2 * members}" if config.by_policy else f"rollout.groups={2 * groups}"
        keys = [override("run", other), f"learner.lr={config.learner.lr / 2:g}", larger]
        what_is_larger = "larger groups" if config.by_policy else "more compositions an iteration"
        lines = [
            NOT_IMPROVED,
            *more,
            f"  # smaller steps, and {what_is_larger}, which depend less on luck",
            _line("train", f"{run}/config.yaml", *keys),
        ]
    if not config.ray.rollout.workers:
        smaller = ", in smaller items" if _groups_per_item(config) < config.rollout.groups_per_item else ""
        lines += [f"  # another run, on Ray actors{smaller}", _line("train", f"{run}/config.yaml", *_on_ray(config))]
    return "\n".join([*lines, "  # curves, energies and crystals, in a browser", f"  {run}/report.html"])


def _choosing(of: BundledName) -> Iterable[object]:
    """Yield the configuration that learns to choose polymorphs, and the keys that take it to a bundled set."""
    file, here = polymorphs(), Path.cwd()
    yield file.relative_to(here) if file.is_relative_to(here) else file
    if of != BUNDLED:
        yield from (override(key, of) for key in ("base", "reward.potential", "policy.schedule_from"))


def reduced(cell: str) -> tuple[str, int]:
    """Split a cell's formula into formula units: 'Ti2O4' is ('TiO2', 2)."""
    counts = parse_formula(cell)
    z = math.gcd(*counts.values())
    return "".join(f"{symbol}{n // z if n > z else ''}" for symbol, n in counts.items()), z


def _describe_slopes(rows: list[dict[str, Any]]) -> str:
    """Describe the slopes that the model of a run brings with it; return an empty text if it has none."""
    schedule = (rows[0].get("annealing") if rows else None) or {}
    slopes = [f"{schedule[field]:g}" for field in FIELDS if isinstance(schedule.get(field), float)]
    limit = f", limit {schedule['limit']:g}" if schedule.get("limit") else ""
    return f" (annealed as in the run, slopes {' / '.join(slopes)}{limit})" if slopes else ""


def _groups_per_item(config: Config) -> int:
    """Return the value of the run, lowered if an iteration would otherwise have fewer items than workers."""
    return min(config.rollout.groups_per_item, -(-config.rollout.groups // ROLLOUT_WORKERS))


def _on_ray(config: Config) -> Iterable[str]:
    """Yield overrides that spread the run over actors of this machine."""
    share = min(1.0, (os.cpu_count() or 1) / (ROLLOUT_WORKERS + 2))
    yield override("run", _beside(config.run, "-ray"))
    if _groups_per_item(config) < config.rollout.groups_per_item:
        yield f"rollout.groups_per_item={_groups_per_item(config)}"
    yield f"ray.rollout.workers={ROLLOUT_WORKERS}"
    if share < 1.0:
        yield from (f"ray.{role}.cpus={share:g}" for role in ("rollout", "reward", "learner"))
    if config.device.startswith("cuda"):
        yield "device=auto"


def _beside(run: Location, suffix: str) -> Location:
    """Return a free run folder with this run's name and a suffix."""
    return free_run(f"{run}{suffix}" if isinstance(run, str) else run.with_name(f"{run.name}{suffix}"))


def _line(*words: object) -> str:
    return f"  {program()} {shlex.join(map(str, words))}"


def program() -> str:
    """Return how to call this program: by name if the shell finds it, else by its path."""
    script, known = Path(sys.executable).with_name("omatg-ray"), shutil.which("omatg-ray")
    if known is not None and (not script.is_file() or os.path.samefile(known, script)):
        return "omatg-ray"
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m omatg_ray"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))
