"""Import of a base model: a description from OMatG's configuration, and the weights of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import Domain
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.errors import ModelError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings, PathSettings
from omatg_ray.flow.species import MASK
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg import names
from omatg_ray.omatg.checkpoint import Checkpoint
from omatg_ray.omatg.configuration import Configured, read_section, section
from omatg_ray.omatg.lattices import FITS, informed_cell
from omatg_ray.omatg.weights import ENCODER, encoder_from_omatg, load, refuse_unknown
from omatg_ray.policy.grid import T_MAX, T_MIN
from omatg_ray.policy.hand_made import LinearSchedule

# Defaults of CSPNetFull; other values make a different network.
ENCODER_FACTS: dict[str, Any] = {
    "act_fn": "silu",
    "dis_emb": "sin",
    "edge_style": "fc",
    "ln": True,
    "ip": True,
    "pred_type": True,
    "pred_scalar": False,
    "prop": False,
}
ENCODER_UNUSED = ("cutoff", "max_neighbors", "am_hidden_dim", "prop_embed_dim")
INTERPOLANT_ARGUMENTS = (
    "interpolant",
    "epsilon",
    "differential_equation_type",
    "integrator_kwargs",
    "correct_center_of_mass_motion",
    "velocity_annealing_factor",
)
TRAINING_KEYS = ("relative_si_costs", "use_min_perm_dist", "sobol_time", "validation_mode", "dataset_name")


@dataclass(frozen=True)
class Imported:
    """A model made from a checkpoint.

    Attributes:
        model: The model, on the CPU.
        notes: Sentences on what was left out or differs.
    """

    model: FlowModel
    notes: list[str]


def import_base(checkpoint: Checkpoint, tree: dict[str, Any], data: CrystalDataset | None = None) -> Imported:
    """Build a base model from an OMatG checkpoint and its configuration.

    Args:
        checkpoint: The checkpoint.
        tree: The configuration.
        data: Training crystals, which define the elements and cell sizes the model knows; None leaves both unknown.

    Raises:
        ModelError: The checkpoint is not OMatG's, does not fit the configuration, or generates in a way that is not
            supported.
    """
    model = _model_section(tree)
    notes: list[str] = []
    network = network_settings(read_section(section(model, "model", "model"), "model.model"))
    collection = read_section(section(model, "si", "model"), "model.si")
    interpolants = _by_field(collection)
    steps = int(collection.number("integration_time_steps", 0.0))
    notes.append(
        f"OMatG's configuration generates with {steps} grid points; use the same number here (--steps {steps})"
    )
    species = _species(interpolants["species"])
    with explain_errors_of("model.si"):
        paths = PathSettings.model_validate(
            {of: _path(of, interpolants[of], steps, notes) for of in FIELDS}
            | {"species": species, "pairing": None if model.get("use_min_perm_dist", False) else "as_drawn"}
        )
    slopes = {of: _slope(interpolants[of]) for of in FIELDS}
    with explain_errors_of("model.sampler"):
        sampler = read_section(section(model, "sampler", "model"), "model.sampler")
        distribution = _base_distribution(sampler)
    _check_species_base(sampler, paths, network)
    if paths.species is not None:
        network = network.model_copy(update={"mask": paths.species.masked})
    _note_sampling(paths, distribution, notes)

    refuse_unknown(checkpoint.state, (ENCODER,), checkpoint.path)
    weights, leftover = encoder_from_omatg(checkpoint.state, network.layers)
    encoder = CSPNet(network)
    load(encoder, weights, str(checkpoint.path))
    if leftover:
        layers = ", ".join(f"csp_layer_{index}" for index in leftover)
        notes.append(f"left out: {layers}, default layers that OMatG's network does not use")
    other = sorted({str(value.dtype).removeprefix("torch.") for value in checkpoint.state.values()} - {"float32"})
    if other:
        notes.append(f"weights were rounded from {', '.join(other)} to float32")
    notes.append("left out: training settings (optimizer, trainer, loss weights, data loading)")
    with explain_errors_of("model"):
        schedule = LinearSchedule(**slopes) if any(slopes.values()) else None
    training = {key: model[key] for key in TRAINING_KEYS if key in model}
    description = ModelDescription(
        network=network,
        paths=paths,
        base_distribution=distribution,
        # Empty means unknown.
        elements=[] if data is None else data.symbols,
        sizes=[] if data is None else sorted(data.sizes),
        domain=None if data is None else Domain.of(data.crystals),
        schedule=schedule,
        provenance=provenance(checkpoint) | {"integration_time_steps": steps, "training": training},
    )
    if data is None:
        notes.append(
            "the elements and cell sizes of its training set are unknown (give import-omatg its crystals with --data)"
        )
    return Imported(FlowModel(description, encoder), notes)


def provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the origin of an imported model, as plain values."""
    return {
        "command": "import-omatg",
        "checkpoint": checkpoint.path.name,
        "checkpoint_sha256": checkpoint.sha256,
        "epoch": checkpoint.epoch,
        "global_step": checkpoint.step,
    }


