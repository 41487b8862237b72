"""Spinning of OpenMP threads while they wait for each other.

By default an OpenMP thread that has done its share spins for milliseconds: it computes nothing, but keeps its core. If
another process, an actor or the awaited thread itself needs that core, everything waits for the spinning threads, and
an iteration takes many times as long. Threads that sleep at once give up their core, but wake up too late on an idle
machine. So they spin briefly and then sleep (measured: docs/speed.md).

The runtimes read the environment when they are loaded, so the variables must be set before PyTorch is imported. Child
processes, including Ray's, inherit them.
"""

from __future__ import annotations

import os

SPIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables that a user may have set: all runtimes read the first, GNU's the second, LLVM's and Intel's the others."""
SPINS = 10_000
"""Turns of GNU's waiting loop, a thirtieth of its default."""


def limit_spinning() -> None:
    """Let threads sleep after a short wait, unless the user has set how they wait."""
    if not any(name in os.environ for name in SPIN):
        os.environ.update(GOMP_SPINCOUNT=str(SPINS), KMP_BLOCKTIME="1")
