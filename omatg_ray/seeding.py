"""Random numbers that depend on their purpose, never on the process that draws them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from omatg_ray.deferred import Deferred

if TYPE_CHECKING:
    import torch
else:
    torch = Deferred("torch")


def seed_of(*key: int | str) -> int:
    """Derive a seed from a key such as (run seed, "rollout", iteration, group, member); the same on every machine."""
    plain = tuple(part if isinstance(part, str) else int(part) for part in key)
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `seed_of(*key)`. Draw on the CPU, then move, so that devices agree.

    PyTorch's CPU generator uses 32 bits of a seed: among a million keys, about a hundred pairs share a stream.
    """
    return torch.Generator().manual_seed(seed_of(*key))