def network_settings(model: Configured) -> NetworkSettings:
    """Read the size of the network.

    Raises:
        ModelError: The network is not `CSPNetFull`, or has unsupported parts.
    """
    model.only(["encoder", "head", "time_embedder", "prop_embedder", "property_keys"])
    for part in ("prop_embedder", "property_keys"):
        if model.get(part, None) is not None:
            raise ModelError(f"{model.where}.{part}: models conditioned on properties cannot be imported")
    encoder, head, time = (model.child(part) for part in ("encoder", "head", "time_embedder"))
    for child, name in ((encoder, "CSPNetFull"), (head, "PassThrough"), (time, "SinusoidalTimeEmbeddings")):
        if child.name != name:
            raise ModelError(f"{child.where}: {child.name} is not supported; supported: {name}")
    encoder.only(["hidden_dim", "latent_dim", "num_layers", "max_atoms", "num_freqs", *ENCODER_FACTS, *ENCODER_UNUSED])
    for argument, fact in ENCODER_FACTS.items():
        if encoder.get(argument, fact) != fact:
            raise ModelError(f"{encoder.where}.{argument}: only {fact} is supported, not {encoder.get(argument, '')}")
    time_features = int(time.number("dim", 0))
    latent = int(encoder.number("latent_dim", 256))
    if time_features != latent:
        raise ModelError(f"{time.where}.dim is {time_features}, but {encoder.where}.latent_dim is {latent}")
    with explain_errors_of(encoder.where):
        return NetworkSettings(
            hidden=int(encoder.number("hidden_dim", 512)),
            layers=int(encoder.number("num_layers", 6)),
            frequencies=int(encoder.number("num_freqs", 128)),
            time_features=time_features,
            max_atomic_number=int(encoder.number("max_atoms", 100)),
        )


def _model_section(tree: dict[str, Any]) -> dict[str, Any]:
    model = tree["model"]
    return (model.get("init_args") or {}) if "class_path" in model else model


def _by_field(collection: Configured) -> dict[str, Configured]:
    listed = collection.get("stochastic_interpolants", None)
    fields = collection.get("data_fields", None)
    if not isinstance(listed, list) or not isinstance(fields, list) or len(listed) != len(fields):
        raise ModelError(f"{collection.where}: stochastic_interpolants and data_fields must be lists of equal length")
    by_field = {
        str(of).lower(): read_section(value, f"{collection.where}.stochastic_interpolants.{of}")
        for of, value in zip(fields, listed, strict=True)
    }
    missing = [of for of in ("species", *FIELDS) if of not in by_field]
    if missing:
        raise ModelError(f"{collection.where}.data_fields lacks {missing[0]}")
    return by_field


def _species(value: Configured) -> dict[str, Any] | None:
    """Return the path of the species as plain values; None if the species are given."""
    path = names.from_omatg(value, names.SPECIES)
    return None if path["kind"] == names.GIVEN.kind else path


def _path(of: FieldName, value: Configured, steps: int, notes: list[str]) -> dict[str, Any]:
    """Return the path of a field as plain values."""
    one_sided = value.name == "SingleStochasticInterpolantOS"
    if value.name not in ("SingleStochasticInterpolant", "SingleStochasticInterpolantOS"):
        raise ModelError(
            f"{value.where}: {value.name} is not supported; supported: SingleStochasticInterpolant, "
            "SingleStochasticInterpolantOS"
        )
    value.only([*INTERPOLANT_ARGUMENTS, *(["predict_velocity"] if one_sided else ["gamma"])])
    if value.get("predict_velocity", True) is not True:
        raise ModelError(f"{value.where}.predict_velocity: a model without a velocity cannot be imported")
    path = names.interpolant_from_omatg(value.child("interpolant"), of)
    if one_sided:
        path["one_sided"] = True
    elif value.get("gamma", None) is not None:
        path["gamma"] = names.from_omatg(value.child("gamma"), names.GAMMAS)
    kind = str(value.get("differential_equation_type", "")).upper()
    if kind == "SDE":
        path["epsilon"] = names.from_omatg(value.child("epsilon"), names.EPSILONS)
    elif kind != "ODE":
        raise ModelError(f"{value.where}.differential_equation_type must be ODE or SDE, not {kind or 'missing'}")
    _note_solver(of, value.get("integrator_kwargs", None) or {}, steps, notes)
    return path


