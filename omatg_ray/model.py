"""`FlowModel`: a complete sampler, as pretraining and reinforcement produce it and `load` reads it.

On disk it is a folder with two files: `model.json` describes it, `weights.safetensors` holds the base network under
`base.` and, after reinforcement, the policy's network under `policy.`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from omatg_ray.bundle import asset, is_bundled
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName
from omatg_ray.errors import ModelError
from omatg_ray.flow.loss import PathSettings
from omatg_ray.flow.network import CSPNet, NetworkSettings
from omatg_ray.policy.annealing import LinearAnnealing
from omatg_ray.policy.drift import AnnealedDrift, VelocityDrift
from omatg_ray.policy.noise import NoiseSettings
from omatg_ray.policy.policy import Policy, draw_noise, time_grid
from omatg_ray.seeding import seed_of
from omatg_ray.settings import Settings

if TYPE_CHECKING:
    from pymatgen.core import Structure

FORMAT: Final = "omatg_ray.model.1"
DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
CHUNK_PAIRS = 20_000
"""Ordered pairs of atoms per network call when generating, unless the caller says otherwise."""

NoiseMode = Literal["none", "policy"]


class ModelDescription(Settings):
    """What `model.json` says: everything but the weights."""

    format: Literal["omatg_ray.model.1"] = FORMAT
    network: NetworkSettings
    paths: PathSettings
    base_distribution: BaseDistribution
    elements: list[str] = Field(description="symbols of the training set's elements")
    sizes: list[int] = Field(description="atoms per cell that occur in the training set")
    active: list[FieldName] = Field([], description="fields that reinforcement acted on; empty for a base model")
    noise: dict[FieldName, NoiseSettings] = Field({}, description="policy noise of the active fields")
    annealing: LinearAnnealing | None = Field(None, description="velocity annealing the sampler was trained with")
    potential: str | None = Field(None, description="potential that rewarded it: name or folder")
    provenance: dict[str, Any] = Field({}, description="how it was made")


def chunks_by_pairs(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Consecutive indices in chunks whose ordered pairs of atoms add up to at most `limit` (one structure at least)."""
    chunks: list[list[int]] = []
    used = 0
    for index, size in enumerate(sizes):
        if not chunks or used + size * size > limit:
            chunks.append([])
            used = 0
        chunks[-1].append(index)
        used += size * size
    return chunks


