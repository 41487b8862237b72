"""Quick start of MatGL: without its training code, and without deriving its radial basis again.

Relies on MatGL 4.1: `matgl/__init__.py` imports the code that trains potentials, whose libraries (Lightning,
TorchMetrics) take longer to import than everything that evaluates them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from math import pi, sqrt
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

TRAINING = "matgl.utils.training"
DERIVE = "_get_lambda_func"
"""Name of MatGL's function that derives the radial functions."""


_LATER = object()
"""Placeholder for a name that is imported on first use."""


def import_matgl() -> ModuleType:
    """Import MatGL; its training code is imported only on first use."""
    matgl = sys.modules.get("matgl") or _import_without_training()
    basis = import_module("matgl.layers._basis")
    if hasattr(basis, DERIVE):
        setattr(basis, DERIVE, smooth_bessel_functions)
    return matgl


def _import_without_training() -> ModuleType:
    stand_in = ModuleType(TRAINING)
    stand_in.__getattr__ = lambda name: _LATER  # type: ignore[method-assign]
    sys.modules[TRAINING] = stand_in
    try:
        matgl = import_module("matgl")
    finally:
        del sys.modules[TRAINING]
    later = {name for name, value in vars(matgl).items() if value is _LATER}
    for name in later:
        delattr(matgl, name)

    def find(name: str) -> Any:
        if name in later:
            return getattr(import_module(TRAINING), name)
        raise AttributeError(f"module 'matgl' has no attribute {name!r}")

    matgl.__getattr__ = find  # type: ignore[method-assign]
    return matgl


def smooth_bessel(terms: tuple[tuple[float, float], ...], r: Tensor) -> Tensor:
    """Return one function of the radial basis, Σ_k a_k sin(k π r / r_c) / r, of distances r (E,), any dtype.

    Args:
        terms: Amplitudes a_k and wave numbers k π / r_c.
        r: In Å.
    """
    (amplitude, wave_number), *rest = terms
    total = amplitude * torch.sin(wave_number * r)
    for amplitude, wave_number in rest:
        total = total + amplitude * torch.sin(wave_number * r)
    return total / r


@lru_cache(maxsize=128)
def smooth_bessel_functions(max_n: int, cutoff: float = 5.0) -> list[Callable[[Tensor], Tensor]]:
    """Return the orthogonal radial functions of Kocer, Mason and Erturk, which are smooth at the cutoff.

    Source: AIP Advances 10, 015021 (2020). MatGL derives them by computer algebra each time a potential is loaded,
    which takes a second. These are bitwise the same: MatGL's constants have 15 digits.

    Args:
        max_n: Number of functions.
        cutoff: Distance in Å at which they and their slopes vanish.
    """
    functions: list[dict[int, float]] = []
    last = 1.0  # d_{n-1}
    for n in range(max_n):
        e = n**2 * (n + 2) ** 2 / (4 * (n + 1) ** 4 + 1)
        d = 1 - e / last
        # f_n of two neighbouring spherical Bessel functions sin(x) / x
        scale = (-1) ** n * sqrt(2.0) * pi / cutoff**1.5 * (n + 1) * (n + 2) / sqrt((n + 1) ** 2 + (n + 2) ** 2)
        g = {k: scale * cutoff / (k * pi) for k in (n + 1, n + 2)}
        if n:
            for k, amplitude in functions[-1].items():
                g[k] = g.get(k, 0.0) + sqrt(e / last) * amplitude
            g = {k: amplitude / sqrt(d) for k, amplitude in g.items()}
        functions.append(g)
        last = d
    digits = "{:.15g}".format
    return [
        partial(smooth_bessel, tuple((float(digits(g[k])), float(digits(k * pi / cutoff))) for k in sorted(g)))
        for g in functions
    ]
