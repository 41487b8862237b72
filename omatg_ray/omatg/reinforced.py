"""Import of a model that OMatG-IRL reinforced, on top of the base model it started from."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.errors import ModelError
from omatg_ray.flow.network import CSPNet
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.omatg import weights
from omatg_ray.omatg.base import Imported, explain_errors_of, provenance
from omatg_ray.omatg.checkpoint import Checkpoint
from omatg_ray.omatg.configuration import Configured, read_section
from omatg_ray.omatg.names import NOISES, from_omatg
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings

VARIANTS = {
    "OMGIRLVelocity": "velocity",
    "OMGIRLScaledVelocity": "velocity",
    "OMGIRLScore": "score",
    "OMGIRLScale": "annealing",
}
SCALED = ("OMGIRLScale", "OMGIRLScaledVelocity")


def is_reinforced(tree: dict[str, Any]) -> bool:
    """Return whether a configuration is one of OMatG-IRL."""
    return str(tree["model"].get("class_path", "")).rpartition(".")[2].startswith("OMGIRL")


def import_reinforced(checkpoint: Checkpoint, tree: dict[str, Any], base: FlowModel) -> Imported:
    """Build a reinforced model from an OMatG-IRL checkpoint, its configuration and the base model.

    Frozen fields follow the base, as in OMatG-IRL. The velocity annealing in the base's own configuration is ignored,
    as OMatG-IRL does.

    Args:
        checkpoint: Checkpoint of the reinforcement.
        tree: Configuration of the reinforcement.
        base: The base model, already imported.

    Raises:
        ModelError: The variant is unknown, `base` is not a base model or lacks a denoiser that the variant needs, or
            the checkpoint does not fit.
    """
    if base.description.active:
        raise ModelError("--base names a reinforced model; give the base model that OMatG-IRL started from")
    configuration = read_section(tree["model"], "model")
    if configuration.name not in VARIANTS:
        raise ModelError(f"model: {configuration.name} is not supported; supported: {', '.join(VARIANTS)}")
    active = _active(configuration)
    description = base.description.model_copy(
        update={
            "variant": VARIANTS[configuration.name],
            "active": active,
            "noise": {of: _noise(configuration, of) for of in active},
            "schedule": _schedule(configuration, active),
            "provenance": provenance(checkpoint) | {"base_provenance": base.description.provenance},
        }
    )
    notes = ["left out: training settings (reward, optimizer, reference noise, weights of the objective)"]
    if base.description.schedule is not None:
        notes.append("the velocity annealing of the base is left out, as OMatG-IRL ignores it")
    if configuration.name == "OMGIRLScale" and len(active) < len(FIELDS):
        notes.append("left out: the schedule of the frozen field, which OMatG-IRL does not use")
    model = FlowModel(description, base.base_network, _learned(checkpoint, description))
    if model.variant.stochastic:
        for of in active:
            # A score policy needs the denoiser in its drift. Fail now rather than when generating.
            if not description.paths.of(of).has_denoiser:
                raise ModelError(f"--base: it has no denoiser for {of}, which a score policy needs (gamma is null)")
    return Imported(model, notes)


def _learned(checkpoint: Checkpoint, description: ModelDescription) -> nn.ModuleDict:
    state, path = checkpoint.state, str(checkpoint.path)
    modules = new_modules(description)
    prefixes = {"policy": weights.ENCODER, "schedule": weights.SCHEDULE, "noise": weights.NOISE}
    weights.refuse_unknown(state, tuple(prefix for part, prefix in prefixes.items() if part in modules), path)
    if "policy" in modules:
        tensors, _ = weights.encoder_from_omatg(state, description.network.layers)
        weights.load(cast("CSPNet", modules["policy"]), tensors, path)
    if "schedule" in modules:
        schedule = cast("LearnedScheduleSettings", description.schedule)
        weights.load(modules["schedule"], weights.schedule_from_omatg(state, schedule.fields), f"{path}, scale_model")
    if "noise" in modules:
        weights.load(modules["noise"], weights.noise_from_omatg(state), f"{path}, noise_schedule_modules")
    return modules


def _active(configuration: Configured) -> list[FieldName]:
    disabled = configuration.get("disable_fields", None) or []
    names = {str(of).lower() for of in ([disabled] if isinstance(disabled, str) else disabled)}
    active = [of for of in FIELDS if of not in names]
    if not active:
        raise ModelError("model.init_args.disable_fields names both positions and lattices; nothing was reinforced")
    return active


def _noise(configuration: Configured, of: FieldName) -> NoiseSettings:
    schedules = configuration.get("noise_schedules", None)
    where = f"{configuration.where}.init_args.noise_schedules.{of}"
    if not isinstance(schedules, dict) or of not in schedules:
        raise ModelError(f"{where} is missing")
    with explain_errors_of(where):
        return NoiseSettings.model_validate(from_omatg(read_section(schedules[of], where), NOISES))


def _schedule(configuration: Configured, active: list[FieldName]) -> LearnedScheduleSettings | None:
    if configuration.name not in SCALED:
        return None
    where = f"{configuration.where}.init_args.scale_model"
    value = configuration.get("scale_model", None)
    # The argument has a single class, so Lightning also accepts the arguments without naming it.
    if value is None or (isinstance(value, dict) and "class_path" not in value):
        value = {"class_path": "ScaleMLP", "init_args": value}
    scale = read_section(value, where)
    scale.only(["hidden_dimension", "number_hidden_layers", "initialize_zeros", "shared_trunk", "checkpoint"])
    with explain_errors_of(where):
        return LearnedScheduleSettings(
            hidden=int(scale.number("hidden_dimension", 64)),
            layers=int(scale.number("number_hidden_layers", 2)),
            shared=bool(scale.get("shared_trunk", True)),
            # An annealing policy leaves its frozen field to the base; a scaled velocity policy anneals both fields.
            fields=active if configuration.name == "OMGIRLScale" else list(FIELDS),
        )
