"""Base distribution of the flow, i.e. of x_0: one distribution of positions and one of lattices.

Models trained here start from uniform positions, and from informed lattices or lattices by volume. The other
distributions are those of OMatG (Höllmer et al., 2025), for imported models.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from omatg_ray.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch, Layout
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters, volume, wrap
from omatg_ray.errors import ModelError
from omatg_ray.seeding import generator
from omatg_ray.settings import FieldName, Kinds, Settings

ANGLE_RANGE = (60.0, 120.0)
# A log-normal fitted to equal lengths has no width, but the flow needs a base with some.
MIN_LOG_STD = 1e-3
# Volumes of elements below this share of the mean would come from correlations of a small data set, not from atoms.
MIN_VOLUME_SHARE = 0.2

SHAPES: dict[FieldName, tuple[int, ...]] = {"pos": (3,), "cell": (3, 3)}
"""Shape of a field for one atom or structure."""


class FieldBase(Settings):
    """Distribution of a field, independent of everything else."""

    kind: str = Field(
        description="positions: uniform, normal, sobol or mirror; lattices: informed, by_volume, normal or mirror"
    )

    @abstractmethod
    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        """Draw positions (sum N, 3), not wrapped, or lattices (B, 3, 3) in Å; float32 on the CPU.

        Args:
            of: The field.
            species: Atomic numbers (sum N,).
            layout: Layout of the B structures.
            rng: Random numbers.
            given: The crystals that `mirror` copies.
        """


class Uniform(FieldBase):
    """Positions uniform in the cell."""

    kind: Literal["uniform"] = "uniform"

    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        return torch.rand(len(species), 3, generator=rng)


class Normal(FieldBase):
    """Normal entries.

    Positions are in fractional units, and callers wrap those that leave the cell. Lattices are in Å, and neither
    oriented nor right-handed.
    """

    kind: Literal["normal"] = "normal"
    loc: float = Field(0.0, description="mean")
    scale: float = Field(1.0, gt=0, description="standard deviation")

    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        n = len(species) if of == "pos" else len(layout.n_atoms)
        return self.loc + self.scale * torch.randn(n, *SHAPES[of], generator=rng)


class Sobol(FieldBase):
    """Positions of a scrambled Sobol sequence: uniform, and spread more evenly than independent draws.

    Every draw scrambles a sequence of its own, so that structures are independent of each other.
    """

    kind: Literal["sobol"] = "sobol"

    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        seed = int(torch.randint(2**31, (1,), generator=rng))
        return torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(len(species), dtype=torch.float32)


class Mirror(FieldBase):
    """Positions or lattices of the data."""

    kind: Literal["mirror"] = "mirror"

    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        if given is None:
            raise ModelError(
                f"the model starts from the {'positions' if of == 'pos' else 'lattices'} of given crystals (a mirror "
                "base distribution); it cannot generate from compositions alone"
            )
        return given.pos if of == "pos" else given.cell


class InformedCell(FieldBase):
    """Lattices in standard orientation, with log-normal lengths fitted to the training set and uniform angles.

    Source: Miller et al., "FlowMM" (ICML 2024). [60°, 120°] are the angles that Niggli-reduced cells can have.
    """

    kind: Literal["informed"] = "informed"
    log_length_mean: tuple[float, float, float] = Field(description="mean of ln(length / Å) of a, b, c")
    log_length_std: tuple[float, float, float] = Field(description="standard deviation of ln(length / Å) of a, b, c")

    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.log_length_mean, self.log_length_std))
        draws = torch.randn(len(layout.n_atoms), 3, generator=rng, dtype=torch.float64)
        return _with_uniform_angles(torch.exp(mean + std * draws), rng)


class CellByVolume(FieldBase):
    """Lattices in standard orientation whose lengths follow from the atoms, for cells of very different sizes.

    The volumes v of the elements add up to that of a cell, and its lengths are log-normal around the cube root:
    ln l_k = ln(Σ_i v(z_i)) / 3 + m_k + Σ_j C_kj ξ_j, with independent standard normal ξ. Angles are uniform.
    """

    kind: Literal["by_volume"] = "by_volume"
    atomic_volume: dict[str, Annotated[float, Field(gt=0)]] = Field(
        description="v in Å^3 of the elements that it was fitted to"
    )
    other_volume: float = Field(gt=0, description="v in Å^3 of other elements")
    log_ratio_mean: tuple[float, float, float] = Field(description="m: mean of ln(length / cube root) of a, b, c")
    log_ratio_factor: tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]] = Field(
        description="C: lower Cholesky factor of the covariance of ln(length / cube root) of a, b, c"
    )

    @field_validator("atomic_volume")
    @classmethod
    def _of_elements(cls, volumes: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(volumes) - _atomic_numbers().keys())
        if unknown:
            raise ValueError(f"not elements: {', '.join(unknown)}")
        return volumes

    @classmethod
    def fit(cls, crystals: CrystalBatch) -> CellByVolume:
        """Fit to crystals.

        The volumes minimise the squared relative deviations of the cells' volumes, plus those of the elements from the
        mean volume of an atom, so that a rare element stays near the mean; none is below a fifth of it. Means and
        covariance, with a least width, are those of maximum likelihood. All are rounded, so that a resumed run fits the
        same.
        """
        from scipy.optimize import lsq_linear

        symbols = {z: symbol for symbol, z in _atomic_numbers().items()}
        counts = np.zeros((len(crystals), MAX_ATOMIC_NUMBER + 1))
        np.add.at(counts, (crystals.batch.cpu().numpy(), crystals.species.cpu().numpy()), 1.0)
        seen = np.flatnonzero(counts.sum(0))
        counts, total = counts[:, seen], volume(crystals.cell.double()).cpu().numpy()
        mean = total.sum() / counts.sum()
        matrix = np.concatenate([counts / total[:, None], np.eye(len(seen)) / mean])
        volumes = lsq_linear(matrix, np.ones(len(matrix)), bounds=(MIN_VOLUME_SHARE * mean, np.inf)).x
        ratios = cell_parameters(crystals.cell.double().cpu())[0].log().numpy() - np.log(counts @ volumes)[:, None] / 3
        covariance = np.cov(ratios.T, bias=True).reshape(3, 3) + MIN_LOG_STD**2 * np.eye(3)
        return cls(
            atomic_volume={symbols[int(z)]: round(float(v), 3) for z, v in zip(seen, volumes, strict=True)},
            other_volume=round(float(mean), 3),
            log_ratio_mean=tuple(ratios.mean(0).round(6).tolist()),
            log_ratio_factor=tuple(tuple(row) for row in np.linalg.cholesky(covariance).round(6).tolist()),
        )

    @cached_property
    def volumes(self) -> Tensor:
        """V in Å³ by atomic number (119,)."""
        table = torch.full((MAX_ATOMIC_NUMBER + 1,), self.other_volume, dtype=torch.float64)
        for symbol, value in self.atomic_volume.items():
            table[_atomic_numbers()[symbol]] = value
        return table

    def draw(
        self, of: FieldName, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None
    ) -> Tensor:
        sums = torch.zeros(len(layout.n_atoms), dtype=torch.float64)
        sums.index_add_(0, layout.batch.cpu(), self.volumes[species.cpu()])
        mean, factor = (torch.tensor(v, dtype=torch.float64) for v in (self.log_ratio_mean, self.log_ratio_factor))
        draws = torch.randn(len(layout.n_atoms), 3, generator=rng, dtype=torch.float64)
        return _with_uniform_angles(torch.exp(sums.log()[:, None] / 3 + mean + draws @ factor.T), rng)


@cache
def _atomic_numbers() -> dict[str, int]:
    """Return the atomic numbers of all elements by symbol."""
    from pymatgen.core import Element  # takes a second, which rollout actors without such lattices save

    return {Element.from_Z(z).symbol: z for z in range(1, MAX_ATOMIC_NUMBER + 1)}


def _with_uniform_angles(lengths: Tensor, rng: torch.Generator) -> Tensor:
    """Return lattices (B, 3, 3) of lengths (B, 3) and independent angles, uniform where reduced cells have theirs."""
    low, high = ANGLE_RANGE
    angles = low + (high - low) * torch.rand(len(lengths), 3, generator=rng, dtype=torch.float64)
    return cell_from_parameters(lengths, angles).float()


AnyPositionBase = Annotated[FieldBase, Kinds(Uniform, Normal, Sobol, Mirror, default=Uniform)]
AnyCellBase = Annotated[FieldBase, Kinds(InformedCell, CellByVolume, Normal, Mirror)]


class BaseDistribution(Settings):
    """Distribution of x_0 for crystals with given species."""

    pos: AnyPositionBase = Field(default_factory=Uniform, description="distribution of the positions")
    cell: AnyCellBase = Field(description="distribution of the lattices")

    @model_validator(mode="before")
    @classmethod
    def _informed_without_a_name(cls, values: Any) -> Any:
        """Read descriptions from when only uniform positions and informed lattices existed."""
        if not isinstance(values, dict) or "cell" in values:
            return values
        old = {name: values[name] for name in ("log_length_mean", "log_length_std") if name in values}
        rest = {name: value for name, value in values.items() if name not in old}
        return rest | {"cell": {"kind": "informed"} | old} if old else values

    @classmethod
    def fit(cls, crystals: CrystalBatch, lattices: Literal["informed", "by_volume"] = "informed") -> BaseDistribution:
        """Fit a distribution of lattices to crystals; positions are uniform.

        Args:
            crystals: Training crystals.
            lattices: `informed`, by maximum likelihood, or `by_volume` (`CellByVolume.fit`).
        """
        if lattices == "by_volume":
            return cls(cell=CellByVolume.fit(crystals))
        cell = crystals.cell
        log_lengths = cell_parameters(cell.double())[0].log()
        mean, std = log_lengths.mean(0), log_lengths.std(0, unbiased=False).clamp_min(MIN_LOG_STD)
        return cls(cell=InformedCell(log_length_mean=tuple(mean.tolist()), log_length_std=tuple(std.tolist())))

    def draw(
        self, species: Tensor, layout: Layout, rng: torch.Generator, given: CrystalBatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw positions (sum N, 3), not wrapped, and lattices (B, 3, 3), float32 on the CPU.

        Args:
            species: Atomic numbers (sum N,).
            layout: Layout of the B structures.
            rng: Random numbers.
            given: The data that x_0 leads to, if any, for mirror distributions to copy.

        Raises:
            ModelError: A mirror distribution has no crystals to copy.
        """
        pos = self.pos.draw("pos", species, layout, rng, given)
        return pos, self.cell.draw("cell", species, layout, rng, given)

    def sample(
        self, species: Sequence[Sequence[int]], seeds: Sequence[int], given: CrystalBatch | None = None
    ) -> CrystalBatch:
        """Draw x_0 for each list of atomic numbers; structure i depends on seeds[i] alone, not on its neighbours.

        Args:
            given: Crystals of these species, for mirror distributions.

        Raises:
            ModelError: A mirror distribution has no crystals to copy.
        """
        draws = [
            self.draw(
                torch.tensor(z, dtype=torch.long),
                Layout(torch.tensor([len(z)])),
                generator(seed, "x_0"),
                None if given is None else given.select([index]),
            )
            for index, (z, seed) in enumerate(zip(species, seeds, strict=True))
        ]
        return CrystalBatch(
            torch.tensor([z for structure in species for z in structure], dtype=torch.long),
            wrap(torch.cat([pos for pos, _ in draws])),
            torch.cat([cell for _, cell in draws]),
            torch.tensor([len(z) for z in species], dtype=torch.long),
        )
