"""Models that generate species (de novo): import, generation from numbers of atoms, export, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from omatg_ray.errors import ModelError
from omatg_ray.flow.species import MaskedSpecies, UniformSpecies
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.omatg.base import Imported
from omatg_ray.omatg.export import export_omatg
from omatg_ray.omatg.hub import CHECKPOINT_FILE, CONFIG_FILE
from omatg_ray.omatg.read import import_omatg
from tests.omatg.files import SIZE, base_tree, network_state, of_class, reinforcement_tree, write

MASK = "omg.si.discrete_flow_matching_mask.DiscreteFlowMatchingMask"
UNIFORM = "omg.si.discrete_flow_matching_uniform.DiscreteFlowMatchingUniform"
BASES = "omg.sampler.species_distributions."


def tree_of(interpolant: str, base: dict[str, Any] | str, **arguments: Any) -> dict[str, Any]:
    tree = base_tree()
    tree["model"]["si"]["init_args"]["stochastic_interpolants"][0] = of_class(interpolant, **arguments)
    tree["model"]["sampler"]["init_args"]["species_distribution"] = base
    return tree


def masked_tree() -> dict[str, Any]:
    return tree_of(MASK, BASES + "MaskSpeciesDistribution", noise=0.19)


def uniform_tree() -> dict[str, Any]:
    return tree_of(UNIFORM, of_class(BASES + "UniformSpeciesDistribution", low=1), noise=0.01)


def masked_state(seed: int = 0) -> dict[str, Tensor]:
    return network_state(seed, SIZE.model_copy(update={"mask": True}))


CASES: list[tuple[Callable[[], dict[str, Any]], Callable[[], dict[str, Tensor]]]] = [
    (masked_tree, masked_state),
    (uniform_tree, network_state),
]


def imported(folder: Path, tree: dict[str, Any], state: dict[str, Tensor]) -> Imported:
    return import_omatg(*write(folder, tree, state))


def test_masked_species_have_one_more_row_in_the_embedding(tmp_path: Path) -> None:
    result = imported(tmp_path, masked_tree(), masked_state())
    what = result.model.description
    assert what.paths.species == MaskedSpecies(noise=0.19)
    assert what.network.mask
    weight = result.model.base_network.node_embedding.weight
    assert torch.equal(weight, masked_state()["model.encoder.node_embedding.weight"])
    assert len(weight) == 101
    assert any("--atoms" in note for note in result.notes)


def test_uniform_species(tmp_path: Path) -> None:
    result = imported(tmp_path, uniform_tree(), network_state())
    what = result.model.description
    assert what.paths.species == UniformSpecies(noise=0.01)
    assert not what.network.mask
    assert any("detailed balance" in note for note in result.notes)


@pytest.mark.parametrize("tree, state", CASES)
def test_they_generate_from_numbers_of_atoms(tree: Any, state: Any, tmp_path: Path) -> None:
    model = imported(tmp_path, tree(), state()).model
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out")
    loaded = FlowModel.load(tmp_path / "out")
    assert loaded.description == model.description
    crystals = model.generate([[1] * 4, [8] * 2, [1] * 4], Sampling(6))
    assert crystals.n_atoms.tolist() == [4, 2, 4]
    assert int(crystals.species.min()) >= 1 and int(crystals.species.max()) <= 100
    assert len(set(crystals.species.tolist())) > 3
    again = loaded.generate([[2] * 4], Sampling(6), indices=[2])
    assert torch.equal(again.species, crystals.species[6:])
    torch.testing.assert_close(again.pos, crystals.pos[6:], atol=1e-5, rtol=0)
    assert not torch.equal(model.generate([[1] * 4], Sampling(6), seed=1).species, crystals.species[:4])
    with pytest.raises(ModelError, match="de novo.*--atoms"):
        model.sample(["NaCl"])
    with pytest.raises(ModelError, match=r"solver rk4: .*Euler"):
        model.generate([[1]], Sampling(solver="rk4"))


@pytest.mark.parametrize("tree, state", CASES)
def test_import_then_export_gives_the_checkpoint_back(tree: Any, state: Any, tmp_path: Path) -> None:
    model = imported(tmp_path, tree(), state()).model
    export_omatg(model, tmp_path)
    tensors = torch.load(tmp_path / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    assert tensors.keys() == state().keys()
    name = "model.encoder.node_embedding.weight"
    assert torch.equal(tensors[name], state()[name])
    config = yaml.safe_load((tmp_path / CONFIG_FILE).read_text())["model"]
    species = config["si"]["init_args"]["stochastic_interpolants"][0]
    given = tree()["model"]
    assert species == given["si"]["init_args"]["stochastic_interpolants"][0]
    base, expected = (c["sampler"]["init_args"]["species_distribution"] for c in (config, given))
    assert base["class_path"] == (expected if isinstance(expected, str) else expected["class_path"])
    again = import_omatg(tmp_path / CHECKPOINT_FILE, tmp_path / CONFIG_FILE).model.description
    assert (again.paths, again.network) == (model.description.paths, model.description.network)


def test_a_reinforced_one_follows_its_base_in_the_species(tmp_path: Path) -> None:
    base = imported(tmp_path, masked_tree(), masked_state()).model
    files = write(tmp_path, reinforcement_tree(), masked_state(1), "rl")
    model = import_omatg(*files, base=base).model
    policy = model.policy()
    assert policy.species == MaskedSpecies(noise=0.19)
    assert policy.base_network is not policy.network and policy.asks_base
    crystals = model.generate([[1] * 3], Sampling(5, noise="policy"))
    assert int(crystals.species.min()) >= 1
    with pytest.raises(ModelError, match="species follow the base network"):
        export_omatg(model, tmp_path)


@pytest.mark.parametrize(
    "tree, message",
    [
        (tree_of(MASK, BASES + "UniformSpeciesDistribution"), "expected: MaskSpeciesDistribution"),
        (tree_of(UNIFORM, BASES + "MirrorSpecies"), "expected: UniformSpeciesDistribution"),
        (tree_of(MASK, of_class(BASES + "MaskSpeciesDistribution", token=3)), r"species_distribution\.token: only 0"),
        (tree_of(UNIFORM, of_class(BASES + "UniformSpeciesDistribution", high=90)), r"\.high: only 101 is supported"),
        (tree_of(MASK, BASES + "MaskSpeciesDistribution", noise=-1), r"species.noise.*greater than or equal to 0"),
        (tree_of(MASK, BASES + "MaskSpeciesDistribution", speed=1), r"species\.speed: this argument of"),
    ],
)
def test_what_does_not_go_together_is_refused(tree: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, tree, masked_state())


def test_a_checkpoint_without_the_row_of_the_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"node_embedding.weight has shape \(100, 8\).*\(101, 8\)"):
        imported(tmp_path, masked_tree(), network_state())
