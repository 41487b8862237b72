"""Small networks, crystals and policies for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings
from omatg_ray.policy.drift import Annealed, Drift, Velocity
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.policy import Policy
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings

SIZE = NetworkSettings(hidden=16, layers=2, frequencies=4, time_features=8)
NOISE: dict[FieldName, NoiseSettings] = {
    "pos": NoiseSettings(kind="sqrt", a=0.1668),
    "cell": NoiseSettings(kind="constant", a=0.2),
}


def small_network(seed: int = 0, dtype: torch.dtype = torch.float64, size: NetworkSettings = SIZE) -> CSPNet:
    """A network with random weights that depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CSPNet(size).to(dtype)


def perturbed(network: CSPNet, scale: float, seed: int = 1) -> CSPNet:
    """A copy of a network with Gaussian noise added to all weights."""
    generator = torch.Generator().manual_seed(seed)
    copy = CSPNet(network.settings).to(next(network.parameters()).dtype)
    copy.load_state_dict(network.state_dict())
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return copy


def random_crystals(sizes: Sequence[int], seed: int = 0, dtype: torch.dtype = torch.float64) -> CrystalBatch:
    """Crystals of random species at random positions in random cells of about 4 Å."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(sizes)
    cells = 4 * torch.eye(3, dtype=torch.float64) + 0.5 * torch.randn(
        len(sizes), 3, 3, generator=generator, dtype=torch.float64
    )
    return CrystalBatch(
        torch.randint(1, 101, (total,), generator=generator),
        torch.rand(total, 3, generator=generator, dtype=torch.float64).to(dtype),
        cells.to(dtype),
        torch.tensor(sizes),
    )


def rock_salt(length: float = 5.69, cation: str = "Na", anion: str = "Cl") -> Structure:
    """The cubic cell of eight atoms, of a length in Å. `Structure.from_spacegroup` would take two seconds."""
    centred = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    moved = [[0.5 - x for x in site] for site in centred]
    return Structure(Lattice.cubic(length), [cation] * 4 + [anion] * 4, centred + moved)


def velocity_policy(
    network: CSPNet,
    base: CSPNet,
    active: Sequence[FieldName] = ("pos", "cell"),
    noise: Mapping[FieldName, NoiseSettings] | None = None,
    schedule: LinearSchedule | None = None,
    acts_from: float = 0.0,
) -> Policy:
    """The policy of a network over a base network, with `NOISE` by default."""
    drift: Drift = Velocity() if schedule is None else Annealed(Velocity(), schedule)
    return Policy(drift, network, base, active, NOISE if noise is None else noise, schedule, acts_from=acts_from)


def learned_schedule(seed: int = 0) -> LearnedSchedule:
    """A learned schedule of both fields with random weights."""
    torch.manual_seed(seed)
    schedule = LearnedSchedule(LearnedScheduleSettings(hidden=4, layers=1, fields=["pos", "cell"]))
    for weights in schedule.parameters():
        torch.nn.init.normal_(weights)
    return schedule
