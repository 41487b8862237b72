"""`FlowModel`: a complete sampler, which pretraining and reinforcement produce and `load` reads.

On disk it is a folder with two files. `model.json` describes it. `weights.safetensors` holds the base network under
`base.`, and what reinforcement learned: the policy's network under `policy.`, a schedule under `schedule.`, noise
schedules under `noise.`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omatg_ray.assets import asset, model_named
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import Trained, report_outside
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.crystal.formula import cell_species
from omatg_ray.errors import ModelError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.species import draw_jumps
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.sampling import DEFAULT, EULER, UNGUIDED, Sampling, chunks_by_pairs
from omatg_ray.model.variants import Variant, variant
from omatg_ray.policy.drift import Drift, Score, annealed_velocity
from omatg_ray.policy.noise import LearnedNoise, Noise
from omatg_ray.policy.ode import solve
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.schedule import LearnedSchedule, Schedule, require_straight_paths
from omatg_ray.policy.settings import CHUNK_PAIRS, LearnedScheduleSettings, NoiseMode
from omatg_ray.run.checkpoints import DESCRIPTION_FILE, WEIGHTS_FILE, model_folder
from omatg_ray.run.location import BUNDLED, Location, bundled_set, is_remote
from omatg_ray.run.sync import fetch_model
from omatg_ray.seeding import seed_of

if TYPE_CHECKING:
    from pymatgen.core import Structure


def _makers(description: ModelDescription) -> dict[str, Callable[[], nn.Module]]:
    """Return what builds each part that reinforcement learns of a model, by the part's name."""
    makers: dict[str, Callable[[], nn.Module]] = {}
    if description.active:
        makers |= {name: partial(make, description) for name, make in variant(description.variant).learns.items()}
    if isinstance(description.schedule, LearnedScheduleSettings):
        makers["schedule"] = partial(LearnedSchedule, description.schedule)
    noise = {field: description.noise[field] for field in description.active}
    learned = {str(field): settings for field, settings in noise.items() if settings.kind == "learned"}
    if learned:
        makers["noise"] = lambda: nn.ModuleDict({field: LearnedNoise(settings) for field, settings in learned.items()})
    return makers


def new_modules(description: ModelDescription) -> nn.ModuleDict:
    """Build the parts that reinforcement learns, untrained: those that its variant names, `schedule` and `noise`.

    The weights of a variant's network are random, a new schedule changes nothing, and new noise is as configured.
    """
    return nn.ModuleDict({name: make() for name, make in _makers(description).items()})


def _load_weights(module: nn.Module, weights: Mapping[str, Tensor], prefix: str, folder: Path) -> None:
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"{folder}: the weights do not fit the network that {DESCRIPTION_FILE} describes: {error}"
        ) from error


