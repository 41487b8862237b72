"""Rewards as users write them, good and bad."""

from __future__ import annotations

import time

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.protocol import RewardResult


class Flat:
    """Rewards a short lattice vector, and says how long it is."""

    name, elements = "flat", None

    def __init__(self, axis: int = 2) -> None:
        self.axis = axis

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        length = crystals.cell[:, self.axis].norm(dim=1).double()
        return RewardResult(-length, {"length": length})


class Plain:
    """Returns a tensor and nothing else."""

    def __call__(self, crystals: CrystalBatch) -> torch.Tensor:
        return crystals.n_atoms.float()


class Wrong:
    """Does what it is told for cells longer than 9 Å, and is `Flat` otherwise."""

    name, elements = "wrong", None

    def __init__(self, how: str = "") -> None:
        self.how = how
        if how == "init":
            raise ValueError("no weights found")

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        length = crystals.cell[:, 2].norm(dim=1).double()
        long = length > 9
        if not long.any():
            return RewardResult(-length, {"length": length})
        if self.how == "raise":
            raise RuntimeError("too long")
        if self.how == "hang":
            time.sleep(600)
        if self.how == "die":
            import os

            os._exit(3)
        if self.how == "length":
            return RewardResult(-length[1:], {})
        if self.how == "values":
            return RewardResult(-length, {"x": length[None]})
        if self.how == "none":
            return None  # type: ignore[return-value]
        return RewardResult(torch.where(long, torch.nan, -length), {"length": length})


class Second:
    """One number too few for batches of more than two."""

    def __call__(self, crystals: CrystalBatch) -> torch.Tensor:
        return torch.zeros(len(crystals) - (len(crystals) > 2))


class Promises:
    """Breaks one promise of the contract at a time."""

    name, elements = "promises", None

    def __init__(self, broken: str) -> None:
        self.broken = broken
        if broken in ("elements", "few"):
            self.elements = frozenset({11, 17, 6}) if broken == "elements" else frozenset({11, 17})

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        volume = torch.linalg.det(crystals.cell).abs().double()
        match self.broken:
            case "length":
                return RewardResult(volume[:1], {})
            case "values":
                return RewardResult(volume, {"x": volume[None]})
            case "nan":
                return RewardResult(volume * torch.nan, {})
            case "infinite":
                return RewardResult(volume / (crystals.n_atoms - 5), {})
            case "dtype":
                return RewardResult(volume.float(), {})
            case "list":
                return RewardResult(volume.tolist(), {})  # type: ignore[arg-type]
            case "half":
                return RewardResult(volume.bfloat16(), {})
            case "integers":
                return RewardResult(crystals.n_atoms, {"few": crystals.n_atoms < 3})
            case "array":
                return RewardResult(volume.float().numpy(), {})  # type: ignore[arg-type]
            case "gradient":
                return RewardResult(volume.requires_grad_(), {})
            case "complex":
                return RewardResult(volume.cdouble(), {})
            case "huge":
                return RewardResult(crystals.n_atoms + 2**53, {})
            case "nothing":
                return None  # type: ignore[return-value]
            case "named values":
                return RewardResult(volume, [volume])  # type: ignore[arg-type]
            case "slash":
                return RewardResult(volume, {"a/b": volume})
            case "result":
                return volume  # type: ignore[return-value]
            case "batch":
                return RewardResult(volume - volume.mean(), {})
            case "value of the batch":
                return RewardResult(volume, {"x": volume / volume.max()})
            case "order":
                return RewardResult(volume + torch.arange(len(volume)).double(), {})
            case "in place":
                crystals.pos.add_(0.1)
            case "key":
                {11: 1.0, 17: 1.0}[int(crystals.species.min())]
        return RewardResult(volume, {})
