"""Base distribution of the flow, i.e. of x_0: one distribution of positions and one of lattices.

Models trained here start from uniform positions and informed lattices. The other distributions are those of OMatG
(Höllmer et al., 2025), for imported models.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters, wrap
from omatg_ray.errors import ModelError
from omatg_ray.seeding import generator
from omatg_ray.settings import FieldName, Kinds, Settings

ANGLE_RANGE = (60.0, 120.0)
# A log-normal fitted to equal lengths has no width, but the flow needs a base with some.
MIN_LOG_STD = 1e-3


SHAPES: dict[FieldName, tuple[int, ...]] = {"pos": (3,), "cell": (3, 3)}
"""Shape of a field for one atom or structure."""


class FieldBase(Settings):
    """Distribution of a field, independent of everything else."""

    kind: str = Field(description="positions: uniform, normal, sobol or mirror; lattices: informed, normal or mirror")

    @abstractmethod
    def draw(self, of: FieldName, n: int, rng: torch.Generator, given: CrystalBatch | None) -> Tensor:
        """Draw positions (n, 3), not wrapped, or lattices (n, 3, 3) in Å; float32 on the CPU.

        Args:
            of: The field.
            n: Number of atoms or structures.
            rng: Random numbers.
            given: The crystals that `mirror` copies.
        """


class Uniform(FieldBase):
    """Positions uniform in the cell."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, of: FieldName, n: int, rng: torch.Generator, given: CrystalBatch | None) -> Tensor:
        return torch.rand(n, 3, generator=rng)


class Normal(FieldBase):
    """Normal entries.

    Positions are in fractional units, and callers wrap those that leave the cell. Lattices are in Å, and neither
    oriented nor right-handed.
    """

    kind: Literal["normal"] = "normal"
    loc: float = Field(0.0, description="mean")
    scale: float = Field(1.0, gt=0, description="standard deviation")

    def draw(self, of: FieldName, n: int, rng: torch.Generator, given: CrystalBatch | None) -> Tensor:
        return self.loc + self.scale * torch.randn(n, *SHAPES[of], generator=rng)


class Sobol(FieldBase):
    """Positions of a scrambled Sobol sequence: uniform, and spread more evenly than independent draws.

    Every draw scrambles a sequence of its own, so that structures are independent of each other.
    """

    kind: Literal["sobol"] = "sobol"

    def draw(self, of: FieldName, n: int, rng: torch.Generator, given: CrystalBatch | None) -> Tensor:
        seed = int(torch.randint(2**31, (1,), generator=rng))
        return torch.quasirandom.SobolEngine(3, scramble=True, seed=seed).draw(n, dtype=torch.float32)


class Mirror(FieldBase):
    """Positions or lattices of the data."""

    kind: Literal["mirror"] = "mirror"

    def draw(self, of: FieldName, n: int, rng: torch.Generator, given: CrystalBatch | None) -> Tensor:
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

    def draw(self, of: FieldName, n: int, rng: torch.Generator, given: CrystalBatch | None) -> Tensor:
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.log_length_mean, self.log_length_std))
        lengths = torch.exp(mean + std * torch.randn(n, 3, generator=rng, dtype=torch.float64))
        low, high = ANGLE_RANGE
        angles = low + (high - low) * torch.rand(n, 3, generator=rng, dtype=torch.float64)
        return cell_from_parameters(lengths, angles).float()


AnyPositionBase = Annotated[FieldBase, Kinds(Uniform, Normal, Sobol, Mirror, default=Uniform)]
AnyCellBase = Annotated[FieldBase, Kinds(InformedCell, Normal, Mirror)]


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
    def fit(cls, cell: Tensor) -> BaseDistribution:
        """Fit the length distribution to lattices (B, 3, 3) by maximum likelihood; positions are uniform."""
        log_lengths = cell_parameters(cell.double())[0].log()
        mean, std = log_lengths.mean(0), log_lengths.std(0, unbiased=False).clamp_min(MIN_LOG_STD)
        return cls(cell=InformedCell(log_length_mean=tuple(mean.tolist()), log_length_std=tuple(std.tolist())))

    def draw(
        self, n_structures: int, n_positions: int, rng: torch.Generator, given: CrystalBatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw positions (n_positions, 3), not wrapped, and lattices (n_structures, 3, 3), float32 on the CPU.

        Args:
            given: The data that x_0 leads to, if any, for mirror distributions to copy.

        Raises:
            ModelError: A mirror distribution has no crystals to copy.
        """
        return self.pos.draw("pos", n_positions, rng, given), self.cell.draw("cell", n_structures, rng, given)

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
            self.draw(1, len(z), generator(seed, "x_0"), None if given is None else given.select([index]))
            for index, (z, seed) in enumerate(zip(species, seeds, strict=True))
        ]
        return CrystalBatch(
            torch.tensor([z for structure in species for z in structure], dtype=torch.long),
            wrap(torch.cat([pos for pos, _ in draws])),
            torch.cat([cell for _, cell in draws]),
            torch.tensor([len(z) for z in species], dtype=torch.long),
        )
