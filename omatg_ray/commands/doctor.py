"""`omatg-ray doctor`: checks that everything a run needs is present and works, with advice if not.

Must work in a broken environment: each check imports the third-party packages that it needs.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from omatg_ray.assets import AssetName, asset, files, has, model_named
from omatg_ray.errors import OmatgRayError
from omatg_ray.run.location import BUNDLED, PROTOTYPES, BundledName
from omatg_ray.run.quiet import quiet_libraries
from omatg_ray.run.versions import installed

PACKAGE = "omatg-ray"
# Measured with 1.5 million parameters: 1.4 GB in the process that learns, 0.6 GB in each of two that match crystals.
MEMORY = 3 * 2**30
MEMINFO, GROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
# A container's limit, its usage, and the line of `memory.stat` that gives the cache; cgroups 2, then 1.
CONTAINER_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)
# Five checkpoints of 25 MB each (base, policy and the optimizer's two moments), splits, structures, report.
DISK = 200 * 10**6
RAY_SECONDS = 90
FIX = "pip install -c constraints.txt -e ."
START_RAY = "from omatg_ray.commands.doctor import start_ray; start_ray()"

State = Literal["ok", "warning", "fails"]


@dataclass(frozen=True)
class Check:
    """Result of a check.

    Attributes:
        name: What was checked.
        state: ok, warning (a run may still work) or fails.
        text: What was found, and what to do unless it is ok.
    """

    name: str
    state: State
    text: str

    def __str__(self) -> str:
        return f"{self.name:<18} {self.state:<8} {self.text}"


Finding = tuple[State, str]


def examine(potential: str | None = None, ray: bool = True) -> Iterator[Check]:
    """Run the checks one after another; an error in a check becomes its result.

    Args:
        potential: Another potential to try.
        ray: Start a Ray on this machine too.
    """
    folder = Path.cwd()
    checks: dict[str, Callable[[], Finding]] = {
        "packages": packages,
        "Python": python,
        "PyTorch": devices,
        "memory": lambda: memory(available_memory()),
        "disk": lambda: disk(folder),
        "bundled crystals": partial(whole, "crystals"),
        "bundled potential": known_energies,
        **{f"bundled {name}": partial(whole, name) for name in ("base", "schedule")},
        "bundled reinforced": generation,
        **{f"{PROTOTYPES} {name}": partial(whole, name, PROTOTYPES) for name in has(PROTOTYPES)},
        "TensorBoard": tensorboard,
    }
    if potential is not None:
        checks[f"potential {potential}"] = lambda: energies(potential)
    if ray:
        checks["Ray"] = ray_starts
    for name, check in checks.items():
        yield run_check(name, check)


def run_check(name: str, check: Callable[[], Finding]) -> Check:
    """Run a check and return its result, or the error that broke it. Warnings turn ok into a warning."""
    with warnings.catch_warnings(record=True) as caught:
        quiet_libraries()
        try:
            state, text = check()
        except metadata.PackageNotFoundError as error:
            state, text = "warning", f"{error.name} is not installed, so its requirements are unknown: scripts/install"
        except OmatgRayError as error:
            state, text = "fails", str(error)
        except ModuleNotFoundError as error:
            state, text = "fails", f"{error}; {FIX}"
        except Exception as error:  # noqa: BLE001 - the other checks must still run
            state, text = "fails", f"{type(error).__name__}: {error}"
    if caught and state == "ok":
        state, text = "warning", "; ".join(str(warning.message) for warning in caught)
    return Check(name, state, " ".join(text.split()))


def python() -> Finding:
    """Check the version of Python against the one that the package needs."""
    from packaging.specifiers import SpecifierSet

    version, asked = platform.python_version(), metadata.metadata(PACKAGE)["Requires-Python"]
    if SpecifierSet(asked).contains(version, prereleases=True):
        return "ok", version
    return "fails", f"{version}, but {PACKAGE} needs {asked}: PYTHON=python3.12 scripts/install"


def packages() -> Finding:
    """Check installed versions against the lower bounds of the package's metadata."""
    # This package uses markers only to name the extra that a requirement belongs to.
    needed = [text for text in metadata.requires(PACKAGE) or [] if "extra ==" not in text]
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in needed]
    found = installed(names)
    missing = [name for name in names if name not in found]
    if missing:
        return "fails", f"not installed: {', '.join(missing)}; {FIX}"
    from packaging.requirements import Requirement

    asked = {name: Requirement(text).specifier for name, text in zip(names, needed, strict=True)}
    old = [
        f"{name} {found[name]} ({specifier})"
        for name, specifier in asked.items()
        if not specifier.contains(found[name], prereleases=True)
    ]
    if old:
        return "warning", f"older than the versions {PACKAGE} was tested with: {', '.join(old)}; {FIX}"
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "matgl", "ray"))
    return "ok", f"all {len(needed)} are installed and new enough ({shown})"


