"""Names of the parts of a flow in OMatG and in this package: one table for both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from omatg_ray.crystal.fields import FieldName
from omatg_ray.errors import ModelError
from omatg_ray.omatg.configuration import Configured
from omatg_ray.settings import Settings


@dataclass(frozen=True)
class Name:
    """One class of OMatG and the settings it corresponds to.

    Attributes:
        kind: Kind of the settings.
        path: Class path in OMatG.
        arguments: Keys of the settings, by OMatG's argument names.
        nested: The same for arguments that are themselves classes: key and table of names.
    """

    kind: str
    path: str
    arguments: dict[str, str] = field(default_factory=dict)
    nested: dict[str, tuple[str, Sequence[Name]]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the class in OMatG."""
        return self.path.rpartition(".")[2]


TAUS = [
    Name("constant", "omg.si.tau.TauConstantSchedule"),
    Name("linear", "omg.si.tau.TauLinearSchedule", {"beta_min": "beta_min", "beta_max": "beta_max"}),
    Name("cosine", "omg.si.tau.TauCosineSchedule", {"offset": "offset"}),
]
SWITCH = {"switch_time": "switch_time", "power": "power"}
INTERPOLANTS = [
    Name("linear", "omg.si.interpolants.LinearInterpolant"),
    Name("trigonometric", "omg.si.interpolants.TrigonometricInterpolant"),
    Name("encoder_decoder", "omg.si.interpolants.EncoderDecoderInterpolant", SWITCH),
    Name("mirror", "omg.si.interpolants.MirrorInterpolant"),
    Name("vp", "omg.si.interpolants.ScoreBasedDiffusionModelInterpolantVP", nested={"tau": ("schedule", TAUS)}),
    Name("ve", "omg.si.interpolants.ScoreBasedDiffusionModelInterpolantVE"),
]
SIGMA = Name("ve", "omg.si.sigma.GeometricSigma", {"sigma_min": "sigma_min", "sigma_max": "sigma_max"})
"""The only schedule of variance-exploding diffusion; its arguments are keys of the path itself here."""

GAMMAS = [
    Name("sqrt", "omg.si.gamma.LatentGammaSqrt", {"a": "a"}),
    Name("encoder_decoder", "omg.si.gamma.LatentGammaEncoderDecoder", {"a": "a", **SWITCH}),
]
EPSILONS = [
    Name("constant", "omg.si.epsilon.ConstantEpsilon", {"c": "c"}),
    Name("vanishing", "omg.si.epsilon.VanishingEpsilon", {"c": "c", "mu": "mu", "sigma": "width"}),
]
GIVEN = Name("given", "omg.si.single_stochastic_interpolant_identity.SingleStochasticInterpolantIdentity")
SPECIES = [
    GIVEN,
    Name("mask", "omg.si.discrete_flow_matching_mask.DiscreteFlowMatchingMask", {"noise": "noise"}),
    Name("uniform", "omg.si.discrete_flow_matching_uniform.DiscreteFlowMatchingUniform", {"noise": "noise"}),
]
SPECIES_BASES = {
    "given": "omg.sampler.species_distributions.MirrorSpecies",
    "mask": "omg.sampler.species_distributions.MaskSpeciesDistribution",
    "uniform": "omg.sampler.species_distributions.UniformSpeciesDistribution",
}
"""Base distribution of each species path, by kind."""
NORMAL = {"loc": "loc", "scale": "scale"}
POSITION_BASES = [
    Name("uniform", "omg.sampler.position_distributions.UniformPositionDistribution"),
    Name("normal", "omg.sampler.position_distributions.NormalPositionDistribution", NORMAL),
    Name("sobol", "omg.sampler.position_distributions.SobolSequence"),
    Name("mirror", "omg.sampler.position_distributions.MirrorPosition"),
]
CELL_BASES = [
    Name("normal", "omg.sampler.cell_distributions.NormalCellDistribution", NORMAL),
    Name("mirror", "omg.sampler.cell_distributions.MirrorCell"),
]
INFORMED = "omg.sampler.cell_distributions.InformedLatticeDistribution"
NOISES = [
    Name("constant", "omg.omg_irl.ConstantNoiseSchedule", {"noise_scale": "a"}),
    Name("sqrt", "omg.omg_irl.SqrtNoiseSchedule", {"noise_scale": "a"}),
    Name(
        "learned",
        "omg.omg_irl.MLPNoiseSchedule",
        {"initial_noise_scale": "a", "hidden_dimension": "hidden", "number_hidden_layers": "layers"},
    ),
]
PERIODIC = "Periodic"


def from_omatg(value: Configured, table: Sequence[Name]) -> dict[str, Any]:
    """Translate a class of OMatG into settings, as plain values.

    Raises:
        ModelError: The class or an argument is unknown.
    """
    entry = next((entry for entry in table if entry.name == value.name), None)
    if entry is None:
        raise ModelError(
            f"{value.where}: {value.name} is not supported; supported: {', '.join(entry.name for entry in table)}"
        )
    value.only({*entry.arguments, *entry.nested})
    settings: dict[str, Any] = {"kind": entry.kind}
    for theirs, ours in entry.arguments.items():
        if theirs in value.arguments:
            number = value.number(theirs, 0.0)
            settings[ours] = int(number) if number.is_integer() else number
    for theirs, (ours, inner) in entry.nested.items():
        settings[ours] = from_omatg(value.child(theirs), inner)
    return settings


def to_omatg(settings: Settings, table: Sequence[Name]) -> dict[str, Any]:
    """Translate settings into a class of OMatG, with all its arguments.

    Raises:
        ModelError: OMatG has no such class.
    """
    kind = getattr(settings, "kind", "")
    entry = next((entry for entry in table if entry.kind == kind), None)
    if entry is None:
        raise ModelError(f"OMatG has no counterpart of {kind!r}")
    arguments = {theirs: getattr(settings, ours) for theirs, ours in entry.arguments.items()}
    arguments |= {theirs: to_omatg(getattr(settings, ours), inner) for theirs, (ours, inner) in entry.nested.items()}
    return {"class_path": entry.path, **({"init_args": arguments} if arguments else {})}


def interpolant_from_omatg(value: Configured, of: FieldName) -> dict[str, Any]:
    """Read kind and parameters of a field's interpolant. Positions are periodic, lattices are not.

    Raises:
        ModelError: The interpolant is unknown, or its periodicity does not fit the field.
    """
    periodic = value.name.startswith(PERIODIC)
    if periodic != (of == "pos"):
        raise ModelError(
            f"{value.where}: {value.name} is {'periodic' if periodic else 'not periodic'}; here positions always live "
            "on the torus and lattices never do"
        )
    plain = Configured(value.name.removeprefix(PERIODIC), value.arguments, value.where)
    if plain.name != "ScoreBasedDiffusionModelInterpolantVE":
        return from_omatg(plain, INTERPOLANTS)
    plain.only(["sigma"])
    return from_omatg(plain.child("sigma"), [SIGMA])


def interpolant_to_omatg(path: Settings, of: FieldName) -> dict[str, Any]:
    """Return OMatG's class for the path of a field."""
    value = to_omatg(path, INTERPOLANTS)
    if getattr(path, "kind", "") == "ve":
        value["init_args"] = {"sigma": to_omatg(path, [SIGMA])}
    if of == "pos":
        module, _, name = value["class_path"].rpartition(".")
        value["class_path"] = f"{module}.{PERIODIC}{name}"
    return value
