"""Weights by OMatG's names and by those of this package."""

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

# OMatG builds its encoder with four layers of this size first, and then puts the configured ones in their places.
DEFAULT_LAYERS, DEFAULT_HIDDEN, DEFAULT_FREQUENCIES = 4, 128, 10


def default_layer() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a layer that OMatG leaves over: it has no layer norm."""
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
    """Weights of a `CSPNet`, and the layers that were left over and are left out.

    Args:
        state: A state dictionary of OMatG.
        layers: Configured number of layers.

    Raises:
        ModelError: It has more layers than that.
    """
    found = {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
    leftover: set[int] = set()
    weights: dict[str, Tensor] = {}
    parts_of_default = set(default_layer())
    for name, value in found.items():
        layer = re.fullmatch(r"csp_layer_(\d+)\.(.+)", name)
        index = int(layer[1]) if layer else -1
        if index < layers:
            weights[name] = value.float()
        elif index < DEFAULT_LAYERS and not any(
            f"csp_layer_{index}.{part}" in found for part in ("layer_norm.weight", "layer_norm.bias")
        ):
            leftover.add(index)
            assert layer is not None
            if layer[2] not in parts_of_default:
                raise ModelError(f"{ENCODER}{name} is a tensor that OMatG's network does not have")
        else:
            raise ModelError(
                f"the checkpoint has a layer csp_layer_{index}, the configuration {layers} layers; it belongs to "
                "another configuration"
            )
    return weights, sorted(leftover)


def encoder_to_omatg(network: CSPNet) -> dict[str, Tensor]:
    """A state dictionary of OMatG's model. Layers that OMatG leaves over, which loading demands, are zero."""
    state = {f"{ENCODER}{name}": value for name, value in network.state_dict().items()}
    for index in range(network.settings.layers, DEFAULT_LAYERS):
        for name, shape in default_layer().items():
            state[f"{ENCODER}csp_layer_{index}.{name}"] = torch.zeros(shape)
    return state


def schedule_from_omatg(state: Mapping[str, Tensor], fields: Iterable[str]) -> dict[str, Tensor]:
    """Weights of a `LearnedSchedule` of some fields; OMatG always has one for each."""
    weights: dict[str, Tensor] = {}
    for name, value in _below(state, SCHEDULE).items():
        part, _, rest = name.partition(".")
        found = re.fullmatch(r"_(pos|cell)_(head|mlp)", part)
        if part == "_trunk":
            weights[f"trunk.{rest}"] = value.float()
        elif found is None:
            weights[name] = value.float()
        elif found[1] in fields:
            weights[f"heads.{found[1]}.{rest}"] = value.float()
    return weights


def noise_from_omatg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of learned noise, `pos.mlp...` and `cell.mlp...`."""
    return {name.replace("._mlp.", ".mlp."): value.float() for name, value in _below(state, NOISE).items()}


def load(module: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Loads weights into a module.

    Args:
        what: What a message calls them.

    Raises:
        ModelError: Tensors are missing, superfluous, of another shape or not finite; names the first ones.
    """
    wanted = module.state_dict()
    missing = sorted(set(wanted) - set(weights))
    unknown = sorted(set(weights) - set(wanted))
    if missing or unknown:
        lists = [f"{text} {_listed(names)}" for text, names in (("lacks", missing), ("also has", unknown)) if names]
        raise ModelError(f"{what} does not fit its configuration: the checkpoint {' and '.join(lists)}")
    for name, value in wanted.items():
        if weights[name].shape != value.shape:
            raise ModelError(
                f"{what} does not fit its configuration: {name} has shape {tuple(weights[name].shape)}, the "
                f"configuration says {tuple(value.shape)}"
            )
        if not weights[name].isfinite().all():
            raise ModelError(f"{what}: {name} holds NaN or infinite weights")
    module.load_state_dict(dict(weights))


def refuse_unknown(state: Mapping[str, Tensor], prefixes: tuple[str, ...], path: object) -> None:
    """Refuses tensors that belong to no known part.

    Raises:
        ModelError: Names the first ones.
    """
    unknown = [name for name in state if not name.startswith(prefixes)]
    if unknown:
        raise ModelError(f"{path} has tensors that cannot be carried over: {_listed(unknown)}")


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
