"""Optimizer states as flat dictionaries of tensors, to be written as safetensors."""

from __future__ import annotations

import torch
from torch import Tensor

from omatg_ray.errors import ModelError


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return every state that the optimizer keeps, as `<parameter index>.<name>` to tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(v) for index, entry in state.items() for name, v in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    """Restore a state from `flatten_optimizer`; hyperparameters stay those of `optimizer`.

    Raises:
        ModelError: The state belongs to parameters of another number or shape.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = [entry["exp_avg"].shape for _, entry in sorted(state.items()) if "exp_avg" in entry]
    # An optimizer that never stepped has no state at all.
    if state and shapes != [p.shape for p in parameters]:
        raise ModelError("the optimizer state belongs to a network of another architecture")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
