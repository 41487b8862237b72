"""CSPNet, the velocity network: DiffCSP's network as OMatG uses it, evaluated in factorised form.

Source: Jiao et al., "Crystal structure prediction by joint equivariant diffusion" (DiffCSP, NeurIPS 2023); the heads
for velocity and denoiser follow OMatG (Höllmer et al., 2025). Parameter names equal those of OMatG's `CSPNetFull`, so
its state dictionaries load unchanged where the settings are OMatG's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch, Edges
from omatg_ray.crystal.lattice import volume
from omatg_ray.errors import DataError
from omatg_ray.flow.messages import mean_message
from omatg_ray.flow.neighbors import near
from omatg_ray.flow.separation import Separation
from omatg_ray.flow.settings import NetworkSettings, Precision

Output = Literal["pos_b", "pos_eta", "cell_b", "cell_eta", "species_b", "species_eta"]


HEADS: dict[Output, str] = {
    "pos_b": "coord_out",
    "pos_eta": "coord_out_2",
    "cell_b": "lattice_out",
    "cell_eta": "lattice_out_2",
    "species_b": "type_out",
    "species_eta": "type_out_2",
}


LATTICE_FEATURES = {"metric": 9, "shape": 8}
MIN_LENGTH, MIN_POLAR_SINE = 0.1, 0.01
"""Least length in Å and least polar sine that features of a lattice tell apart."""
TYPICAL_LOG_VOLUME, TYPICAL_LOG_ATOMS = 2.9, 2.0
"""Subtracted from ln of V/N in Å³ and of N."""


@dataclass(frozen=True)
class NetworkOutput:
    """Velocities b and denoisers η. Positions in fractional units, lattices in Å, both per unit of time.

    `pos_*` (sum N, 3), `cell_*` (B, 3, 3); `species_*` (sum N, 100) are logits of the elements 1 … 100.
    """

    _features: Tensor
    _cell: Tensor
    _network: CSPNet
    _crystals: CrystalBatch
    _edges: Edges

    def __getattr__(self, output: str) -> Tensor:
        # Heads are evaluated on access: a rollout of the positions alone needs one of the six.
        if output not in HEADS:
            raise AttributeError(f"the network has no output {output}; it has {', '.join(HEADS)}")
        head = self._network.get_submodule(HEADS[output])
        if output.startswith("cell"):
            return head(self._cell).view(-1, 3, 3) @ self._crystals.cell
        if output == "pos_b" and self._network.separation is not None:
            return head(self._features) + self._network.separation(self._features, self._crystals, self._edges)
        return head(self._features)


def embed_time(t: Tensor, features: int) -> Tensor:
    """Return [sin(t w), cos(t w)] (B, features) of times t (B,), with w_k = 10000^(-k / (features/2 - 1))."""
    # Computed in the precision of t: a stored float32 buffer would keep float32 accuracy in a float64 network.
    waves = features // 2
    index = torch.arange(waves, dtype=t.dtype, device=t.device)
    angle = t[:, None] * torch.exp(index * (-math.log(10000.0) / (waves - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class MessageLayer(nn.Module):
    """One layer of messages between all ordered pairs of atoms (i, j), i = j included, averaged over j.

    The first linear map of the message MLP acts on [h_i, h_j, lattice, sin φ, cos φ]. Its blocks are applied where
    their input lives: W_i, W_j and the lattice once per atom, the distance features once per unordered pair. φ changes
    sign under exchange of i and j, so sines enter the two directions with opposite signs and cosines with the same
    sign. An atom paired with itself has sin 0 = 0 and cos 0 = 1.

    `pooled` layers take the mean before the second linear map, which then acts once per atom.
    """

    def __init__(self, hidden: int, frequencies: int, of_lattice: int, pooled: bool = False) -> None:
        super().__init__()
        self.hidden, self.of_lattice, self.pooled = hidden, of_lattice, pooled
        self.waves = 3 * frequencies
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden + of_lattice + 2 * self.waves, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
        )
        self.node_mlp = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.layer_norm = nn.LayerNorm(hidden)

    def forward(self, h: Tensor, lattice: Tensor, batch: Tensor, edges: Edges, sin: Tensor, cos: Tensor) -> Tensor:
        """Update atom features h (sum N, hidden).

        Args:
            h: Atom features.
            lattice: Features of each crystal's lattice (B, of_lattice).
            batch: Structure of every atom (sum N,).
            edges: Pairs of atoms between which messages go.
            sin: Sines of the edges' pairs, as `pair_features` gives them.
            cos: Their cosines.
        """
        first, second = cast("nn.Linear", self.edge_mlp[0]), cast("nn.Linear", self.edge_mlp[2])
        w_receiver, w_sender, w_lattice, w_sin, w_cos = first.weight.split(
            [self.hidden, self.hidden, self.of_lattice, self.waves, self.waves], dim=1
        )
        z = self.layer_norm(h)
        receiver = F.linear(z, w_receiver) + F.linear(lattice, w_lattice, first.bias).index_select(0, batch)
        sender = F.linear(z, w_sender)
        mean = mean_message(edges, receiver, sender, sin, cos, w_sin, w_cos, second.weight, second.bias, self.pooled)
        return h + self.node_mlp(torch.cat([z, mean], dim=1))


def pair_features(
    crystals: CrystalBatch, edges: Edges, frequencies: int, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Return sines and cosines of the distances of the edges' unordered pairs, (P, 3 frequencies) each."""
    harmonics = 2 * math.pi * torch.arange(frequencies, dtype=crystals.dtype, device=crystals.device)
    angle = (crystals.pos[edges.second] - crystals.pos[edges.first])[:, :, None] * harmonics
    angle = angle.flatten(1)
    return angle.sin().to(dtype or angle.dtype), angle.cos().to(dtype or angle.dtype)