def devices() -> Finding:
    """Report threads, and check that the CUDA devices compute."""
    import torch

    threads = f"{torch.get_num_threads()} CPU threads"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        for index in range(len(names)):
            torch.ones(2, device=f"cuda:{index}").sum().item()
        return "ok", f"{threads}, CUDA {torch.version.cuda}: {', '.join(names)}"
    if Path("/proc/driver/nvidia/version").exists():
        build = f"it is built for CUDA {torch.version.cuda}" if torch.version.cuda else "it is a CPU build"
        why = f"there is an NVIDIA driver, but PyTorch sees no CUDA devices ({build}): install a build that fits it"
        return "warning", f"{threads}; {why}; until then runs use CPUs"
    return "ok", f"{threads}, no CUDA devices"


def available_memory(meminfo: Path = MEMINFO, groups: Path = GROUPS) -> int | None:
    """Return the bytes available: what the machine has free, or what a container's limit leaves.

    None if that cannot be read.
    """
    try:
        free = _table(meminfo)["MemAvailable:"] * 1024
        for limit, used, cache in CONTAINER_FILES:
            if (groups / limit).is_file() and (asked := (groups / limit).read_text().strip()) != "max":
                # The page cache counts as the container's memory, but is freed when memory is needed.
                in_use = int((groups / used).read_text()) - _table((groups / limit).with_name("memory.stat"))[cache]
                free = min(free, int(asked) - in_use)
    except (OSError, ValueError, KeyError):
        return None
    return max(free, 0)


def _table(file: Path) -> dict[str, int]:
    """Parse lines of a name and a number."""
    rows = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}


def memory(free: int | None) -> Finding:
    """Check free bytes against what the quickstart run takes."""
    if free is None:
        return "warning", f"free memory is unknown; `omatg-ray train` takes about {MEMORY / 2**30:.0f} GiB"
    text = f"{free / 2**30:.1f} GiB free, `omatg-ray train` takes about {MEMORY / 2**30:.0f}"
    if free >= MEMORY:
        return "ok", text
    return "warning" if free >= MEMORY / 2 else "fails", f"{text}: close other programs, or set workers=0"


def disk(folder: Path) -> Finding:
    """Check free space in a folder against what the quickstart run writes there."""
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}, a run writes about {DISK / 1e9:.1f}"
    if not os.access(folder, os.W_OK):
        return "fails", f"{folder} is not writable; work in another folder, or set run=..."
    return ("ok", text) if free >= DISK else ("fails", f"{text}: free some space, or set run=... on another disk")


def whole(name: AssetName, of: BundledName = BUNDLED) -> Finding:
    """Check that all files of an asset match their checksums."""
    return "ok", check_bundled(name, of)


def check_bundled(name: AssetName, of: BundledName = BUNDLED) -> str:
    """Report that all files of an asset match their checksums; raise if they do not."""
    paths = files(name, of)
    return f"{len(paths)} files match their checksums, {sum(path.stat().st_size for path in paths) / 1e6:.2f} MB"


def known_energies() -> Finding:
    """Check that the bundled potential gives its known energies."""
    text = check_bundled("potential")
    from omatg_ray.reward.known_energies import KNOWN_ENERGIES
    from omatg_ray.reward.potential import load_potential

    load_potential(BUNDLED)
    known = json.loads((asset("potential") / KNOWN_ENERGIES).read_text())
    return "ok", f"{text}; gives its {len(known)} known energies"


def energies(name: str) -> Finding:
    """Check that a potential loads, and gives its known energies or a sane curve with this MatGL."""
    from omatg_ray.reward.potential import load_potential

    return "ok", f"loads and gives sane energies, {len(load_potential(name).elements)} elements"


def generation() -> Finding:
    """Generate two crystals with the best bundled model."""
    text = check_bundled(model_named(BUNDLED)[0])
    from omatg_ray.crystal.batch import CrystalBatch
    from omatg_ray.crystal.validity import check_validity
    from omatg_ray.model.flow_model import bundled_model

    crystals = CrystalBatch.from_structures(bundled_model().sample(["NaCl", "NaCl"]))
    valid = int(check_validity(crystals).valid.sum())
    return "ok" if valid else "warning", f"{text}; generates NaCl: {valid} of 2 crystals valid"


def tensorboard() -> Finding:
    """Check that the writer of TensorBoard files can be imported."""
    importlib.import_module("torch.utils.tensorboard")
    return "ok", "can be imported"


def ray_starts(command: str = START_RAY, seconds: float = RAY_SECONDS) -> Finding:
    """Start a Ray in another process, so that a crash cannot affect this one."""
    without = "runs with ray.* workers would fail; those in one process need no Ray"
    try:
        done = subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return "fails", f"does not start within {seconds:g} s: {without}"
    if done.returncode == 0:
        return "ok", "starts and has room for an actor"
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return "fails", f"does not start ({last}): {without}"


def start_ray() -> None:
    """Start a Ray on this machine and reserve one core."""
    from omatg_ray.distributed.cluster import join_cluster, reserve_room
    from omatg_ray.distributed.settings import RaySettings

    settings = RaySettings(address="local", wait=30.0)
    with join_cluster(settings), reserve_room([("trial", {"CPU": 1.0})], settings, grows=False):
        pass
