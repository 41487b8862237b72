"""An honest word on whether a search has seen what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

HOLE = 0.3
"""eV/atom below everything else from which on an energy is suspected to be a hole of the potential."""


@dataclass(frozen=True)
class Convergence:
    """How often the distinct crystals of a composition were found.

    Attributes:
        samples: Relaxed samples that led to them.
        best: How often the lowest was found.
        distinct: Distinct crystals.
        once: Of these, found once.
        twice: Found twice.
    """

    samples: int
    best: int
    distinct: int
    once: int
    twice: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> Self:
        """Count distinct crystals by how often each was found, the lowest first.

        Raises:
            ValueError: There is none.
        """
        if not counts:
            raise ValueError("nothing was found")
        return cls(sum(counts), counts[0], len(counts), list(counts).count(1), list(counts).count(2))

    @property
    def unseen(self) -> float:
        """Estimate how many distinct crystals of this sampler were not seen, at least.

        Chao's estimator for captures and recaptures (Chao, Scand. J. Stat. 11, 265, 1984), corrected for bias. It takes
        the samples as independent draws of one sampler, which those of a sampler that learns are not.
        """
        return self.once * (self.once - 1) / (2 * (self.twice + 1))

    @property
    def new(self) -> float:
        """Estimate the probability that the next sample is a crystal not seen yet (Good, Biometrika 40, 237, 1953)."""
        return self.once / self.samples

    def __str__(self) -> str:
        again = {1: "once, so nothing confirms it", 2: "twice"}.get(self.best, f"{self.best} times")
        return (
            f"the lowest was found {again}; the {self.samples} samples listed are {self.distinct} distinct crystals, "
            f"{self.once} of them found once: at least {self.unseen:.0f} more such were not seen, and the next such "
            f"sample is a new one with probability {self.new:.2f}"
        )


def suspected_hole(energies: Sequence[float]) -> bool:
    """Return whether the lowest of these energies of one composition, in eV/atom, lies far below all others."""
    if len(energies) < 2:
        return False
    lowest, second = sorted(energies)[:2]
    return second - lowest > HOLE
