"""Matrix products of a computation, and the time they would take with nothing else to do: its roof."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}
"""Seconds of wall time, or of processor time of this process. The latter are better if other programs run beside it,
for one thread and no GPU."""

# Indices of the two factors among the arguments.
FACTORS = {"mm": (0, 1), "addmm": (1, 2), "bmm": (0, 1), "baddbmm": (1, 2)}

MIN_FLOPS, MAX_TIMES = 20_000_000, 100
"""A product is repeated up to this many operations or times, whichever comes first."""


class Product(NamedTuple):
    """A product (batch, rows, inner) times (batch, inner, columns), in a data type."""

    batch: int
    rows: int
    inner: int
    columns: int
    dtype: torch.dtype = torch.float32

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.inner * self.columns


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[Product]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        factors = FACTORS.get(func.overloadpacket.__name__)
        if factors is not None:
            first, second = (args[index] for index in factors)
            batch = len(first) if first.dim() == 3 else 1
            rows, inner = first.shape[-2:]
            self.found[Product(batch, rows, inner, second.shape[-1], first.dtype)] += 1
        return func(*args, **(kwargs or {}))


def products(function: Callable[[], object]) -> Counter[Product]:
    """Count the matrix products of a call, backward passes included, in the types that autocast gives them."""
    with _Recording() as recording:
        function()
    return recording.found


def flops(found: Counter[Product]) -> int:
    """Return the floating-point operations of products."""
    return sum(count * product.flops for product, count in found.items())


def seconds_alone(found: Counter[Product], device: torch.device, clock: str, repeats: int = 3) -> float:
    """Time the products by themselves, in seconds, with operands and results allocated and warm.

    Small products are repeated, for the resolution of the clock.
    """
    total = 0.0
    for product, count in found.items():
        batch, rows, inner, columns, dtype = product
        if not product.flops:
            continue
        first = torch.rand(batch, rows, inner, dtype=dtype, device=device)
        second = torch.rand(batch, inner, columns, dtype=dtype, device=device)
        out = torch.empty(batch, rows, columns, dtype=dtype, device=device)
        if batch == 1:
            first, second, out = first[0], second[0], out[0]
        multiply = torch.mm if batch == 1 else torch.bmm
        times = min(MAX_TIMES, max(1, MIN_FLOPS // product.flops))

        def several(first=first, second=second, out=out, by=multiply, times=times) -> None:  # type: ignore[no-untyped-def]
            for _ in range(times):
                by(first, second, out=out)

        total += count * fastest(several, repeats, device, clock) / times
    return total


def fastest(function: Callable[[], object], repeats: int, device: torch.device, clock: str) -> float:
    """Return the seconds of the fastest call, after one that is not counted."""
    function()
    now = CLOCKS[clock]
    best = float("inf")
    for _ in range(repeats):
        finish(device)
        start = now()
        function()
        finish(device)
        best = min(best, now() - start)
    return best


def finish(device: torch.device) -> None:
    """Wait for a device that works asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
