"""An iteration on a quiet machine and on one with all cores busy, by how threads wait for each other.

    python scripts/benchmarks/busy.py
    python scripts/benchmarks/busy.py --waiting GOMP_SPINCOUNT=1000 --waiting GOMP_SPINCOUNT=10000 --rounds 10

`configs/bundled_velocity.yaml` runs in one process with a thread per core, and on three actors, each with the settings
that the package makes before PyTorch is imported (`omatg_ray/run/openmp.py`), and with those of the OpenMP runtime.
They iterate in turns, first with nothing beside them, then beside one process per core that computes all the time.
Other programs on the machine make the quiet times worthless. Times are medians; the first iteration of each is not
counted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from omatg_ray.errors import OmatgRayError
from omatg_ray.run.openmp import SPIN

CONFIG = Path(__file__).parents[2] / "configs" / "bundled_velocity.yaml"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CASES = {
    f"one process, {CORES} threads": [f"threads={CORES}"],
    "3 actors": ["ray.rollout.workers=1", *(f"ray.{role}.cpus=0.3" for role in ("rollout", "reward", "learner"))],
}
PACKAGE, RUNTIME = "the package's", "the runtime's"
# The default of libgomp. Set by a user, it keeps the package from setting its own.
LEFT_ALONE = {"GOMP_SPINCOUNT": "300000"}
GO = "step"


@dataclass
class Way:
    """A process that iterates on request.

    Attributes:
        case: The case it runs.
        waiting: Name of the setting of how its threads wait.
        process: The process.
        quiet: Seconds of iterations with nothing beside it.
        busy: Seconds of iterations with busy cores.
    """

    case: str
    waiting: str
    process: subprocess.Popen[str]
    quiet: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def step(self) -> float:
        """Do one iteration and return its seconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(GO, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {self.case} ended with exit code {self.process.wait()}")
        return float(line)


@contextmanager
def started(case: str, waiting: str, variables: Mapping[str, str], overrides: Sequence[str]) -> Iterator[Way]:
    """Start a process for a case, and end it on exit."""
    environment = {name: value for name, value in os.environ.items() if name not in SPIN and name != "OMP_NUM_THREADS"}
    process = subprocess.Popen(
        [sys.executable, __file__, "--iterate", *CASES[case], *overrides],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment | dict(variables),
    )  # fmt: skip
    try:
        yield Way(case, waiting, process)
    finally:
        process.communicate()  # closes its input


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Run this many processes beside this one that compute all the time."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def take_turns(ways: Sequence[Way], rounds: int, quiet: bool) -> None:
    """Do this many iterations of each in turns, and report each round."""
    for number in range(rounds):
        for way in ways:
            (way.quiet if quiet else way.busy).append(way.step())
        seconds = ", ".join(f"{(way.quiet if quiet else way.busy)[-1]:.2f}" for way in ways)
        print(f"{ways[0].case}, {'quiet' if quiet else 'busy'} {number + 1}: {seconds} s", file=sys.stderr)


def iterate(words: Sequence[str]) -> None:
    """Do an iteration for each line of input, and print its seconds, until the input ends."""
    from omatg_ray.config import Config
    from omatg_ray.rl.trainer import Trainer
    from omatg_ray.train.backend import run_backend
    from omatg_ray.train.build import build_run
    from omatg_ray.train.precision import resolve_precision

    config = Config.load(CONFIG, words)
    parts = build_run(config)
    config = resolve_precision(config, parts)
    with run_backend(config, parts, progress=False) as backend:
        trainer = Trainer(
            config.rollout, parts.compositions, config.advantage, backend.train, config.seed, config.iterations
        )
        for _ in sys.stdin:
            start = time.perf_counter()
            trainer.step()
            print(time.perf_counter() - start, flush=True)


def table(ways: Sequence[Way]) -> None:
    """Print medians, the ratio of busy to quiet, and the ratio of quiet to that of the runtime's own setting."""
    print(
        f"{'':<26}{'threads wait as in':<30}{'quiet':>8}{'busy':>8}{'longest':>9}{'busy/quiet':>12}{'quiet, ratio':>14}"
    )
    for way in ways:
        alone = next(other for other in ways if other.case == way.case and other.waiting == RUNTIME)
        quiet, loaded = median(way.quiet), median(way.busy)
        print(
            f"{way.case:<26}{way.waiting:<30}{quiet:>8.2f}{loaded:>8.2f}{max(way.busy):>9.2f}"
            f"{loaded / quiet:>12.2f}{quiet / median(alone.quiet):>14.3f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each, quiet and busy (default 5)")
    parser.add_argument("--busy", type=int, default=CORES, help="busy processes beside it (default: one per core)")
    parser.add_argument(
        "--waiting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="also with this environment variable; repeatable",
    )
    parser.add_argument("--case", choices=CASES, help="only this case (default: all)")
    parser.add_argument("--iterate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the configuration")
    options = parser.parse_intermixed_args(arguments)
    if options.iterate:
        try:
            iterate(options.overrides)
        except OmatgRayError as error:
            sys.exit(f"error: {error}")
        return
    settings: dict[str, Mapping[str, str]] = {RUNTIME: LEFT_ALONE, PACKAGE: {}}
    settings |= {word: dict([word.split("=", 1)]) for word in options.waiting}
    ways: list[Way] = []
    for case in CASES if options.case is None else [options.case]:
        with ExitStack() as stack:
            these = [
                stack.enter_context(started(case, name, variables, options.overrides))
                for name, variables in settings.items()
            ]
            for way in these:
                way.step()
            take_turns(these, options.rounds, quiet=True)
            with busy(options.busy):
                take_turns(these, options.rounds, quiet=False)
        ways += these
    table(ways)


if __name__ == "__main__":
    main()
