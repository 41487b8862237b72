"""Reads the reference files: safetensors, and the peer's Lightning checkpoint as a CSPNet."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings

PREFIX = "model.encoder."


def peer_network(shared: Path, delta: dict[str, Tensor] | None = None, factor: float = 1.0) -> CSPNet:
    """The peer's trained network; `delta` (names below `model.`) times `factor` is added to its weights."""
    folder = shared / "parity" / "omatg_checkpoint"
    encoder = yaml.safe_load((folder / "perov5_small.yaml").read_text())["model"]["model"]["init_args"]["encoder"]
    size = encoder["init_args"]
    network = CSPNet(
        NetworkSettings(
            hidden=size["hidden_dim"],
            layers=size["num_layers"],
            frequencies=size["num_freqs"],
            time_features=size["latent_dim"],
        )
    )
    state = torch.load(folder / "perov5_small.ckpt", weights_only=True, map_location="cpu")["state_dict"]
    weights = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    for name, value in (delta or {}).items():
        key = name.removeprefix("encoder.")
        weights[key] = weights[key] + factor * value
    network.load_state_dict(weights)
    return network


def crystals(arrays: dict[str, Tensor], prefix: str = "x_0/") -> CrystalBatch:
    """The batch stored under `prefix`, species and layout beside it."""
    species = arrays.get("atomic_numbers", arrays.get("x_0/atomic_numbers"))
    assert species is not None
    return CrystalBatch(species, arrays[f"{prefix}pos"], arrays[f"{prefix}cell"], arrays["n_atoms"])
