"""Export of a model as a checkpoint and a configuration for OMatG's `omg predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from omatg_ray.crystal.base import CellByVolume, InformedCell
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.errors import ModelError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg import names
from omatg_ray.omatg.checkpoint import write_checkpoint
from omatg_ray.omatg.hub import CHECKPOINT_FILE, CONFIG_FILE
from omatg_ray.omatg.lattices import FITS, name_of
from omatg_ray.omatg.weights import DEFAULT_LAYERS, encoder_to_omatg
from omatg_ray.policy.grid import T_MAX, T_MIN
from omatg_ray.policy.hand_made import LinearSchedule

DEFAULT_STEPS = 50
DEFAULT_DATASET = "mp_20"
SPLITS = {"train_dataset": "train", "val_dataset": "val", "pred_dataset": "test"}


def export_omatg(model: FlowModel, folder: Path, steps: int | None = None, data: str | None = None) -> list[str]:
    """Write checkpoint.ckpt and train.yaml into an existing folder; return notes on what was left out or differs.

    Args:
        model: A base model, or a reinforced one that a single network expresses.
        folder: Target folder.
        steps: Grid points in the configuration; None takes those that the model was imported with, else 50.
        data: LMDB or Parquet file of the compositions for `omg predict`; None takes OMatG's own files of the data set
            that the lattice distribution is fitted to.

    Raises:
        ModelError: OMatG cannot express the sampler; gives the reason.
    """
    notes: list[str] = []
    network = exported_network(model, notes)
    imported_with = model.description.provenance.get("integration_time_steps", DEFAULT_STEPS)
    config = configuration(model, imported_with if steps is None else steps, data)
    if network.settings.layers < DEFAULT_LAYERS:
        notes.append("layers that OMatG's network has but does not use are zero in the checkpoint")
    if model.description.paths.pairing == "same_species":
        notes.append("it was trained with atoms paired within a species; OMatG would train it on with any atoms paired")
    if data is None:
        notes.append("the configuration names OMatG's own data files; change file_path there to predict for others")
    write_checkpoint(folder / CHECKPOINT_FILE, encoder_to_omatg(network))
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    return notes


def exported_network(model: FlowModel, notes: list[str]) -> CSPNet:
    """Return the one network that drives both fields.

    Raises:
        ModelError: There is no such network, or the sampler needs more than a network.
    """
    description = model.description
    if description.schedule is not None and not isinstance(description.schedule, LinearSchedule):
        raise ModelError("its schedule cannot be exported: `omg predict` supports only linear ones")
    if description.schedule is not None and description.schedule.limit is not None:
        raise ModelError("its schedule has a limit, which `omg predict` does not know")
    if description.acts_from and not _same(model.network, model.base_network):
        raise ModelError(
            f"the reinforced network acts from t = {description.acts_from:g} on, the base before; `omg predict` runs "
            "one network at all times. Reinforce with policy.acts_from=0 to export"
        )
    frozen = [of for of in FIELDS if description.active and of not in description.active]
    if frozen and not _same(model.network, model.base_network):
        raise ModelError(
            f"{' and '.join(frozen)} follow{'s' * (len(frozen) == 1)} the base network and "
            f"{' and '.join(description.active)} the reinforced one; `omg predict` runs one network for both. "
            "Reinforce both fields to export (policy.active=[pos,cell], and policy.noise for both)"
        )
    if description.active and model.generates_species and not _same(model.network, model.base_network):
        raise ModelError(
            f"the species follow the base network and {' and '.join(description.active)} the reinforced one; `omg "
            "predict` runs one network for both"
        )
    if description.active:
        notes.append("the noise of the policy is left out: `omg predict` generates without noise")
        if model.variant.stochastic:
            notes.append("it was reinforced as a stochastic process; `omg predict` follows its velocity alone")
    return model.network


def configuration(model: FlowModel, steps: int, data: str | None = None) -> dict[str, Any]:
    """Build the configuration as plain values.

    Raises:
        ModelError: OMatG has no counterpart for a part of the sampler, or `steps` is below 2.
    """
    description = model.description
    if steps < 2:
        raise ModelError(f"steps = {steps}: a grid needs at least 2 points")
    dataset = _dataset(description.base_distribution.cell)
    return {
        "model": {
            "si": {
                "class_path": "omg.si.stochastic_interpolants.StochasticInterpolants",
                "init_args": {
                    "stochastic_interpolants": [
                        _species(model),
                        *(_interpolant(model, of, steps) for of in FIELDS),
                    ],
                    "data_fields": ["species", *FIELDS],
                    "integration_time_steps": steps,
                },
            },
            "relative_si_costs": _costs(model),
            "sampler": _sampler(model, dataset),
            "model": _network(description.network),
            "use_min_perm_dist": description.paths.pairing != "as_drawn",
            "float_32_matmul_precision": "high",
            "dataset_name": dataset or DEFAULT_DATASET,
        },
        "data": {
            key: {
                "class_path": "omg.datamodule.StructureDataset",
                "init_args": {
                    "file_path": data or f"data/{dataset or DEFAULT_DATASET}/{split}.lmdb",
                    "lazy_storage": False,
                    "niggli_reduce": False,
                },
            }
            for key, split in SPLITS.items()
        }
        | {"batch_size": 256},
        "trainer": {"accelerator": "auto", "precision": "32-true", "logger": False},
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001}},
    }


def _species(model: FlowModel) -> dict[str, Any]:
    path = model.description.paths.species
    return {"class_path": names.GIVEN.path} if path is None else names.to_omatg(path, names.SPECIES)


def _stochastic(model: FlowModel, of: FieldName) -> bool:
    """Return whether OMatG samples a field as an SDE: it does for a base model that has ε."""
    return model.description.paths.of(of).epsilon is not None and not model.description.active


def _interpolant(model: FlowModel, of: FieldName, steps: int) -> dict[str, Any]:
    path, schedule = model.description.paths.of(of), model.description.schedule
    stochastic = _stochastic(model, of)
    solver: dict[str, Any] = {"method": "euler"}
    if stochastic:
        solver["dt"] = (T_MAX - T_MIN) / (steps - 1)
    arguments = {
        "interpolant": names.interpolant_to_omatg(path, of),
        "gamma": None if path.gamma is None else names.to_omatg(path.gamma, names.GAMMAS),
        "epsilon": names.to_omatg(path.epsilon, names.EPSILONS) if stochastic and path.epsilon is not None else None,
        "differential_equation_type": "SDE" if stochastic else "ODE",
        "integrator_kwargs": solver,
        "velocity_annealing_factor": getattr(schedule, of, 0.0),
        "correct_center_of_mass_motion": of == "pos",
    }
    if path.one_sided:
        del arguments["gamma"]
        name = "omg.si.single_stochastic_interpolant_os.SingleStochasticInterpolantOS"
    else:
        name = "omg.si.single_stochastic_interpolant.SingleStochasticInterpolant"
    return {"class_path": name, "init_args": arguments}


def _costs(model: FlowModel) -> dict[str, float]:
    """Return the loss weights. OMatG requires one for each loss and a sum of 1; prediction does not use them."""
    keys = [f"{of}_loss_b" for of in FIELDS] + [f"{of}_loss_z" for of in FIELDS if _stochastic(model, of)]
    return {"species_loss": 0.0} | dict.fromkeys(keys, 1.0 / len(keys))


def _dataset(cell: object) -> str | None:
    """Return the name of OMatG's lattice distribution; None if it needs no name."""
    if isinstance(cell, CellByVolume):
        raise ModelError("its lattices start by_volume; train it with pretrain.lattices=informed to export it")
    if not isinstance(cell, InformedCell):
        return None
    name = name_of(cell)
    if name is None:
        raise ModelError(
            "its lattice distribution is fitted to other data than OMatG's own fits "
            f"({', '.join(FITS)}), so `omg predict` could not start from it"
        )
    return name


