"""What the package carries: whether it is what its cards say."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from omatg_ray import assets
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import Domain
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import PotentialError
from omatg_ray.model.checks import known_elements
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.run.location import PERIODIC, PROTOTYPES, as_base


@pytest.fixture(scope="module")
def splits() -> dict[str, CrystalDataset]:
    return {name: read_dataset(assets.crystals(name, PROTOTYPES)) for name in ("train", "val", "test")}


@pytest.fixture(scope="module")
def potential() -> Potential:
    return load_potential(PROTOTYPES)


def size(name: assets.AssetName) -> int:
    return sum(path.stat().st_size for path in assets.asset(name, PROTOTYPES).iterdir())


def test_crystals_are_many_and_diverse(splits: dict[str, CrystalDataset]) -> None:
    crystals = [row for split in splits.values() for row in split.properties]
    assert len(crystals) >= 3000
    assert len(frozenset.union(*(split.elements for split in splits.values()))) >= 40
    assert len({row["prototype"] for row in crystals}) >= 12
    assert all(1 <= int(row["space_group"]) <= 230 and -15 < float(row["energy_per_atom"]) < 0 for row in crystals)
    sizes = {n for split in splits.values() for n in split.crystals.layout.sizes}
    assert min(sizes) >= 2 and max(sizes) <= 20
    polymorphs: dict[str, int] = defaultdict(int)
    for split in splits.values():
        for formula in split.compositions:
            polymorphs[formula] += 1
    assert sum(count > 1 for count in polymorphs.values()) >= 300
    assert size("crystals") < 3e6


def test_splits_share_no_composition(splits: dict[str, CrystalDataset]) -> None:
    formulas = [set(split.compositions) for split in splits.values()]
    assert sum(map(len, formulas)) == len(set.union(*formulas))


def test_crystals_are_valid(splits: dict[str, CrystalDataset]) -> None:
    for split in splits.values():
        assert check_validity(split.crystals).valid.all()


def test_some_well_known_crystals_are_among_them(splits: dict[str, CrystalDataset]) -> None:
    """Ground states that every textbook has, where the data set has their composition with several polymorphs."""
    known = {"NaCl": 225, "KCl": 225, "MgO": 225, "CaO": 225, "SrO": 225, "CaF2": 225, "ZnS": 216, "LiF": 225}
    lowest: dict[str, tuple[float, int]] = {}
    for split in splits.values():
        for formula, row in zip(split.compositions, split.properties, strict=True):
            found = (float(row["energy_per_atom"]), int(row["space_group"]))
            lowest[formula] = min(found, lowest.get(formula, found))
    present = {formula: lowest[formula][1] for formula in known if formula in lowest}
    assert len(present) >= 4
    agree = [present[formula] == known[formula] for formula in present]
    # The potential that relaxed them is not perfect: ZnS and its like have polymorphs within a few meV/atom.
    assert sum(agree) >= len(agree) - 1


def test_energies_are_those_of_the_potential_that_relaxed_them(splits: dict[str, CrystalDataset], shared: Path) -> None:
    teacher = load_potential(shared / "potentials" / "TensorNet-MatPES-PBE")
    some = splits["test"].select(list(range(0, len(splits["test"]), 20)))
    energy = teacher.energies(some.crystals) / some.crystals.n_atoms
    written = torch.tensor([float(row["energy_per_atom"]) for row in some.properties], dtype=torch.float64)
    torch.testing.assert_close(energy, written, atol=2e-3, rtol=0)


def test_the_potential_is_matgl_s_own_format_and_small(splits: dict[str, CrystalDataset], potential: Potential) -> None:
    import matgl

    module = matgl.load_model(assets.asset("potential", PROTOTYPES))
    assert type(module.model).__name__ == "TensorNet"
    assert size("potential") < 1.5e6
    elements = frozenset.union(*(split.elements for split in splits.values()))
    assert potential.elements == elements


def test_the_potential_refuses_other_elements_by_name(potential: Potential) -> None:
    with pytest.raises(PotentialError, match="does not know H, U"):
        potential.require_elements([1, 11, 92])


def test_the_potential_ranks_as_its_teacher(
    splits: dict[str, CrystalDataset], potential: Potential, shared: Path
) -> None:
    """On rattled and strained crystals of held-out compositions; the figures of generated ones are on the card."""
    teacher = load_potential(shared / "potentials" / "TensorNet-MatPES-PBE")
    rng = torch.Generator().manual_seed(0)
    test = splits["test"].crystals
    correlations = []
    for row in range(0, len(test), 45):
        one = test.select([row]).tile(16)
        strength = torch.linspace(0.0, 0.4, 16)
        moved = one.pos + (strength[one.batch] / 4)[:, None] * torch.randn(one.pos.shape, generator=rng)
        strain = strength[:, None, None] * 0.3 * torch.randn(16, 3, 3, generator=rng)
        crystals = one.replace(moved % 1.0, one.cell @ (torch.eye(3) + 0.5 * (strain + strain.mT)))
        energies = [model.energies(crystals) for model in (potential, teacher)]
        correlations.append(float(spearmanr(*energies).statistic))
    assert sum(correlations) / len(correlations) > 0.9


def test_all_that_is_bundled_is_small() -> None:
    files = [
        path for of, names in assets.CONTENTS.items() for name in names for path in assets.asset(name, of).iterdir()
    ]
    assert sum(path.stat().st_size for path in files) < 15e6


@pytest.mark.parametrize("model", [as_base(PERIODIC), PERIODIC])
def test_the_periodic_set_knows_most_elements(model: str) -> None:
    potential, model_of_set = load_potential(PERIODIC), FlowModel.load(model)
    known = known_elements(model_of_set)
    assert len(known) >= 80 and known <= potential.elements and max(model_of_set.description.sizes) == 52
    assert bool(model_of_set.description.active) == (model == PERIODIC)
    crystals = read_dataset(assets.crystals("test", PERIODIC))
    assert crystals.elements <= known


def test_the_periodic_potential_gives_the_energies_that_its_teacher_gave_the_crystals() -> None:
    """Those of the test split, which come with the energies under which they were relaxed."""
    test = read_dataset(assets.crystals("test", PERIODIC))
    test = test.select(range(0, len(test), 6))
    expected = torch.tensor([float(row["energy_per_atom"]) for row in test.properties], dtype=torch.float64)
    found = load_potential(PERIODIC).energies(test.crystals, repulsion=False) / test.crystals.n_atoms
    assert float((found - expected).abs().mean()) < 0.12


def test_overlaps_score_worse_than_the_crystal_under_the_bundled_potential(
    splits: dict[str, CrystalDataset], potential: Potential
) -> None:
    """No hole for a policy to fall into: pulling one atom onto another never gains energy, however close."""
    test = splits["test"].crystals
    for row in range(0, len(test), 30):
        one = test.select([row])
        start = float(potential.energies(one))
        difference = one.pos[1] - one.pos[0]
        steps = []
        for share in torch.linspace(0.05, 0.95, 19):
            pos = one.pos.clone()
            pos[1] = pos[1] - share * (difference - difference.round())
            steps.append(one.replace(pos % 1.0))
        moved = CrystalBatch.cat(steps)
        valid = check_validity(moved).valid
        energies = potential.energies(moved.select(valid.nonzero()[:, 0]))
        assert float(energies.min()) > start - 0.05 * len(one.species), one.formulas()


def test_the_base_is_small_and_knows_what_the_crystals_hold(splits: dict[str, CrystalDataset]) -> None:
    from pymatgen.core import Element

    model = FlowModel.load(PROTOTYPES)
    assert size("base") < 6e6
    assert {Element(symbol).Z for symbol in model.description.elements} == splits["train"].elements
    assert set(model.description.sizes) == splits["train"].sizes
    assert model.description.domain == Domain.of(splits["train"].crystals)
    assert model.description.active == []


def test_the_domain_of_the_potential_holds_that_of_the_crystals(
    splits: dict[str, CrystalDataset], potential: Potential
) -> None:
    """What else is in it follows from a list that takes half a minute: `tests/scripts/test_assets.py`."""
    domain, crystals = potential.domain, Domain.of(splits["train"].crystals)
    assert domain is not None and domain.pairs > crystals.pairs
    assert set(domain.partners) == set(crystals.partners) and not domain.sizes
    assert all(domain.elements[number] >= count for number, count in crystals.elements.items())
    assert domain.outside([26, 15, 8]) == [("P-O", 0)]


def test_the_base_generates_valid_crystals_for_held_out_compositions(splits: dict[str, CrystalDataset]) -> None:
    test = splits["test"].select(list(range(0, len(splits["test"]), 8)))
    species = [z.tolist() for z in test.crystals.species.split(test.crystals.layout.sizes)]
    crystals = FlowModel.load(PROTOTYPES).generate(species, Sampling(20), seed=0, judged=True)
    assert float(check_validity(crystals).valid.double().mean()) > 0.9
