"""Calls in separate processes, and the memory of a process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def apart(function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """Yield the results of calls with these arguments, each in a new process, one after the other."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for arguments in calls:
            yield pool.submit(function, *arguments).result()


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    return _of_status("VmRSS")


def peak(device: torch.device) -> float:
    """Return the peak memory of this process in MiB; with a GPU, its peak plus the current resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20 + resident()
    return _of_status("VmHWM")


def _of_status(name: str) -> float:
    """Read MiB of this process alone from Linux (`resource` also counts its parent); NaN on other systems."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name)) / 1024
