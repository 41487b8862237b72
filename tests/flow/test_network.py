"""CSPNet: the factorised evaluation against a plain one, and its symmetries."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pymatgen.core import Lattice

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import DataError
from omatg_ray.flow.network import HEADS, shape_features
from omatg_ray.flow.settings import NetworkSettings
from tests.small import SIZE, random_crystals, small_network

OUTPUTS = ["pos_b", "pos_eta", "cell_b", "cell_eta", "species_b", "species_eta"]
SIZES = [1, 5, 2, 7, 1, 3]


def nearest(f: torch.Tensor, lattice: torch.Tensor, i: int, k: int | None) -> list[int]:
    """Return the k other atoms that are nearest to atom i, or all."""
    others = [j for j in range(len(f)) if j != i]
    shift = {j: torch.tensor([d - 1 if d >= 0.5 else d for d in ((f[j] - f[i]) % 1.0).tolist()]) for j in others}
    return sorted(others, key=lambda j: float((shift[j].to(f) @ lattice).norm()))[:k]


def shape(lattice: torch.Tensor, n: int) -> torch.Tensor:
    """Return the features of a lattice, from its parameters as pymatgen has them."""
    parameters = Lattice(lattice.tolist())
    lengths, angles = parameters.abc, [math.radians(angle) for angle in parameters.angles]
    v = parameters.volume
    features = [2 * math.log(length / v ** (1 / 3)) for length in lengths]
    features += [2 * math.cos(angle) for angle in angles]
    features += [math.log(v / n) - 2.9, math.log(n) - 2.0]
    return torch.tensor(features, dtype=lattice.dtype)


def plain_network(network, crystals: CrystalBatch, t: torch.Tensor) -> dict[str, torch.Tensor]:
    """Structure by structure, ordered pair by ordered pair, from the weights and the textbook formulas alone."""
    w = {name: value.detach() for name, value in network.state_dict().items()}
    size = network.settings
    outputs: dict[str, list[torch.Tensor]] = {name: [] for name in OUTPUTS}
    start = 0
    for b, n in enumerate(crystals.n_atoms.tolist()):
        species, f = crystals.species[start : start + n], crystals.pos[start : start + n]
        lattice = crystals.cell[b]
        start += n
        half = size.time_features // 2
        angles = [float(t[b]) * 10000.0 ** (-k / (half - 1)) for k in range(half)]
        time = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=f.dtype)
        seen = shape(lattice, n) if size.lattice == "shape" else (lattice @ lattice.T).flatten()
        of_crystal = [time, seen] if size.lattice == "shape" else [time]
        h = torch.stack(
            [
                w["atom_latent_emb.weight"] @ torch.cat([w["node_embedding.weight"][z - 1], *of_crystal])
                + w["atom_latent_emb.bias"]
                for z in species.tolist()
            ]
        )
        senders = [[i, *nearest(f, lattice, i, size.neighbors)] for i in range(n)]
        heard = [[j for j in range(n) if j in senders[i] or i in senders[j]] for i in range(n)]
        for index in range(size.layers):
            layer = {
                k.removeprefix(f"csp_layer_{index}."): v for k, v in w.items() if k.startswith(f"csp_layer_{index}.")
            }

            def linear(name, x, layer=layer):
                return F.silu(layer[f"{name}.weight"] @ x + layer[f"{name}.bias"])

            z = F.layer_norm(h, (size.hidden,), layer["layer_norm.weight"], layer["layer_norm.bias"])
            new = []
            for i in range(n):
                messages = []
                for j in heard[i]:
                    d = (f[j] - f[i]) % 1.0
                    phases = [2 * math.pi * k * float(d[c]) for c in range(3) for k in range(size.frequencies)]
                    features = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
                    edge = [z[i], z[j], seen, torch.tensor(features, dtype=f.dtype)]
                    message = linear("edge_mlp.0", torch.cat(edge))
                    messages.append(message if size.pooled else linear("edge_mlp.2", message))
                mean = torch.stack(messages).mean(0)
                mean = linear("edge_mlp.2", mean) if size.pooled else mean
                new.append(h[i] + linear("node_mlp.2", linear("node_mlp.0", torch.cat([z[i], mean]))))
            h = torch.stack(new)
        h = F.layer_norm(h, (size.hidden,), w["final_layer_norm.weight"], w["final_layer_norm.bias"])
        for name in OUTPUTS:
            weight = w[f"{HEADS[name]}.weight"]
            if name.startswith("pos"):
                outputs[name].append(h @ weight.T)
            elif name.startswith("cell"):
                outputs[name].append(((weight @ h.mean(0)).view(3, 3) @ lattice)[None])
            else:
                outputs[name].append(h @ weight.T + w[f"{HEADS[name]}.bias"])
    return {name: torch.cat(parts) for name, parts in outputs.items()}


def times(crystals: CrystalBatch) -> torch.Tensor:
    return torch.linspace(0.05, 0.95, len(crystals), dtype=crystals.dtype)


@torch.no_grad()
def outputs(network, crystals: CrystalBatch, t: torch.Tensor) -> dict[str, torch.Tensor]:
    out = network(crystals, t)
    return {name: getattr(out, name) for name in OUTPUTS}


@pytest.mark.parametrize("sizes", [SIZES, [1], [1, 1], [20]])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooled": True},
        {"neighbors": 3},
        {"neighbors": 1, "pooled": True},
        {"lattice": "shape"},
        {"lattice": "shape", "neighbors": 3, "pooled": True},
    ],
)
def test_equals_the_plain_evaluation(sizes, changes):
    network, crystals = small_network(size=SIZE.model_copy(update=changes)), random_crystals(sizes)
    expected = plain_network(network, crystals, times(crystals))
    for name, value in outputs(network, crystals, times(crystals)).items():
        torch.testing.assert_close(value, expected[name], atol=1e-10, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_structures_do_not_see_each_other():
    network, crystals = small_network(), random_crystals(SIZES)
    together = outputs(network, crystals, times(crystals))
    alone = [outputs(network, crystals.select([b]), times(crystals)[b : b + 1]) for b in range(len(crystals))]
    for name in OUTPUTS:
        torch.testing.assert_close(together[name], torch.cat([part[name] for part in alone]), atol=1e-12, rtol=0)


def test_atoms_may_be_permuted():
    network, crystals = small_network(), random_crystals(SIZES)
    order = torch.cat([start + torch.randperm(n) for start, n in zip(crystals.ptr.tolist(), SIZES, strict=False)])
    assert not torch.equal(order, torch.arange(len(order)))
    permuted = CrystalBatch(crystals.species[order], crystals.pos[order], crystals.cell, crystals.n_atoms)
    before, after = (outputs(network, c, times(crystals)) for c in (crystals, permuted))
    for name in OUTPUTS:
        expected = before[name] if name.startswith("cell") else before[name][order]
        torch.testing.assert_close(after[name], expected, atol=1e-12, rtol=0)


def test_crystals_may_be_translated():
    network, crystals = small_network(), random_crystals(SIZES)
    shift = torch.rand(len(crystals), 3, dtype=crystals.dtype)[crystals.batch]
    before = outputs(network, crystals, times(crystals))
    for pos in (crystals.pos + shift, (crystals.pos + shift) % 1.0):
        after = outputs(network, crystals.replace(pos=pos), times(crystals))
        for name in OUTPUTS:
            torch.testing.assert_close(after[name], before[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"lattice": "shape"}, {"separation": True}], ids=str)
def test_lattices_turn_with_the_crystal(changes):
    network, crystals = small_network(size=SIZE.model_copy(update=changes)), random_crystals(SIZES)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=crystals.dtype)).Q
    before = outputs(network, crystals, times(crystals))
    after = outputs(network, crystals.replace(cell=crystals.cell @ turn), times(crystals))
    for name in OUTPUTS:
        expected = before[name] @ turn if name.startswith("cell") else before[name]
        torch.testing.assert_close(after[name], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "cell",
    [
        torch.zeros(3, 3),
        torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [4.0, 4.0, 0]]),
        torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 0]]),
        1e14 * torch.eye(3),
    ],
    ids=["nothing", "flat", "two vectors", "huge"],
)
def test_shapes_of_degenerate_lattices_are_bounded(cell):
    crystals = random_crystals([3], dtype=torch.float32).replace(cell=cell[None].clone().requires_grad_(True))
    features = shape_features(crystals)
    # Twice ln 1e14 for lengths, and three times that for the volume.
    assert features.shape == (1, 8) and float(features.detach().abs().max()) < 100
    features.square().sum().backward()
    assert crystals.cell.grad.isfinite().all()


def test_the_size_and_the_time_matter():
    network, crystals = small_network(), random_crystals([4])
    early, late = (outputs(network, crystals, torch.tensor([t], dtype=crystals.dtype)) for t in (0.1, 0.9))
    larger = outputs(network, crystals.replace(cell=1.1 * crystals.cell), torch.tensor([0.1], dtype=crystals.dtype))
    for name in OUTPUTS:
        assert float((early[name] - late[name]).abs().max()) > 1e-4
        assert float((early[name] - larger[name]).abs().max()) > 1e-4


def test_one_time_for_all_structures():
    network, crystals = small_network(), random_crystals(SIZES)
    t = torch.tensor(0.3, dtype=crystals.dtype)
    one, many = outputs(network, crystals, t), outputs(network, crystals, t.repeat(len(SIZES)))
    assert all(torch.equal(one[name], many[name]) for name in OUTPUTS)


def test_wrong_times_are_refused():
    with pytest.raises(DataError, match="6 structures need one time each"):
        small_network()(random_crystals(SIZES), torch.zeros(5, dtype=torch.float64))


def test_elements_beyond_the_embedding_are_refused():
    network = small_network(size=NetworkSettings(**(SIZE.model_dump() | {"max_atomic_number": 20})))
    crystals = CrystalBatch(torch.tensor([20, 21]), torch.zeros(2, 3), torch.eye(3)[None], torch.tensor([2]))
    with pytest.raises(DataError, match="21"):
        network(crystals.to(dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))


def test_train_only_freezes_the_other_heads():
    network = small_network()
    network.train_only({"pos_b"})
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    heads = {head for output, head in HEADS.items() if output != "pos_b"}
    assert frozen == {n for n, _ in network.named_parameters() if n.split(".")[0] in heads}
    network(random_crystals([3]), torch.tensor([0.5], dtype=torch.float64)).pos_b.sum().backward()
    assert all((p.grad is None) == (name in frozen) for name, p in network.named_parameters())
    network.train_only({"cell_b"})
    assert network.lattice_out.weight.requires_grad and not network.coord_out.weight.requires_grad
    assert len(network.trainable_parameters()) == sum(1 for p in network.parameters() if p.requires_grad)
