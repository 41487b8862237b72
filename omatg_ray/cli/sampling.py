"""Options of the verbs that generate crystals, and their conversion."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from omatg_ray.cli.arguments import number, numbers, path_or_word, weights
from omatg_ray.errors import ConfigError
from omatg_ray.run.location import BUNDLED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from omatg_ray.model.sampling import Sampling
    from omatg_ray.policy.schedule import Schedule


def sampling_arguments(sub: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the options of generation: one model, or several at several numbers of grid points."""
    sub.add_argument(
        "models" if several else "model",
        nargs="*" if several else None,
        type=path_or_word,
        metavar="MODEL",
        help="model folder, run folder (its best checkpoint), URL of one, or bundled (the best of the package; "
        "bundled/base: the model that it was reinforced from)",
    )
    sub.add_argument(
        "--steps",
        type=numbers if several else number(int, 2),
        default=[50] if several else 50,
        metavar="N,..." if several else "N",
        help="points of the time grid; N - 1 network evaluations (default 50)",
    )
    sub.add_argument(
        "--noise",
        choices=["none", "policy"],
        default="none",
        help="without noise or with that of the trained policy (default none)",
    )
    sub.add_argument(
        "--solver",
        default="euler",
        metavar="NAME",
        help="a method of torchdiffeq in place of euler, e.g. midpoint, rk4, dopri5 (adaptive: chooses its own steps); "
        "without noise",
    )
    slope: dict[str, Any] = {"type": number(float, -1), "metavar": "S"}
    sub.add_argument(
        "--slope-pos",
        help="multiply the velocity of positions by 1 + S t, in place of the model's own schedule; a base model of "
        "your own has none, and for that of bundled-prototypes 5, with 2 for lattices, is much better at 50 points",
        **slope,
    )
    sub.add_argument("--slope-cell", help="the same for lattices; if only one is given, the other is 0", **slope)
    sub.add_argument(
        "--schedule",
        action="append",
        type=path_or_word,
        metavar="SCHEDULE",
        help="schedule in place of the model's own: none, linear:pos=5,cell=2 (also with limit=0.6, for few steps), "
        "quadratic:..., cosine:..., constant:..., steps:power=2, bundled, or the folder of a learned schedule or of "
        "the run that learned it "
        f"(default: own){'; repeat it for several' if several else ''}",
    )
    sub.add_argument(
        "--guidance",
        action="append",
        type=weights,
        metavar="W,...",
        help="strength of what reinforcement changed: 0 is the base, 1 the model as trained (default), more goes "
        "further in that direction, below 0 away from it; crystals take turns with several: 2:7,-1 (seven of 2, then "
        "one of -1) finds more polymorphs than 2; if the first is below 0, write --guidance=-1,2"
        f"{'; repeat it for several rows' if several else ''}",
    )
    sub.add_argument("--seed", type=number(int, 0), default=0, metavar="N", help="seed of start and noise (default 0)")
    comparison_arguments(sub)
    sub.add_argument(
        "--threads", type=number(int, 1), metavar="N", help="PyTorch's CPU threads (default: PyTorch's choice)"
    )
    sub.add_argument(
        "--chunk-pairs",
        type=number(int, 1),
        metavar="N",
        help="ordered pairs of atoms per network call; bounds memory (default 20,000)",
    )
    sub.add_argument(
        "--block",
        type=number(int, 1),
        metavar="N",
        help="crystals generated and measured together, by one actor if there are several (default 256; search: 8)",
    )
    sub.add_argument(
        "--ray",
        metavar="KEY=VALUE,...",
        help="generate and measure on Ray actors: rollout.workers=4,reward.workers=2,rollout.gpus=1 (keys of "
        "`omatg-ray config ray`)",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")


def workers_argument(sub: argparse.ArgumentParser) -> None:
    """Add the number of processes that compare crystals."""
    sub.add_argument(
        "--workers",
        type=number(int, 0),
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that compare structures; 0: this one (default: one per core)",
    )


def comparison_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the options of verbs that compare crystals: processes, time limit, device."""
    workers_argument(sub)
    sub.add_argument(
        "--timeout",
        type=number(float, 0, above=True),
        default=10.0,
        metavar="SECONDS",
        help="longest time for one comparison, which then counts as no match (default 10)",
    )
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto: a GPU if there is one)")


def sampling_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `sampling_arguments`, and the potential, as arguments of `SamplingOptions`."""
    from omatg_ray.train.job import find_input

    model = find_input(arguments.model, "MODEL")
    for name in ("schedule", "guidance"):
        if len(given := getattr(arguments, name) or ()) > 1:
            raise ConfigError(f"give one --{name}, not {len(given)}")
    (sampling,) = read_samplings(arguments, [arguments.steps])
    return {"model": model, "sampling": sampling[1], **work_options(arguments)}


def read_samplings(arguments: argparse.Namespace, steps: Iterable[int]) -> list[tuple[str, Sampling]]:
    """Return every schedule at every number of grid points and guidance, each with the schedule's name in tables."""
    from omatg_ray.model.sampling import UNGUIDED, Sampling

    return [
        (name, Sampling(points, schedule, arguments.noise, arguments.solver, guidance))
        for name, schedule in dict(read_schedules(arguments)).items()
        for points in steps
        for guidance in dict.fromkeys(arguments.guidance or [UNGUIDED])
    ]


def read_schedules(arguments: argparse.Namespace) -> list[tuple[str, Schedule | None]]:
    """Return the schedules with their names; None is the model's own."""
    from omatg_ray.model.schedule import brief
    from omatg_ray.policy.hand_made import LinearSchedule

    slopes = (arguments.slope_pos, arguments.slope_cell)
    if arguments.schedule is not None:
        if slopes != (None, None):
            raise ConfigError("--schedule: give either this or --slope-pos and --slope-cell, which define a linear one")
        return [(text, _schedule(text)) for text in arguments.schedule]
    if slopes == (None, None):
        return [("own", None)]
    schedule = LinearSchedule(pos=slopes[0] or 0.0, cell=slopes[1] or 0.0)
    return [(brief(schedule), schedule)]


def _schedule(text: str) -> Schedule | None:
    """Parse a schedule; a folder is looked up where a job finds its files."""
    from omatg_ray.model.schedule import KINDS, NONE, OWN, read_schedule
    from omatg_ray.run.job_paths import find_potential

    named = text in (NONE, OWN, BUNDLED) or text.partition(":")[0] in KINDS
    return read_schedule(text if named else find_potential(text) or text)


def work_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that do not depend on the sampler, as arguments of `WorkOptions`."""
    from omatg_ray.config import Config
    from omatg_ray.run.job_paths import find_potential

    names = ("seed", "workers", "timeout", "device", "threads", "chunk_pairs", "block")
    values = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    words = [word.removeprefix("ray.") for word in arguments.ray.split(",")] if arguments.ray else []
    for word in words:
        if word.startswith(("learner", "pretrain")):
            raise ConfigError(f"--ray {word}: only rollout and reward actors are used here")
    ray = Config.load(None, [f"ray.{word}" for word in words]).ray
    if words and not ray.rollout.workers:
        raise ConfigError("--ray: set the number of rollout.workers that generate, e.g. --ray rollout.workers=4")
    return values | {"potential": find_potential(arguments.potential), "ray": ray}