def _sampler(model: FlowModel, dataset: str | None) -> dict[str, Any]:
    base, species = model.description.base_distribution, model.description.paths.species
    if dataset is None:
        cell = names.to_omatg(base.cell, names.CELL_BASES)
    else:
        cell = {"class_path": names.INFORMED, "init_args": {"dataset_name": dataset}}
    return {
        "class_path": "omg.sampler.IndependentSampler",
        "init_args": {
            "pos_distribution": names.to_omatg(base.pos, names.POSITION_BASES),
            "cell_distribution": cell,
            "species_distribution": {
                "class_path": names.SPECIES_BASES[names.GIVEN.kind if species is None else species.kind]
            },
        },
    }


def _network(size: NetworkSettings) -> dict[str, Any]:
    if size.pooled or size.neighbors is not None or size.lattice != "metric" or size.separation:
        raise ModelError(
            "its network has pooled messages, nearest neighbors, shapes of lattices or a separation, which OMatG's "
            "CSPNet has not; to export it, train it without pretrain.network.pooled, .neighbors, .lattice and "
            ".separation"
        )
    return {
        "class_path": "omg.model.model.Model",
        "init_args": {
            "encoder": {
                "class_path": "omg.model.encoders.cspnet_full.CSPNetFull",
                "init_args": {
                    "hidden_dim": size.hidden,
                    "latent_dim": size.time_features,
                    "num_layers": size.layers,
                    "num_freqs": size.frequencies,
                    "max_atoms": size.max_atomic_number,
                },
            },
            "head": {"class_path": "omg.model.heads.pass_through.PassThrough"},
            "time_embedder": {
                "class_path": "omg.model.model_utils.SinusoidalTimeEmbeddings",
                "init_args": {"dim": size.time_features},
            },
        },
    }


def _same(first: CSPNet, second: CSPNet) -> bool:
    theirs = second.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in first.state_dict().items())