class FlowModel:
    """Crystal generator: network, frozen base, base distribution, schedule and noise.

    Args:
        description: Everything but the weights.
        base_network: Pretrained network; drives frozen fields.
        learned: The parts that reinforcement learned, as `new_modules` builds them; none in a base model.

    Raises:
        ModelError: `learned` has other parts than the description.

    Example:
        >>> model = FlowModel.load("runs/perov5/checkpoints/best")      # doctest: +SKIP
        >>> model.sample(["BaTiO3"] * 8, steps=50, seed=0)              # doctest: +SKIP
    """

    def __init__(
        self, description: ModelDescription, base_network: CSPNet, learned: nn.ModuleDict | None = None
    ) -> None:
        self.description = description
        self.base_network = base_network.eval().requires_grad_(False)
        self.learned = nn.ModuleDict() if learned is None else learned
        expected = set(_makers(description))
        if set(self.learned) != expected:
            raise ModelError(
                f"a {description.variant} model with active fields {description.active} consists of "
                f"{', '.join(sorted(expected)) or 'its base alone'}, not of "
                f"{', '.join(sorted(self.learned)) or 'its base alone'}"
            )

    @property
    def variant(self) -> Variant:
        """Return the kind of policy that reinforcement trained."""
        return variant(self.description.variant)

    @property
    def network(self) -> CSPNet:
        """Return the network that drives active fields; the base network if none was reinforced."""
        return cast("CSPNet", self.learned["policy"]) if "policy" in self.learned else self.base_network

    @property
    def schedule(self) -> Schedule | None:
        """Return the schedule of the velocity that the model was trained with, or learned."""
        if "schedule" in self.learned:
            return cast("LearnedSchedule", self.learned["schedule"])
        return cast("Schedule | None", self.description.schedule)

    @property
    def annealing(self) -> Schedule | None:
        """Return `schedule` under its old name."""
        warnings.warn("FlowModel.annealing is now FlowModel.schedule; the old name still works", stacklevel=2)
        return self.schedule

    # --- files ------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Location, device: torch.device | str = "cpu") -> FlowModel:
        """Read a model folder, the best checkpoint of a run folder, or with "bundled" the best model of the package.

        Args:
            path: Folder, or URL of one.
            device: Device of its networks.

        Raises:
            ModelError: The folder, a file or a weight is missing, truncated, or of another architecture.
            DataError: A file of the bundled model is missing or damaged.
            StorageError: The URL cannot be reached.
        """
        if is_remote(path):
            with fetch_model(path, DESCRIPTION_FILE) as copy:
                return cls.load(copy, device)
        folder = model_folder(Path(path)) if bundled_set(path) is None else asset(*model_named(str(path)))
        try:
            description = ModelDescription.model_validate(
                json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / DESCRIPTION_FILE} is not a description of this version: {error}") from error
        try:
            weights = load_file(folder / WEIGHTS_FILE, device=str(device))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from error
        base = CSPNet(description.network)
        _load_weights(base, weights, "base.", folder)
        learned = new_modules(description)
        _load_weights(learned, {k: v for k, v in weights.items() if not k.startswith("base.")}, "", folder)
        return cls(description, base.to(device), learned.to(device).requires_grad_(False))

    def save(self, folder: Path) -> None:
        """Write both files into an existing folder; for atomicity, callers pass a temporary one and rename it."""
        weights = {f"base.{k}": v for k, v in self.base_network.state_dict().items()}
        weights |= self.learned.state_dict()
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS_FILE)
        (folder / DESCRIPTION_FILE).write_text(self.description.model_dump_json(indent=1) + "\n", encoding="utf-8")

    # --- sampling ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.base_network.parameters()).device

    def to(self, device: torch.device | str) -> FlowModel:
        """Move to a device, in place."""
        self.base_network.to(device)
        self.learned.to(device)
        return self

    def policy(self, schedule: Schedule | None = None, sde: bool = False) -> Policy:
        """Return the step policy of this sampler.

        Args:
            schedule: Replaces the schedule that the model was trained with or has learned. A model that has learned one
                then moves as its base does.
            sde: Whether a base model whose interpolant has ε follows its stochastic process: drift b − (ε / γ) η and
                noise √(2 ε).

        Raises:
            ModelError: The base lacks what the policy's drift needs, or the schedule has a limit and a path bends.
        """
        as_base = self.variant.learns_schedule and schedule is not None
        schedule = self.schedule if schedule is None else schedule
        require_straight_paths(schedule, self.description.paths)
        if isinstance(schedule, LearnedSchedule):
            schedule.to(self.device)
        if self.description.active and not as_base:
            return self.variant.policy(self, schedule)
        return self._base_policy(schedule, sde)

    def _base_policy(self, schedule: Schedule | None, sde: bool) -> Policy:
        """Return the policy of the base alone."""
        paths = self.description.paths
        epsilon = {field: paths.of(field).epsilon for field in FIELDS} if sde else {}
        noise: dict[FieldName, Noise] = {field: e for field, e in epsilon.items() if e is not None}
        drift: Drift = annealed_velocity(schedule)
        if noise:
            drift = Score(noise, {field: self.gamma(field) for field in noise}, schedule)
        return Policy(drift, self.base_network, self.base_network, list(noise), noise, schedule, paths.species)

    @property
    def generates_species(self) -> bool:
        """Return whether the model also generates the species (de novo), from numbers of atoms."""
        return self.description.paths.species is not None

    def require_given_species(self) -> None:
        """Check that the model generates crystals of given formulas.

        Raises:
            ModelError: It also generates the species.
        """
        if self.generates_species:
            raise ModelError(
                "the model generates the species itself (de novo) and takes no formulas; give numbers of atoms: "
                "`omatg-ray generate MODEL --atoms 8`, or `FlowModel.generate` with lists of that length"
            )

    def annealed_as(self, other: FlowModel) -> FlowModel:
        """Return this sampler with the schedule of another, which may have none; shares the networks of both."""
        description = self.description.model_copy(update={"schedule": other.description.schedule})
        learned = nn.ModuleDict({name: module for name, module in self.learned.items() if name != "schedule"})
        if "schedule" in other.learned:
            learned["schedule"] = other.learned["schedule"]
        return FlowModel(description, self.base_network, learned)

    @property
    def noise(self) -> dict[FieldName, Noise]:
        """Return σ(t) of the active fields."""
        noise: dict[FieldName, Noise] = {field: self.description.noise[field] for field in self.description.active}
        if "noise" in self.learned:
            learned = cast("nn.ModuleDict", self.learned["noise"])
            noise |= {field: cast("LearnedNoise", learned[field]) for field in noise if field in learned}
        return noise

    def gamma(self, field: FieldName) -> Callable[[Tensor], Tensor]:
        """Return γ(t) of a field, or the weight in its role.

        Raises:
            ModelError: The field's interpolant has neither, and so no denoiser.
        """
        path = self.description.paths.of(field)
        if not path.has_denoiser:
            raise ModelError(
                f"the base has no denoiser for {field}: a score policy needs a base pretrained with "
                f"pretrain.paths.{field}.gamma"
            )
        return path.latent_scale

    def generate(
        self,
        species: Sequence[Sequence[int]],
        sampling: Sampling = DEFAULT,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        chunk_pairs: int = CHUNK_PAIRS,
        *,
        turns: Sequence[int] | None = None,
        judged: bool = False,
    ) -> CrystalBatch:
        """Generate one crystal for each list of atomic numbers, packed, on the CPU.

        Warns of compositions outside the training set's (`Domain`), if the model knows these.

        Structure i depends only on (seed, indices[i]). The batch, the device and the worker that generates it change it
        by float rounding at most.

        Args:
            species: Atomic numbers of each cell. A model that generates species uses only how many there are.
            sampling: Sampling options.
            seed: Seed of x_0 and noise.
            indices: Identity of each structure; by default its index in the list.
            chunk_pairs: Ordered pairs of atoms per network call; bounds memory.
            turns: Turn of each structure among the weights of guidance; by default its identity.
            judged: Whether the caller has warned already, for all of its crystals at once.

        Raises:
            ModelError: As `Sampling.check`, `policy` or `solve`; or fewer than 2 grid points.
            DataError: The network does not know an element.
            ValueError: There are more or fewer indices than structures.
        """
        if not isinstance(sampling, Sampling):
            raise TypeError(f"sampling: give Sampling(steps={sampling!r}, ...), not {sampling!r}")
        sampling.check(self)
        path, elements = self.description.paths.species, self.network.settings.max_atomic_number
        if path is None:
            self.network.require(z for structure in species for z in structure)
        trained = Trained("model", self.description.domain, True, self.generates_species)
        if not judged and (outside := report_outside([trained], species, "crystals")):
            warnings.warn(f"outside of what it was trained on: {outside}", stacklevel=2)
        policy = self.policy(sampling.schedule, sde=sampling.noise == "policy")
        times = policy.times(sampling.steps)
        keys = range(len(species)) if indices is None else indices
        if len(keys) != len(species):
            raise ValueError(f"{len(keys)} indices for {len(species)} structures")
        if not species:
            return CrystalBatch.from_structures([])
        seeds = [seed_of(seed, "structure", index) for index in keys]
        turns = keys if turns is None else turns
        parts = []
        for chunk in chunks_by_pairs([len(z) for z in species], chunk_pairs):
            chunk_seeds = [seeds[i] for i in chunk]
            x_0 = self.description.base_distribution.sample([species[i] for i in chunk], chunk_seeds).to(self.device)
            fields = policy.active if sampling.noise == "policy" else ()
            of_chunk = policy
            if sampling.guidance != UNGUIDED:
                of_chunk = policy.guided(sampling.weights([turns[i] for i in chunk]).to(self.device))
            draws = draw_noise(x_0, sampling.steps, chunk_seeds, fields, policy.drift.per_structure)
            jumps = None
            if path is not None:
                x_0 = path.start(x_0, chunk_seeds, elements)
                jumps = draw_jumps(x_0, sampling.steps, chunk_seeds)
            if sampling.solver == EULER:
                parts.append(of_chunk.integrate(x_0, times, draws, jumps=jumps).to("cpu"))
            else:
                parts.append(solve(of_chunk.velocity, x_0, times, sampling.solver).to("cpu"))
        return CrystalBatch.cat(parts)

    def sample(
        self,
        formulas: str | Sequence[str],
        steps: int = 50,
        schedule: Schedule | Location | None = None,
        seed: int = 0,
        noise: NoiseMode = "none",
        guidance: Sequence[float] = UNGUIDED,
    ) -> list[Structure]:
        """Generate one crystal for each formula, which gives the atoms of the cell: 'TiO2' three atoms, 'Ti2O4' six.

        A single text is one formula. `schedule` may be a text of the command, such as "linear:pos=5,cell=2", "bundled"
        or "none" (`read_schedule`). The rest is as in `Sampling` and `generate`.

        Raises:
            FormulaError: A formula cannot be parsed.
            ModelError: The model generates species, was never trained on an element, or as `generate`.
            ConfigError, DataError: As `read_schedule` and `generate`.
        """
        from omatg_ray.model.checks import refuse_unseen
        from omatg_ray.model.schedule import read_schedule

        self.require_given_species()
        asked = [formulas] if isinstance(formulas, str) else list(formulas)
        species = [cell_species(formula) for formula in asked]
        refuse_unseen(self, "the model", dict(zip(asked, species, strict=True)))
        named = read_schedule(schedule) if isinstance(schedule, str | Path) else schedule
        return self.generate(species, Sampling(steps, named, noise, guidance=tuple(guidance)), seed).to_structures()


def bundled_model() -> FlowModel:
    """Load the bundled base model.

    Raises:
        DataError: As `asset`.
    """
    return FlowModel.load(BUNDLED)
