from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
from omatg_ray.errors import DataError, PotentialError
from omatg_ray.reward.potential import Potential, load_module, load_potential


def rocksalt(species: tuple[int, int], constant: float) -> CrystalBatch:
    """The conventional cell, eight atoms."""
    corners = torch.tensor([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)
    pos = torch.cat([corners, corners + torch.tensor([0.5, 0.5, 0.5])]) % 1.0
    numbers = torch.tensor(species).repeat_interleave(4)
    return CrystalBatch(numbers, pos, constant * torch.eye(3).double()[None], torch.tensor([8]))


def known_energy(expected: float, tolerance: float = 1e-3) -> list[dict[str, Any]]:
    """Rocksalt NaCl, primitive cell, a = 5.69 Å."""
    structure = {
        "species": ["Na", "Cl"],
        "pos": [[0, 0, 0], [0.5, 0.5, 0.5]],
        "cell": [[0, 2.845, 2.845], [2.845, 0, 2.845], [2.845, 2.845, 0]],
    }
    return [{"structure": structure, "energy_per_atom": expected, "tolerance": tolerance}]


@pytest.fixture(scope="module")
def weights(shared: Path) -> Path:
    return shared / "potentials" / "TensorNet-MatPES-PBE"


@pytest.fixture(scope="module")
def potential(weights: Path) -> Potential:
    return load_potential(weights)


@pytest.fixture
def copy(weights: Path, tmp_path: Path) -> Path:
    """A folder of the same weights that a test may spoil."""
    folder = tmp_path / "potential"
    folder.mkdir()
    for file in weights.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def edit_model_json(folder: Path, **changes: Any) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_network(folder: Path, **changes: Any) -> None:
    """Change what model.pt says of the network inside the potential."""
    arguments = torch.load(folder / "model.pt", weights_only=True)
    arguments["model"] |= {f"@{key}": value for key, value in changes.items()}
    torch.save(arguments, folder / "model.pt")


def edit_state(folder: Path, **changes: Any) -> None:
    state = torch.load(folder / "state.pt", weights_only=True)
    torch.save(state | changes, folder / "state.pt")


@pytest.mark.parametrize(
    ("functional", "species", "constant", "expected"),
    [
        ("PBE", (11, 17), 5.69, -3.3576),
        ("PBE", (12, 8), 4.25, -5.8680),
        ("r2SCAN", (11, 17), 5.69, -6.8460),
        ("r2SCAN", (12, 8), 4.25, -7.9839),
    ],
)
def test_published_energies(
    shared: Path, functional: str, species: tuple[int, int], constant: float, expected: float
) -> None:
    potential = load_potential(shared / "potentials" / f"TensorNet-MatPES-{functional}")
    energy = potential.energies(rocksalt(species, constant))
    assert energy.dtype == torch.float64
    assert energy.item() / 8 == pytest.approx(expected, abs=1e-4)


def test_what_a_loaded_potential_knows_of_itself(potential: Potential, weights: Path) -> None:
    assert potential.cutoff == 5.0
    assert len(potential.elements) == 89
    assert {1, 8, 22, 56} <= potential.elements
    assert 84 not in potential.elements
    assert potential.name == str(weights)
    potential.require_elements([1, 8, 56])
    with pytest.raises(PotentialError, match="Po, At"):
        potential.require_elements([84, 8, 85])


def test_neighbours_are_summed_in_the_order_of_memory(potential: Potential) -> None:
    from matgl.layers import TensorNetInteraction

    layers = [layer for layer in potential._module.modules() if isinstance(layer, TensorNetInteraction)]
    plain = load_module(potential.name)
    assert layers and all("aggregate" in vars(layer) for layer in layers)
    assert not any("aggregate" in vars(layer) for layer in plain.modules())
    crystals = CrystalBatch.cat([rocksalt((11, 17), 5.6), rocksalt((12, 8), 4.25)])
    theirs = [plain(graph, cell)[0].item() for graph, cell in potential._graphs(crystals, 1)]
    torch.testing.assert_close(
        potential.energies(crystals, repulsion=False) / 8, torch.tensor(theirs).double() / 8, atol=1e-5, rtol=0
    )


def test_fingerprints_tell_weights_apart_but_not_places(potential: Potential, copy: Path, shared: Path) -> None:
    assert load_potential(str(copy)).fingerprint == potential.fingerprint
    other = load_potential(shared / "potentials" / "TensorNet-MatPES-r2SCAN")
    assert other.fingerprint != potential.fingerprint


def test_chunks_change_neither_order_nor_energies(potential: Potential) -> None:
    crystals = CrystalBatch.cat([rocksalt((11, 17), 5.4 + 0.1 * i) for i in range(4)] + [rocksalt((12, 8), 4.25)])
    alone = torch.cat([potential.energies(crystals.select([b])) for b in range(5)])
    for chunk_edges in (1, 700, 10**6):
        together = potential.energies(crystals, chunk_edges)
        torch.testing.assert_close(together / 8, alone / 8, atol=1e-5, rtol=0)
    order = [3, 0, 4, 2, 1]
    torch.testing.assert_close(potential.energies(crystals.select(order), 700) / 8, alone[order] / 8, atol=1e-5, rtol=0)


def test_atoms_without_neighbours_have_an_energy_that_batching_keeps(potential: Potential) -> None:
    """Apart from each other, atoms have the energies of their elements, whatever cell they are in."""
    far = 14.0 * torch.eye(3).double()[None]
    pair = CrystalBatch(
        torch.tensor([8, 22]), torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double(), far, torch.tensor([2])
    )
    oxygen = CrystalBatch(torch.tensor([8]), torch.zeros(1, 3).double(), far, torch.tensor([1]))
    titanium = CrystalBatch(torch.tensor([22]), torch.zeros(1, 3).double(), far, torch.tensor([1]))
    energies = potential.energies(CrystalBatch.cat([oxygen, rocksalt((12, 8), 4.25), pair, titanium]))
    assert energies.isfinite().all()
    assert energies[1].item() / 8 == pytest.approx(-5.8680, abs=1e-4)
    assert energies[2].item() == pytest.approx((energies[0] + energies[3]).item(), abs=1e-4)


def test_energies_leave_no_graph_and_accept_empty_batches(potential: Potential) -> None:
    crystal = rocksalt((12, 8), 4.25)
    assert not potential.energies(crystal.replace(pos=crystal.pos.clone().requires_grad_())).requires_grad
    assert potential.energies(crystal.select([])).shape == (0,)


def test_energies_of_unknown_elements_or_flat_cells_are_refused(potential: Potential) -> None:
    with pytest.raises(PotentialError, match="Po"):
        potential.energies(rocksalt((12, 84), 5.0))
    flat = rocksalt((12, 8), 4.0)
    with pytest.raises(DataError, match="structure 0"):
        potential.energies(flat.replace(cell=flat.cell * torch.tensor([1.0, 1.0, 0.0])))


def test_loading_changes_no_global_state(weights: Path) -> None:
    def state() -> tuple[object, ...]:
        return (
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            list(warnings.filters),
        )

    random_state, before = torch.get_rng_state(), state()
    load_potential(weights)
    assert state() == before
    assert torch.equal(torch.get_rng_state(), random_state)


# --- weights that do not fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["potential", "network"])
def test_weights_from_before_a_change_of_architecture_are_refused(copy: Path, where: str) -> None:
    if where == "potential":
        edit_model_json(copy, **{"@model_version": 2})
    else:
        edit_network(copy, model_version=1)
    with pytest.raises(PotentialError, match="older MatGL"):
        load_potential(copy)


def test_known_energies_are_checked(copy: Path, potential: Potential) -> None:
    (copy / "known_energies.json").write_text(json.dumps(known_energy(-3.3576)))
    assert load_potential(copy).elements == potential.elements
    (copy / "known_energies.json").write_text(json.dumps(known_energy(-3.3576) + known_energy(-2.74)))
    with pytest.raises(PotentialError, match=r"known energy 1 \(NaCl\).*expected -2.7400.*got -3.3576"):
        load_potential(copy)


def test_known_energies_find_weights_of_the_other_message_direction(copy: Path) -> None:
    """MatGL before 2.2 had the two halves of this layer the other way round and the sign of that one turned."""
    state = torch.load(copy / "state.pt", weights_only=True)
    prefix = "model.tensor_embedding"
    halves = state[f"{prefix}.emb2.weight"].chunk(2, dim=1)
    turned = {f"{prefix}.emb2.weight": torch.cat(halves[::-1], dim=1)}
    turned |= {key: -state[key] for key in state if key.startswith(f"{prefix}.distance_proj2")}
    edit_state(copy, **turned)
    (copy / "known_energies.json").write_text(json.dumps(known_energy(-3.3576)))
    with pytest.raises(PotentialError, match=r"got -2\.7[34]"):
        load_potential(copy)


@pytest.mark.parametrize(
    "content",
    ["{", "[{}]", '[{"structure": {"species": ["Xx"], "pos": [[0, 0, 0]], "cell": []}}]', json.dumps({"a": 1}), "[3]"],
)
def test_malformed_known_energies_are_an_error_that_names_the_file(copy: Path, content: str) -> None:
    (copy / "known_energies.json").write_text(content)
    with pytest.raises(PotentialError, match="known_energies.json"):
        load_potential(copy)


def test_a_domain_beside_the_weights_is_read_and_a_malformed_one_refused(copy: Path, potential: Potential) -> None:
    assert potential.domain is None
    domain = Domain.of([[11, 17], [11, 11, 8]], sized=False)
    (copy / DOMAIN_FILE).write_text(domain.model_dump_json())
    loaded = load_potential(copy)
    assert (loaded.domain, loaded.fingerprint) == (domain, potential.fingerprint)
    assert pickle.loads(pickle.dumps(loaded)).domain == domain
    for content in ("{", "[]", '{"partners": {"Na": "Cl"}, "elements": {"two": 2}}', '{"partners": {}}'):
        (copy / DOMAIN_FILE).write_text(content)
        with pytest.raises(PotentialError, match=r"domain\.json is not a domain"):
            load_potential(copy)


def test_a_sane_energy_volume_curve_gives_no_warning(weights: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_potential(weights)


@pytest.mark.parametrize("scale", [-1.0, torch.nan])
def test_an_energy_volume_curve_without_minimum_gives_a_warning(copy: Path, scale: float) -> None:
    state = torch.load(copy / "state.pt", weights_only=True)
    edit_state(copy, data_std=scale * state["data_std"])
    with pytest.warns(UserWarning, match="rocksalt NaCl no energy minimum"):
        load_potential(copy)


# --- folders and names ----------------------------------------------------------------------------------------


def test_missing_folders_and_files_are_named(copy: Path) -> None:
    (copy / "state.pt").unlink()
    with pytest.raises(PotentialError, match=r"lacks state\.pt"):
        load_potential(copy)
    with pytest.raises(PotentialError, match="elsewhere does not exist"):
        load_potential(copy / "elsewhere")
    with pytest.raises(PotentialError, match="else/where does not exist"):
        load_potential("./else/where")


@pytest.mark.parametrize("file", ["model.json", "model.pt", "state.pt"])
def test_torn_files_are_an_error(copy: Path, file: str) -> None:
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(PotentialError, match="potential"):
        load_potential(copy)


@pytest.mark.parametrize("where", ["potential", "network"])
def test_files_that_ask_for_other_code_are_refused(copy: Path, tmp_path: Path, where: str) -> None:
    """MatGL alone would import the module and call the class with arguments from the file."""
    if where == "potential":
        edit_model_json(copy, **{"@module": "subprocess", "@class": "Popen"})
    else:
        trace = tmp_path / "trace"
        edit_network(copy, module="subprocess", **{"class": "Popen"})
        arguments = torch.load(copy / "model.pt", weights_only=True)
        arguments["model"]["init_args"] = {"args": ["touch", str(trace)]}
        torch.save(arguments, copy / "model.pt")
    with pytest.raises(PotentialError, match="outside MatGL's models"):
        load_potential(copy)
    assert not (tmp_path / "trace").exists()


def test_a_model_that_is_no_potential_is_refused(copy: Path) -> None:
    from matgl.models import TensorNet

    TensorNet(element_types=("C",), units=4).save(copy)
    with pytest.raises(PotentialError, match="TensorNet of MatGL, not a potential"):
        load_potential(copy)


def test_names_are_fetched_from_the_hub(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(repository: str, file: str, **_: Any) -> str:
        asked.append(repository)
        return str(weights / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    potential = load_potential("TensorNet-PES-Some-2025.1")
    assert set(asked) == {"materialyze/TensorNet-PES-Some-2025.1"}
    assert potential.name == "TensorNet-PES-Some-2025.1"
    load_potential("someone/other")
    assert asked[-1] == "someone/other"


def test_an_unreachable_hub_is_an_error_that_says_what_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(PotentialError, match=r"materialyze/No-Such.*no route to host.*folder that holds model\.json"):
        load_potential("No-Such")
