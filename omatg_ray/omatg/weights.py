"""Weights under OMatG's names and under those of this package."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from omatg_ray.errors import ModelError
from omatg_ray.flow.network import CSPNet

ENCODER = "model.encoder."
SCHEDULE = "scale_model."
NOISE = "noise_schedule_modules."

# OMatG first builds its encoder with four layers of this size, then replaces them with the configured ones.
DEFAULT_LAYERS, DEFAULT_HIDDEN, DEFAULT_FREQUENCIES = 4, 128, 10


def default_layer() -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors of a leftover layer of OMatG, which has no layer norm."""
    hidden, edge = DEFAULT_HIDDEN, 2 * DEFAULT_HIDDEN + 9 + 6 * DEFAULT_FREQUENCIES
    return {
        "edge_mlp.0.weight": (hidden, edge),
        "edge_mlp.0.bias": (hidden,),
        "edge_mlp.2.weight": (hidden, hidden),
        "edge_mlp.2.bias": (hidden,),
        "node_mlp.0.weight": (hidden, 2 * hidden),
        "node_mlp.0.bias": (hidden,),
        "node_mlp.2.weight": (hidden, hidden),
        "node_mlp.2.bias": (hidden,),
    }


def encoder_from_omatg(state: Mapping[str, Tensor], layers: int) -> tuple[dict[str, Tensor], list[int]]:
    """Return the weights of a `CSPNet`, and the indices of leftover layers, whose weights are dropped.

    Args:
        state: A state dictionary of OMatG.
        layers: Configured number of layers.

    Raises:
        ModelError: The state has more layers than that, or an unknown tensor in a leftover layer.
    """
    tensors = {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
    leftover: set[int] = set()
    weights: dict[str, Tensor] = {}
    parts_of_default = set(default_layer())
    for name, value in tensors.items():
        layer = re.fullmatch(r"csp_layer_(\d+)\.(.+)", name)
        index = int(layer[1]) if layer else -1
        if index < layers:
            weights[name] = value.float()
        elif index < DEFAULT_LAYERS and not any(
            f"csp_layer_{index}.{part}" in tensors for part in ("layer_norm.weight", "layer_norm.bias")
        ):
            leftover.add(index)
            assert layer is not None
            if layer[2] not in parts_of_default:
                raise ModelError(f"{ENCODER}{name} is a tensor that OMatG's network does not have")
        else:
            raise ModelError(
                f"the checkpoint has a layer csp_layer_{index}, the configuration only {layers} layers; it belongs to "
                "another configuration"
            )
    return weights, sorted(leftover)


def encoder_to_omatg(network: CSPNet) -> dict[str, Tensor]:
    """Return a state dictionary for OMatG's model, with zeros for the leftover layers that loading requires."""
    state = {f"{ENCODER}{name}": value for name, value in network.state_dict().items()}
    for index in range(network.settings.layers, DEFAULT_LAYERS):
        for name, shape in default_layer().items():
            state[f"{ENCODER}csp_layer_{index}.{name}"] = torch.zeros(shape)
    return state


def schedule_from_omatg(state: Mapping[str, Tensor], fields: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights of a `LearnedSchedule` of some fields; OMatG always has one for each field."""
    weights: dict[str, Tensor] = {}
    for name, value in _with_prefix(state, SCHEDULE).items():
        part, _, rest = name.partition(".")
        head = re.fullmatch(r"_(pos|cell)_(head|mlp)", part)
        if part == "_trunk":
            weights[f"trunk.{rest}"] = value.float()
        elif head is None:
            weights[name] = value.float()
        elif head[1] in fields:
            weights[f"heads.{head[1]}.{rest}"] = value.float()
    return weights


def noise_from_omatg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of learned noise, `pos.mlp...` and `cell.mlp...`."""
    return {name.replace("._mlp.", ".mlp."): value.float() for name, value in _with_prefix(state, NOISE).items()}


def load(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load weights into a module.

    Args:
        what: Name of the weights in messages.

    Raises:
        ModelError: Tensors are missing, unexpected, of another shape or not finite; names the first ones.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    if missing or unknown:
        lists = [f"{text} {_list_names(names)}" for text, names in (("lacks", missing), ("also has", unknown)) if names]
        raise ModelError(f"{what} does not fit its configuration: the checkpoint {' and '.join(lists)}")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise ModelError(
                f"{what} does not fit its configuration: {name} has shape {tuple(weights[name].shape)}, the "
                f"configuration says {tuple(value.shape)}"
            )
        if not weights[name].isfinite().all():
            raise ModelError(f"{what}: {name} holds NaN or infinite weights")
    module.load_state_dict(dict(weights))


def refuse_unknown(state: Mapping[str, Tensor], prefixes: tuple[str, ...], path: object) -> None:
    """Refuse tensors that belong to no known part.

    Raises:
        ModelError: Names the first ones.
    """
    unknown = [name for name in state if not name.startswith(prefixes)]
    if unknown:
        raise ModelError(f"{path} has tensors that cannot be imported: {_list_names(unknown)}")


def _with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
