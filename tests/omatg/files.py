"""Small checkpoints and configurations as OMatG and Lightning write them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings

SIZE = NetworkSettings(hidden=8, layers=2, frequencies=3, time_features=6)


def of_class(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def base_tree() -> dict[str, Any]:
    """A configuration of crystal structure prediction by an ODE."""
    single = "omg.si.single_stochastic_interpolant.SingleStochasticInterpolant"
    interpolants = [of_class("omg.si.single_stochastic_interpolant_identity.SingleStochasticInterpolantIdentity")]
    interpolants += [
        of_class(
            single,
            interpolant=f"omg.si.interpolants.{name}",
            gamma=None,
            epsilon=None,
            differential_equation_type="ODE",
            integrator_kwargs={"method": "euler"},
        )
        for name in ("PeriodicLinearInterpolant", "LinearInterpolant")
    ]
    return {
        "model": {
            "si": of_class(
                "omg.si.stochastic_interpolants.StochasticInterpolants",
                stochastic_interpolants=interpolants,
                data_fields=["species", "pos", "cell"],
                integration_time_steps=20,
            ),
            "sampler": of_class(
                "omg.sampler.IndependentSampler",
                pos_distribution={"class_path": "omg.sampler.position_distributions.UniformPositionDistribution"},
                cell_distribution=of_class(
                    "omg.sampler.cell_distributions.InformedLatticeDistribution", dataset_name="mp_20"
                ),
                species_distribution="omg.sampler.species_distributions.MirrorSpecies",
            ),
            "model": of_class(
                "omg.model.model.Model",
                encoder=of_class(
                    "omg.model.encoders.cspnet_full.CSPNetFull",
                    hidden_dim=SIZE.hidden,
                    latent_dim=SIZE.time_features,
                    num_layers=SIZE.layers,
                    num_freqs=SIZE.frequencies,
                ),
                head="omg.model.heads.pass_through.PassThrough",
                time_embedder=of_class("omg.model.model_utils.SinusoidalTimeEmbeddings", dim=SIZE.time_features),
            ),
            "relative_si_costs": {"species_loss": 0.0, "pos_loss_b": 0.9, "cell_loss_b": 0.1},
        },
        "trainer": {"max_epochs": 1},
        "optimizer": of_class("torch.optim.Adam", lr=1e-3),
    }


def interpolant(tree: dict[str, Any], of: str) -> dict[str, Any]:
    """The arguments of the interpolant of a field, to change."""
    listed = tree["model"]["si"]["init_args"]["stochastic_interpolants"]
    return listed[["species", "pos", "cell"].index(of)]["init_args"]


def encoder(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["model"]["model"]["init_args"]["encoder"]["init_args"]


def reinforcement_tree(name: str = "OMGIRLVelocity", **arguments: Any) -> dict[str, Any]:
    noise = of_class("omg.omg_irl.SqrtNoiseSchedule", noise_scale=0.2)
    given = {"noise_schedules": {"pos": noise, "cell": noise}, "grpo_group_size": 4, **deepcopy(arguments)}
    return {"model": of_class(f"omg.omg_irl.{name}", **given)}


def network_state(seed: int = 0, size: NetworkSettings = SIZE) -> dict[str, Tensor]:
    """The state dictionary of a random network, with the layers that OMatG leaves over."""
    torch.manual_seed(seed)
    state = {f"model.encoder.{name}": value for name, value in CSPNet(size).state_dict().items()}
    for index in range(size.layers, 4):
        shapes = {
            "edge_mlp.0": (128, 325),
            "edge_mlp.2": (128, 128),
            "node_mlp.0": (128, 256),
            "node_mlp.2": (128, 128),
        }
        for part, shape in shapes.items():
            state[f"model.encoder.csp_layer_{index}.{part}.weight"] = torch.randn(shape)
            state[f"model.encoder.csp_layer_{index}.{part}.bias"] = torch.randn(shape[0])
    return state


def write(folder: Path, tree: dict[str, Any], state: dict[str, Any], name: str = "model") -> tuple[Path, Path]:
    """Checkpoint and configuration as files."""
    checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
    content = {
        "epoch": 7,
        "global_step": 100,
        "pytorch-lightning_version": "2.6.1",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5), "kth": {}}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}],
        "lr_schedulers": [],
    }
    torch.save(content, checkpoint)
    config.write_text(yaml.safe_dump(tree))
    return checkpoint, config