def _note_solver(of: FieldName, solver: dict[str, Any], steps: int, notes: list[str]) -> None:
    method, longest = solver.get("method"), solver.get("dt")
    if method != "euler":
        notes.append(
            f"{of}: OMatG's configuration integrates with {method or 'a default solver'}; here it is the Euler method"
        )
    elif isinstance(longest, int | float) and steps > 1 and longest < (T_MAX - T_MIN) / (steps - 1) * (1 - 1e-3):
        notes.append(f"{of}: OMatG splits every step into shorter ones (dt = {longest:g}); generate with more steps")


def _slope(value: Configured) -> float:
    """Return the slope of the velocity annealing; null, which one-sided interpolants allow, means 0."""
    key = "velocity_annealing_factor"
    return 0.0 if value.get(key, None) is None else value.number(key, 0.0)


def _base_distribution(sampler: Configured) -> BaseDistribution:
    if sampler.name != "IndependentSampler":
        raise ModelError(f"{sampler.where}: {sampler.name} is not supported; supported: IndependentSampler")
    # OMatG's command line passes the batch size on to the sampler, which ignores it.
    sampler.only(["pos_distribution", "cell_distribution", "species_distribution", "batch_size"])
    cell = sampler.child("cell_distribution")
    if cell.name != names.INFORMED.rpartition(".")[2]:
        lattices: Any = names.from_omatg(cell, names.CELL_BASES)
    else:
        cell.only(["dataset_name"])
        dataset = str(cell.get("dataset_name", ""))
        if dataset not in FITS:
            raise ModelError(f"{cell.where}.dataset_name must be one of {', '.join(FITS)}")
        lattices = informed_cell(dataset)
    return BaseDistribution(
        pos=names.from_omatg(sampler.child("pos_distribution"), names.POSITION_BASES), cell=lattices
    )


def _check_species_base(sampler: Configured, paths: PathSettings, network: NetworkSettings) -> None:
    """Refuse a base distribution of the species that their path does not start from."""
    species, path = sampler.child("species_distribution"), paths.species
    expected = names.SPECIES_BASES[names.GIVEN.kind if path is None else path.kind].rpartition(".")[2]
    if species.name != expected:
        raise ModelError(
            f"{species.where}: {species.name} does not fit the interpolant of the species; expected: {expected}"
        )
    facts = {"mask": {"token": MASK}, "uniform": {"low": 1, "high": network.max_atomic_number + 1}}
    known = {} if path is None else facts[path.kind]
    species.only(known)
    for argument, fact in known.items():
        if species.number(argument, fact) != fact:
            raise ModelError(f"{species.where}.{argument}: only {fact} is supported, not {species.get(argument, '')}")


def _note_sampling(paths: PathSettings, distribution: BaseDistribution, notes: list[str]) -> None:
    if paths.species is not None:
        notes.append("it generates species: give it numbers of atoms (--atoms), not formulas")
        if paths.species.kind == "uniform" and paths.species.noise:
            notes.append(
                "species: OMatG's noise jumps from a wrong element to any other; here it jumps to the predicted one, "
                "in detailed balance"
            )
    stochastic = [of for of in FIELDS if paths.of(of).epsilon is not None]
    if stochastic:
        notes.append(
            f"OMatG samples {' and '.join(stochastic)} as an SDE, as --noise policy does here; without noise, the ODE "
            "of the same distribution is used"
        )
    mirrored = [of for of in FIELDS if getattr(distribution, of).kind == "mirror"]
    if mirrored:
        notes.append(f"{' and '.join(mirrored)} start from given crystals: it cannot generate from formulas")


@contextmanager
def explain_errors_of(where: str) -> Iterator[None]:
    """Turn pydantic's validation errors into a ModelError that names the section."""
    try:
        yield
    except ValidationError as error:
        lines = [f"{_key(problem['loc'])}{problem['msg'].removeprefix('Value error, ')}" for problem in error.errors()]
        raise ModelError(f"{where}: {'; '.join(lines)}") from error


def _key(location: Sequence[int | str]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""


def training_file(tree: dict[str, Any], config: Path) -> Path | None:
    """Find the training file that a configuration names, as a path or beside it; None if there is none."""
    dataset = (tree.get("data") or {}).get("train_dataset") or {}
    name = (dataset.get("init_args") or {}).get("file_path") if isinstance(dataset, dict) else None
    if not isinstance(name, str):
        return None
    return next((path for path in (Path(name), config.parent / name) if path.is_file()), None)
