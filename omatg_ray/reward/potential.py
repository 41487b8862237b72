"""MatGL potentials: safe loading, checks of their energies, and evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omatg_ray.assets import asset
from omatg_ray.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
from omatg_ray.errors import PotentialError
from omatg_ray.reward.known_energies import KNOWN_ENERGIES, check_energy_volume_curve, check_known_energies
from omatg_ray.reward.matgl_start import import_matgl
from omatg_ray.reward.settings import WEIGHT_FILES, potential_folder
from omatg_ray.run.home import import_with_home
from omatg_ray.run.location import absolute_name, is_bundled

if TYPE_CHECKING:
    import matgl.apps.pes
    from torch_geometric.data import Batch

# MatGL creates a folder in the home when it is imported. Every process imports this module before MatGL, including
# actors, which unpickle MatGL's objects as parts of this module's.
HOMELESS = import_with_home(import_matgl, ".cache/matgl")


CPU_CHUNK_EDGES = 2000
"""Directed edges evaluated at once on a CPU.

With fewer, TensorNet spends its time on call overhead; with many more, intermediate results no longer fit the cache.
"""
DEVICE_CHUNK_EDGES = 100_000
"""Directed edges evaluated at once on an accelerator, which needs large chunks; TensorNet takes 34 kB per edge."""


class Potential:
    """Energies of crystals from a MatGL potential; built by `load_potential`.

    Weights are frozen. Except in `gradients`, forces and stresses are off and nothing is recorded for gradients.

    Attributes:
        name: That of a bundled set, the name it was fetched by, or the absolute path of its folder.
        elements: Atomic numbers it knows.
        cutoff: Radius of its neighbour lists in Å.
        fingerprint: Short hash of the weight files; equal fingerprints mean equal energies.
        device: Device on which energies are evaluated.
        domain: Compositions that it was trained on; None if it does not say.
    """

    def __init__(
        self,
        module: matgl.apps.pes.Potential,
        name: str,
        fingerprint: str,
        device: torch.device | str = "cpu",
        domain: Domain | None = None,
    ) -> None:
        from pymatgen.core import Element

        from omatg_ray.reward.tensornet_sum import sum_in_memory_order

        self.name, self.fingerprint, self.device = name, fingerprint, torch.device(device)
        self.domain = domain
        module.calc_forces = module.calc_stresses = module.calc_hessian = False
        sum_in_memory_order(module)
        self._module = module.eval().requires_grad_(False).to(self.device)
        network: Any = module.model
        self.cutoff = float(network.cutoff)
        self._node_types = node_types(network.element_types)
        self._numbers = torch.tensor([Element(symbol).Z for symbol in network.element_types])
        self.elements = frozenset(self._numbers.tolist())

    def __repr__(self) -> str:
        return f"Potential({self.name!r}, {len(self.elements)} elements, {self.fingerprint}, {self.device})"

    def __reduce__(self) -> tuple[Callable[[], Potential], tuple[()], dict[str, Any]]:
        return _blank_potential, (), self.__dict__

    def to(self, device: torch.device | str) -> Potential:
        """Move to a device, in place."""
        self.device = torch.device(device)
        self._module.to(self.device)
        return self

    def require_elements(self, elements: Iterable[int]) -> None:
        """Refuse atomic numbers that the potential does not know.

        Raises:
            PotentialError: Some are unknown; the message lists them by symbol.
        """
        unknown = sorted(set(elements) - self.elements)
        if unknown:
            from pymatgen.core import Element

            symbols = ", ".join(Element.from_Z(z).symbol for z in unknown)
            raise PotentialError(
                f"potential {self.name} does not know {symbols}; leave these elements out or use one that knows them"
            )

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True) -> Tensor:
        """Return energies in eV per structure.

        Args:
            crystals: B structures that passed `check_validity`. Energies of others are meaningless and may take very
                long.
            chunk_edges: Directed neighbour pairs evaluated at once; affects time and memory, and energies only by
                rounding. Default: `CPU_CHUNK_EDGES` on a CPU, `DEVICE_CHUNK_EDGES` elsewhere.
            repulsion: Whether overlapping atoms get the additional energy of `omatg_ray.reward.repulsion`. Without it,
                and for structures in which no atoms overlap, energies are MatGL's own.

        Returns:
            (B,), float64, on the CPU.

        Raises:
            PotentialError: An element is unknown.
            DataError: A structure is not finite or its cell spans no volume.
        """
        from omatg_ray.reward.repulsion import graph_repulsion

        energies = [torch.zeros(0, dtype=torch.float64)]
        with torch.no_grad():
            for graph, cell in self._graphs(crystals, chunk_edges):
                energy = self._module(graph, cell)[0].double().view(-1)
                if repulsion:
                    energy = energy + graph_repulsion(graph, cell, self._numbers.to(self.device), self.cutoff)
                energies.append(energy.cpu())
        return torch.cat(energies)

    def gradients(
        self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return energies with their derivatives, all float64 and on the CPU; arguments and errors as for `energies`.

        Returns:
            Energies in eV (B,); forces −dE/dr in eV/Å (sum N, 3), Cartesian; strain derivatives dE/dε in eV (B, 3, 3),
            of lattices L (1 + ε) with fixed fractional positions: stress times volume.
        """
        from omatg_ray.reward.repulsion import graph_repulsion

        energies, forces = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, 3, dtype=torch.float64)]
        virials = [torch.zeros(0, 3, 3, dtype=torch.float64)]
        for graph, cell in self._graphs(crystals, chunk_edges):
            energy, gradient, virial = (values.detach().double() for values in self._differentiate(graph, cell))
            energy, virial = energy.view(-1), virial.view(-1, 3, 3)
            if repulsion:
                frac, cell = graph.frac_coords.double(), cell.double()
                shift = torch.zeros_like(frac, requires_grad=True)
                strain = torch.zeros_like(cell, requires_grad=True)
                strained = cell @ (torch.eye(3, dtype=cell.dtype, device=cell.device) + strain)
                graph.frac_coords = frac + (shift[:, None] @ torch.linalg.inv(cell)[graph.batch])[:, 0]
                extra = graph_repulsion(graph, strained, self._numbers.to(self.device), self.cutoff)
                by_shift, by_strain = torch.autograd.grad(extra.sum(), (shift, strain))
                energy, gradient, virial = energy + extra.detach(), gradient + by_shift, virial + by_strain
            energies.append(energy.cpu())
            forces.append(-gradient.cpu())
            virials.append(virial.cpu())
        return torch.cat(energies), torch.cat(forces), torch.cat(virials)

    def _graphs(self, crystals: CrystalBatch, chunk_edges: int | None) -> Iterator[tuple[Batch, Tensor]]:
        """Yield graphs and lattices of consecutive structures, on the device."""
        from omatg_ray.reward.graph import graph_chunks

        self.require_elements(crystals.species.unique().tolist())
        if chunk_edges is None:
            chunk_edges = CPU_CHUNK_EDGES if self.device.type == "cpu" else DEVICE_CHUNK_EDGES
        for graph, cell in graph_chunks(crystals, self._node_types, self.cutoff, chunk_edges):
            yield graph.to(self.device), cell.to(self.device)

    def _differentiate(self, graph: Batch, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return MatGL's energies (b,), dE/dr (N, 3) and dE/dε (b, 3, 3); only its debug mode gives them unchanged."""
        flags = ("calc_forces", "calc_stresses", "debug_mode")
        before = [getattr(self._module, flag) for flag in flags]
        try:
            for flag in flags:
                setattr(self._module, flag, True)
            with torch.enable_grad():
                return self._module(graph, cell)
        finally:
            for flag, value in zip(flags, before, strict=True):
                setattr(self._module, flag, value)


def _blank_potential() -> Potential:
    """Return a potential to unpickle into, after a quick import of MatGL; its objects would import all of it."""
    import_matgl()
    return object.__new__(Potential)


def node_types(symbols: Sequence[str]) -> Tensor:
    """Return MatGL's node type of every atomic number, at that index (119,); −1 where there is none.

    Args:
        symbols: `element_types` of a network; an element's index in it is its node type.
    """
    from pymatgen.core import Element

    types = torch.full((MAX_ATOMIC_NUMBER + 1,), -1)
    types[[Element(symbol).Z for symbol in symbols]] = torch.arange(len(symbols))
    return types


def load_potential(name_or_folder: str | Path, device: torch.device | str = "cpu") -> Potential:
    """Load a MatGL potential and check that its energies with the installed MatGL are reasonable.

    A folder holds MatGL's `model.json`, `model.pt` and `state.pt`. It may hold `known_energies.json`, a list of
    crystals with their required energies, each within its tolerance in eV/atom:

        [{"structure": {"species": ["Na", "Cl"],
                        "pos": [[0, 0, 0], [0.5, 0.5, 0.5]],
                        "cell": [[0, 2.845, 2.845], [2.845, 0, 2.845], [2.845, 2.845, 0]]},
          "energy_per_atom": -3.3576, "tolerance": 0.001}]

    (`pos` fractional, `cell` in Å, rows are the lattice vectors.) Without this file, the energy of a well-known
    crystal should have a minimum over its volume; otherwise a `UserWarning` is issued.

    It may also hold `domain.json`, which says what it was trained on: `Domain.of(crystals, sized=False)` as JSON. Then
    results for other compositions are marked.

    Weights are read without unpickling code, and only MatGL's own classes are built from them. Random states, thread
    counts and default dtypes are not changed.

    Args:
        name_or_folder: A folder; "bundled" for the potential of this package; or a name
            ("TensorNet-PES-MatPES-PBE-2025.2" or "owner/name") to fetch from the hub of MatGL's models and keep in
            MatGL's cache.
        device: Device on which energies are evaluated.

    Raises:
        PotentialError: Nothing has that name, the weights or the domain are unreadable or incompatible, or a known
            energy is wrong.
        DataError: A file of the bundled potential is missing or damaged.
    """
    folder = _find(name_or_folder)
    name = str(name_or_folder)
    if not is_bundled(name_or_folder) and potential_folder(name_or_folder) is not None:
        name = absolute_name(name_or_folder)
    potential = Potential(_load_module(folder, name), name, _fingerprint(folder), device, _domain(folder))
    if (folder / KNOWN_ENERGIES).is_file():
        check_known_energies(potential, folder / KNOWN_ENERGIES)
    else:
        check_energy_volume_curve(potential)
    return potential


def load_module(name_or_folder: str | Path) -> matgl.apps.pes.Potential:
    """Load MatGL's own object, which gives forces and stresses too, after all checks of `load_potential`.

    Raises:
        PotentialError: As `load_potential`.
        DataError: As `load_potential`.
    """
    load_potential(name_or_folder)
    return _load_module(_find(name_or_folder), str(name_or_folder))


def _find(name_or_folder: str | Path) -> Path:
    """Return the folder of the weights, which for a name is in MatGL's cache."""
    if is_bundled(name_or_folder):
        return asset("potential", name_or_folder)
    folder = potential_folder(name_or_folder)
    if folder is not None:
        return folder

    from huggingface_hub import hf_hub_download

    import_matgl()
    from matgl.utils.io import HF_MATGL_ORG

    cache = _cache(name_or_folder)
    repository = str(name_or_folder) if "/" in str(name_or_folder) else f"{HF_MATGL_ORG}/{name_or_folder}"
    try:
        files = [Path(hf_hub_download(repository, file, cache_dir=str(cache))) for file in WEIGHT_FILES]
    except Exception as error:  # the hub's client raises many kinds: its own, and those of HTTP, sockets and files
        reason = str(error).strip().splitlines() or [""]
        raise PotentialError(
            f"potential {name_or_folder!r}: there is no such folder, and {repository} cannot be fetched from the hub "
            f"of MatGL's models ({type(error).__name__}: {reason[0]}). Check the name and the network, or give the "
            f"path of a folder that holds {', '.join(WEIGHT_FILES)}"
        ) from error
    return files[0].parent


def _cache(name: str | Path) -> Path:
    """Return the folder of fetched potentials: MatGL's own cache, or in `XDG_CACHE_HOME` for a user without a home."""
    from matgl.config import MATGL_CACHE

    if not HOMELESS:
        return MATGL_CACHE
    if not os.environ.get("XDG_CACHE_HOME"):
        raise PotentialError(
            f"potential {name} cannot be cached, because there is no home that can be written; set HOME or "
            "XDG_CACHE_HOME to a folder, or give the folder of a potential"
        )
    return Path(os.environ["XDG_CACHE_HOME"]) / "matgl"


def _load_module(folder: Path, name: str) -> matgl.apps.pes.Potential:
    matgl = import_matgl()
    from matgl.apps.pes import Potential as MatGLPotential

    _refuse_foreign_classes(folder)
    try:
        # MatGL only warns about weights that predate a change of its architecture, although they give wrong energies.
        # Building the modules draws random weights, which must not advance the caller's random state.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.filterwarnings("error", message="Incompatible model version")
            module = matgl.load_model(folder)
    except (RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        if "Incompatible model version" in str(cause):
            raise PotentialError(
                f"potential {name} was saved by an older MatGL whose weights give wrong energies in the installed "
                f"{matgl.__version__}; use a newer release of its weights or convert them"
            ) from error
        raise PotentialError(f"potential {name} cannot be loaded: {type(cause).__name__}: {cause}") from error
    if not isinstance(module, MatGLPotential):
        raise PotentialError(f"{name} is a {type(module).__name__} of MatGL, not a potential")
    return module


def _refuse_foreign_classes(folder: Path) -> None:
    """Refuse files that name classes outside MatGL's potentials and models, since MatGL imports and calls any class."""
    try:
        description = json.loads((folder / "model.json").read_text())
        arguments = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
        modules = [description["@module"]]
        modules += [value["@module"] for value in arguments.values() if isinstance(value, dict) and "@module" in value]
    except Exception as error:  # truncated files raise many kinds, unpickling alone half a dozen
        raise PotentialError(f"potential folder {folder} cannot be read: {type(error).__name__}: {error}") from error
    foreign = [module for module in modules if not re.fullmatch(r"matgl\.(apps|models)(\.\w+)*", str(module))]
    if foreign:
        raise PotentialError(f"potential folder {folder} asks for code outside MatGL's models ({foreign[0]}); refused")


def _domain(folder: Path) -> Domain | None:
    """Read the domain beside the weights, if there is one."""
    file = folder / DOMAIN_FILE
    if not file.is_file():
        return None
    try:
        return Domain.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PotentialError(f"{file} is not a domain: {error}") from error


def _fingerprint(folder: Path) -> str:
    return hashlib.sha256(b"".join((folder / file).read_bytes() for file in WEIGHT_FILES)).hexdigest()[:12]