class FlowModel:
    """A crystal generator: network, frozen base, base distribution, schedule and noise.

    Args:
        description: Everything but the weights.
        base_network: The pretrained network; drives frozen fields.
        network: The reinforced network; the base network where there is none.

    Example:
        >>> model = FlowModel.load("runs/perov5/checkpoints/best")      # doctest: +SKIP
        >>> model.sample(["BaTiO3"] * 8, steps=50, seed=0)              # doctest: +SKIP
    """

    def __init__(self, description: ModelDescription, base_network: CSPNet, network: CSPNet | None = None) -> None:
        self.description = description
        self.base_network = base_network.eval().requires_grad_(False)
        self.network = base_network if network is None else network
        if bool(description.active) != (network is not None):
            raise ModelError("a reinforced model needs a policy network and active fields, a base model neither")

    # --- files ------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> FlowModel:
        """Reads a model folder, the best checkpoint of a run folder, or with "bundled" the model of the package.

        Raises:
            ModelError: The folder, a file or a weight is missing, torn, or of another architecture.
            DataError: A file of the bundled model is missing or damaged.
        """
        folder = asset("base") if is_bundled(path) else Path(path)
        if not (folder / DESCRIPTION_FILE).is_file() and (folder / "checkpoints" / "best").is_dir():
            folder = folder / "checkpoints" / "best"
        if not (folder / DESCRIPTION_FILE).is_file():
            raise ModelError(f"{path}: no model here (a model folder holds {DESCRIPTION_FILE} and {WEIGHTS_FILE})")
        try:
            description = ModelDescription.model_validate(json.loads((folder / DESCRIPTION_FILE).read_text()))
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / DESCRIPTION_FILE} is not a description of this version: {error}") from error
        try:
            weights = load_file(folder / WEIGHTS_FILE, device=str(device))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from error
        networks = [
            cls._network(description.network, weights, prefix, folder).to(device)
            for prefix in (["base.", "policy."] if description.active else ["base."])
        ]
        return cls(description, *networks)

    @staticmethod
    def _network(settings: NetworkSettings, weights: dict[str, Tensor], prefix: str, folder: Path) -> CSPNet:
        network = CSPNet(settings)
        state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"{folder}: the weights do not fit the network that {DESCRIPTION_FILE} names: {error}"
            ) from error
        return network

    def save(self, folder: Path) -> None:
        """Writes both files into an existing folder (callers write it aside and rename it)."""
        weights = {f"base.{k}": v for k, v in self.base_network.state_dict().items()}
        if self.description.active:
            weights |= {f"policy.{k}": v for k, v in self.network.state_dict().items()}
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, folder / WEIGHTS_FILE)
        (folder / DESCRIPTION_FILE).write_text(self.description.model_dump_json(indent=1) + "\n")

    # --- sampling ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.base_network.parameters()).device

    def to(self, device: torch.device | str) -> FlowModel:
        """Moved to a device, in place."""
        self.base_network.to(device)
        self.network.to(device)
        return self

    def policy(self, schedule: LinearAnnealing | None = None) -> Policy:
        """The step policy of this sampler; `schedule` replaces the annealing it was trained with."""
        annealing = self.description.annealing if schedule is None else schedule
        drift, base = (VelocityDrift(network) for network in (self.network, self.base_network))
        return Policy(
            drift=drift if annealing is None else AnnealedDrift(drift, annealing),
            base=base if annealing is None else AnnealedDrift(base, annealing),
            active=self.description.active,
            noise=self.description.noise,
        )

    def generate(
        self,
        species: Sequence[Sequence[int]],
        steps: int = 50,
        schedule: LinearAnnealing | None = None,
        seed: int = 0,
        noise: NoiseMode = "none",
        indices: Sequence[int] | None = None,
        chunk_pairs: int = CHUNK_PAIRS,
    ) -> CrystalBatch:
        """One crystal for each list of atomic numbers, packed, on the CPU.

        Structure i depends on (seed, indices[i]) alone: neither the batch, the device nor the worker that generates
        it changes it beyond float rounding.

        Args:
            species: Atomic numbers of each cell.
            steps: Grid points; steps − 1 Euler steps.
            schedule: Annealing in place of the model's own.
            seed: Seed of x_0 and noise.
            noise: Without noise, or with that of the policy (a base model has none).
            indices: Identity of each structure; its place in the list by default.
            chunk_pairs: Ordered pairs of atoms per network call, which bound memory.
        """
        self.network.require(z for structure in species for z in structure)
        times, policy = time_grid(steps), self.policy(schedule)
        keys = range(len(species)) if indices is None else indices
        if len(keys) != len(species):
            raise ValueError(f"{len(keys)} indices for {len(species)} structures")
        if not species:
            return CrystalBatch.from_structures([])
        seeds = [seed_of(seed, "structure", index) for index in keys]
        parts = []
        for chunk in chunks_by_pairs([len(z) for z in species], chunk_pairs):
            chunk_seeds = [seeds[i] for i in chunk]
            x_0 = self.description.base_distribution.sample([species[i] for i in chunk], chunk_seeds).to(self.device)
            fields = policy.active if noise == "policy" else ()
            parts.append(policy.integrate(x_0, times, draw_noise(x_0, steps, chunk_seeds, fields)).to("cpu"))
        return CrystalBatch.cat(parts)

    def sample(
        self,
        formulas: Sequence[str],
        steps: int = 50,
        schedule: LinearAnnealing | None = None,
        seed: int = 0,
        noise: NoiseMode = "none",
    ) -> list[Structure]:
        """One crystal for each formula, which gives the atoms of the cell: 'TiO2' three atoms, 'Ti2O4' six.

        Raises:
            FormulaError: A formula cannot be parsed.
        """
        from omatg_ray.crystal.formula import cell_species

        return self.generate([cell_species(f) for f in formulas], steps, schedule, seed, noise).to_structures()
