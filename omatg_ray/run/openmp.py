"""How long threads of a computation spin while they wait for each other.

By default a thread of OpenMP that has done its share spins for milliseconds: it computes nothing, and keeps its core.
Where others want that core, such as another process, an actor, or the very thread that is waited for, everybody waits
for the spinning ones, and an iteration takes many times as long. Threads that sleep at once give their core away, and
on a quiet machine wake up too late. So they spin a little, and then sleep (measured: docs/speed.md).

The runtimes read this from the environment as they are loaded, so it has to be there before PyTorch is imported.
Processes that are started from here, Ray's too, inherit it.
"""

from __future__ import annotations

import os

SPIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""What users may have said: all runtimes read the first, GNU's the second, LLVM's and Intel's the others."""
SPINS = 10_000
"""Turns of GNU's waiting loop, a thirtieth of its default."""


def limit_spinning() -> None:
    """Lets threads sleep after a short wait, unless the user has decided how they wait."""
    if not any(name in os.environ for name in SPIN):
        os.environ.update(GOMP_SPINCOUNT=str(SPINS), KMP_BLOCKTIME="1")
