"""A pretrained generator reconstructs the known crystals that it was fitted to."""

from __future__ import annotations

import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.flow.settings import NetworkSettings, PretrainSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.hand_made import LinearSchedule

SAMPLES, COPIES = 8, 20


def fcc(a: float) -> Lattice:
    """Primitive cell of a face-centred cubic lattice."""
    edge = a / 2**0.5
    return Lattice.from_parameters(edge, edge, edge, 60, 60, 60)


def known_crystals() -> list[Structure]:
    """Rocksalt, caesium chloride, zinc blende and a cubic perovskite, at their experimental lattice constants."""
    half = 0.5
    faces = [[half, half, 0], [half, 0, half], [0, half, half]]
    return [
        Structure(fcc(5.64), ["Na", "Cl"], [[0, 0, 0], [half, half, half]]),
        Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [half, half, half]]),
        Structure(fcc(5.41), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        Structure(Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"], [[0, 0, 0], [half, half, half], *faces]),
    ]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_known_crystals_are_reconstructed():
    crystals = known_crystals()
    packed = CrystalBatch.from_structures(crystals)
    packed = packed.replace(cell=cell_from_parameters(*cell_parameters(packed.cell.double())).float())
    # The perovskite has the most to learn and is shown twice as often.
    train = packed.select([0, 1, 2, 3, 3]).tile(COPIES)
    base = BaseDistribution.fit(packed)
    settings = PretrainSettings(
        network=NetworkSettings(hidden=96, layers=3, frequencies=4, time_features=16),
        epochs=1500,
        batch_size=len(train),
        lr=4e-3,
        warmup_steps=20,
        ema=0.995,
    )
    trainer = Pretrainer(settings, train, packed, base, seed=0)
    for _ in range(settings.epochs):
        trainer.run_epoch()

    description = ModelDescription(
        network=settings.network, paths=settings.paths, base_distribution=base, elements=["Na"], sizes=[2, 5]
    )
    model = FlowModel(description, trainer.ema_network)
    species = [list(crystal.atomic_numbers) for crystal in crystals]
    generated = model.generate(species * SAMPLES, Sampling(50, schedule=LinearSchedule(pos=5.0)), seed=1)
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10)
    found = [
        matcher.get_rms_dist(structure, crystal)
        for structure, crystal in zip(generated.to_structures(), crystals * SAMPLES, strict=True)
    ]
    distances = [match[0] for match in found if match is not None]
    assert len(distances) >= 0.95 * len(found)
    assert sum(distances) / len(distances) < 0.05
