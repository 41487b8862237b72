"""What to try after a reinforcement: commands that work as they are printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omatg_ray.commands.setup import free_run
from omatg_ray.config import Config
from omatg_ray.run.storage import as_place

# Ray's actors of the command below: a learner, a judge and two that roll out.
ROLLOUT_WORKERS = 2


def next_steps(config: Config, rows: list[dict[str, Any]], generates_species: bool = False) -> str:
    """Commands for a run that has ended, a comment before each.

    Args:
        config: The run.
        rows: Its evaluations on the test split, as `Evaluation.as_dict` gives them.
        generates_species: Whether its model takes numbers of atoms instead of formulas.
    """
    run = str(config.run)
    # The formula with the most polymorphs: there is something to tell apart.
    formula, _ = Counter(rows[0]["per_structure"]["formula"]).most_common(1)[0]
    what = ["--atoms", 8] if generates_species else ["--formula", formula]
    out = "new.extxyz" if generates_species else f"{formula}.extxyz"
    potential = config.resolved().reward.potential
    energies = [] if potential is None else ["--potential", potential]
    steps = max(2, config.rollout.steps // 2)
    lines = [
        "What to try next",
        "  # new crystals, ranked by energy",
        _line("generate", run, *what, "-n", 16, "--steps", config.rollout.steps, *energies, "--out", out),
        f"  # as good with {steps} grid points?",
        _line("evaluate", run, "--data", f"{run}/data/test.extxyz", "--steps", steps),
        "  # more iterations",
        _line("train", "--resume", run, f"iterations={2 * config.iterations}"),
    ]
    if not config.ray.rollout.workers:
        smaller = ", in smaller items" if _groups_per_item(config) < config.rollout.groups_per_item else ""
        lines += [f"  # another run, on Ray actors{smaller}", _line("train", f"{run}/config.yaml", *_on_ray(config))]
    return "\n".join([*lines, "  # curves, energies and crystals, in a browser", f"  {run}/report.html"])


def _groups_per_item(config: Config) -> int:
    """As in the run, unless an iteration would then have fewer items than workers."""
    return min(config.rollout.groups_per_item, -(-config.rollout.groups // ROLLOUT_WORKERS))


def _on_ray(config: Config) -> Iterable[str]:
    """Overrides that spread the run over actors of this machine."""
    share = min(1.0, (os.cpu_count() or 1) / (ROLLOUT_WORKERS + 2))
    yield f"run={free_run(as_place(f'{config.run}-ray'))}"
    if _groups_per_item(config) < config.rollout.groups_per_item:
        yield f"rollout.groups_per_item={_groups_per_item(config)}"
    yield f"ray.rollout.workers={ROLLOUT_WORKERS}"
    if share < 1.0:
        yield from (f"ray.{role}.cpus={share:g}" for role in ("rollout", "reward", "learner"))
    if config.device.startswith("cuda"):
        yield "device=auto"


def _line(*words: object) -> str:
    return f"  {program()} {shlex.join(map(str, words))}"


def program() -> str:
    """How to call this program: by its name where the shell finds it, by its path where it does not."""
    script, known = Path(sys.executable).with_name("omatg-ray"), shutil.which("omatg-ray")
    if known is not None and (not script.is_file() or os.path.samefile(known, script)):
        return "omatg-ray"
    if not script.is_file():
        return f"{shlex.quote(sys.executable)} -m omatg_ray"
    here = Path.cwd()
    return shlex.quote(str(script.relative_to(here) if script.is_relative_to(here) else script))