def shape_features(crystals: CrystalBatch) -> Tensor:
    """Return what a network with `lattice: shape` sees of the lattices (B, 8), each of order one.

    Twice the logarithms of the lengths in V^(1/3), twice the cosines of the angles, and ln(V/N) and ln N less typical
    values. Degenerate lattices, which a flow may pass through, have the volume of a flat but not degenerate one.
    """
    cell, n_atoms = crystals.cell, crystals.n_atoms.to(crystals.dtype)
    length = cell.norm(dim=-1).clamp_min(MIN_LENGTH)
    unit, log_length = cell / length[:, :, None], length.log()
    log_volume = log_length.sum(-1) + volume(unit).clamp_min(MIN_POLAR_SINE).log()
    return torch.cat(
        [
            2.0 * (log_length - log_volume[:, None] / 3.0),
            2.0 * (unit[:, [1, 2, 0]] * unit[:, [2, 0, 1]]).sum(-1),
            (log_volume - n_atoms.log())[:, None] - TYPICAL_LOG_VOLUME,
            n_atoms.log()[:, None] - TYPICAL_LOG_ATOMS,
        ],
        dim=1,
    )


class CSPNet(nn.Module):
    """Velocity network for crystals whose species are given, or generated along with them.

    Example:
        >>> network = CSPNet(NetworkSettings(hidden=32, layers=2, frequencies=8, time_features=16))
        >>> out = network(crystals, torch.full((len(crystals),), 0.5))     # doctest: +SKIP
        >>> out.pos_b.shape, out.cell_b.shape                              # doctest: +SKIP
        ((sum N, 3), (B, 3, 3))
    """

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or NetworkSettings()
        hidden = settings.hidden
        self.node_embedding = nn.Embedding(settings.max_atomic_number + settings.mask, hidden)
        self._sees_shape = settings.lattice == "shape"
        of_lattice = LATTICE_FEATURES[settings.lattice]
        of_crystal = settings.time_features + (of_lattice if self._sees_shape else 0)
        self.atom_latent_emb = nn.Linear(hidden + of_crystal, hidden)
        for index in range(settings.layers):
            layer = MessageLayer(hidden, settings.frequencies, of_lattice, settings.pooled)
            self.add_module(f"csp_layer_{index}", layer)
        self.final_layer_norm = nn.LayerNorm(hidden)
        self.coord_out = nn.Linear(hidden, 3, bias=False)
        self.coord_out_2 = nn.Linear(hidden, 3, bias=False)
        self.lattice_out = nn.Linear(hidden, 9, bias=False)
        self.lattice_out_2 = nn.Linear(hidden, 9, bias=False)
        self.separation = Separation(hidden) if settings.separation else None
        self.type_out = nn.Linear(hidden, settings.max_atomic_number)
        self.type_out_2 = nn.Linear(hidden, settings.max_atomic_number)

    def forward(self, crystals: CrystalBatch, t: Tensor, precision: Precision = "float32") -> NetworkOutput:
        """Return velocities and denoisers at a state.

        Args:
            crystals: B crystals; positions need not be wrapped.
            t: Times in [0, 1], one per structure (B,) or one for all ().
            precision: Precision of the message layers.

        Raises:
            DataError: An atomic number is beyond `max_atomic_number`, or t has another shape.
        """
        if t.dim() == 0:
            t = t.expand(len(crystals))
        if t.shape != (len(crystals),):
            raise DataError(f"t has shape {tuple(t.shape)}; {len(crystals)} structures need one time each")
        of_crystal = embed_time(t.to(crystals.dtype), self.settings.time_features)
        if self._sees_shape:
            lattice = shape_features(crystals)
            of_crystal = torch.cat([of_crystal, lattice], dim=1)
        else:
            lattice = (crystals.cell @ crystals.cell.transpose(1, 2)).flatten(1)
        if crystals.species.device.type == "cpu" and len(crystals.species):
            # On a GPU this check would wait for the device; callers check with `require` beforehand.
            self.require([int(crystals.species.max())])
        elements = self.node_embedding(crystals.species if self.settings.mask else crystals.species - 1)
        h = self.atom_latent_emb(torch.cat([elements, of_crystal.index_select(0, crystals.batch)], dim=1))
        lower = torch.bfloat16 if precision == "bfloat16" else None
        edges = crystals.layout.edges if self.settings.neighbors is None else near(crystals, self.settings.neighbors)
        sin, cos = pair_features(crystals, edges, self.settings.frequencies, lower)
        with torch.autocast(h.device.type, torch.bfloat16, enabled=lower is not None):
            for index in range(self.settings.layers):
                h = self.get_submodule(f"csp_layer_{index}")(h, lattice, crystals.batch, edges, sin, cos)
        h = self.final_layer_norm(h)
        return NetworkOutput(h, crystals.layout.mean(h), self, crystals, edges)

    def require(self, species: Iterable[int]) -> None:
        """Refuse atomic numbers beyond the embedding; a device would fail with a less clear message.

        Raises:
            DataError: An atomic number is too large; names the largest.
        """
        largest, known = max(species, default=0), self.settings.max_atomic_number
        if largest > known:
            raise DataError(f"the network knows atomic numbers up to {known}, not {largest}")

    def train_only(self, outputs: Iterable[Output]) -> None:
        """Freeze the heads that no loss reaches, so that optimizers and data-parallel wrappers skip them."""
        wanted = set(outputs)
        for output, head in HEADS.items():
            self.get_submodule(head).requires_grad_(output in wanted)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that an optimizer should update, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]
