"""How much faster the factorised network is than a plain one: the same weights, one run, one table.

    python scripts/benchmarks/network.py --threads 1

The plain network evaluates the message MLP on the concatenated input of every ordered pair of atoms, as DiffCSP and
OMatG write it. The outputs are compared before anything is timed; times are the best of several repeats.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.network import CSPNet, MessageLayer, NetworkSettings

SIZES = ((5, 128), (20, 128), (5, 512), (20, 512))
ATOMS = 1280


def plain(network: CSPNet, crystals: CrystalBatch, t: Tensor) -> Tensor:
    """Position velocities (sum N, 3), every ordered pair on its own."""
    settings = network.settings
    n = int(crystals.n_atoms[0])
    first = torch.arange(len(crystals.species)).repeat_interleave(n)
    second = (crystals.ptr[:-1, None] + torch.arange(n)).repeat_interleave(n, 0).flatten()
    angle = (crystals.pos[second] - crystals.pos[first])[:, :, None] * (
        2 * math.pi * torch.arange(settings.frequencies)
    )
    metric = (crystals.cell @ crystals.cell.transpose(1, 2)).flatten(1)[crystals.batch[first]]
    features = torch.cat([angle.flatten(1).sin(), angle.flatten(1).cos()], 1)
    time_features = network.time_embedding(t)[crystals.batch]
    h = network.atom_latent_emb(torch.cat([network.node_embedding(crystals.species - 1), time_features], 1))
    for index in range(settings.layers):
        layer = network.get_submodule(f"csp_layer_{index}")
        assert isinstance(layer, MessageLayer)
        z = layer.layer_norm(h)
        message = layer.edge_mlp(torch.cat([z[first], z[second], metric, features], 1))
        mean = message.view(len(h), n, -1).mean(1)
        h = h + layer.node_mlp(torch.cat([z, mean], 1))
    return network.coord_out(network.final_layer_norm(h))


def best(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Prints a row for every number of atoms and hidden size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{'atoms':>5} {'hidden':>6} {'pass':>16} {'plain (ms)':>11} {'factorised (ms)':>16} {'ratio':>6}")
    for n, hidden in SIZES:
        structures = ATOMS // n
        network = CSPNet(NetworkSettings(hidden=hidden))
        crystals = CrystalBatch(
            torch.randint(1, 90, (ATOMS,)),
            torch.rand(ATOMS, 3),
            4 * torch.eye(3).repeat(structures, 1, 1),
            torch.full((structures,), n),
        )
        t = torch.rand(structures)
        ways: dict[str, Callable[[], Tensor]] = {
            "plain": lambda network=network, crystals=crystals, t=t: plain(network, crystals, t),  # type: ignore[misc]
            "factorised": lambda network=network, crystals=crystals, t=t: network(crystals, t).pos_b,  # type: ignore[misc]
        }
        with torch.no_grad():
            torch.testing.assert_close(ways["plain"](), ways["factorised"](), atol=1e-5, rtol=1e-4)
            forward = {name: best(way, options.repeats) for name, way in ways.items()}
        both = {name: best(lambda way=way: way().sum().backward(), options.repeats) for name, way in ways.items()}  # type: ignore[misc]
        for name, times in (("forward", forward), ("forward+backward", both)):
            slow, fast = 1e3 * times["plain"], 1e3 * times["factorised"]
            print(f"{n:5d} {hidden:6d} {name:>16} {slow:11.1f} {fast:16.1f} {slow / fast:6.2f}")


if __name__ == "__main__":
    main()
