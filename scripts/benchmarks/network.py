"""Speed of the network against a plain one, step by step: the same weights, one run, one table.

    python scripts/benchmarks/network.py --clock processor

plain: the message MLP on the concatenated input of every ordered pair of atoms, as in DiffCSP and OMatG. factorised:
its first linear map applied where its inputs live (docs/architecture.md), in ordinary operations. fused: the network of
this package, whose messages are gathered, summed and averaged with little memory traffic. bfloat16: the same in that
precision. compiled: fused, with layers through `torch.compile` (with --compile; compile time is printed). All outputs
are compared before timing; times are the best of several repeats, with their ratio to plain.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from products import CLOCKS, fastest
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.network import CSPNet, MessageLayer, embed_time, pair_features
from omatg_ray.flow.settings import NetworkSettings

SIZES = ((5, 128), (20, 128), (5, 512), (20, 512))
ATOMS = 1280

Way = Callable[[], Tensor]


def plain(network: CSPNet, crystals: CrystalBatch, t: Tensor) -> Tensor:
    """Compute position velocities (sum N, 3), with every ordered pair on its own."""
    settings = network.settings
    n = int(crystals.n_atoms[0])
    first = torch.arange(len(crystals.species)).repeat_interleave(n)
    second = (crystals.ptr[:-1, None] + torch.arange(n)).repeat_interleave(n, 0).flatten()
    angle = (crystals.pos[second] - crystals.pos[first])[:, :, None] * (
        2 * math.pi * torch.arange(settings.frequencies)
    )
    metric = (crystals.cell @ crystals.cell.transpose(1, 2)).flatten(1)[crystals.batch[first]]
    features = torch.cat([angle.flatten(1).sin(), angle.flatten(1).cos()], 1)
    h = embedded(network, crystals, t)
    for index in range(settings.layers):
        layer = network.get_submodule(f"csp_layer_{index}")
        assert isinstance(layer, MessageLayer)
        z = layer.layer_norm(h)
        message = layer.edge_mlp(torch.cat([z[first], z[second], metric, features], 1))
        mean = message.view(len(h), n, -1).mean(1)
        h = h + layer.node_mlp(torch.cat([z, mean], 1))
    return network.coord_out(network.final_layer_norm(h))


def embedded(network: CSPNet, crystals: CrystalBatch, t: Tensor) -> Tensor:
    """Return the features of all atoms before the first layer (sum N, hidden)."""
    time_features = embed_time(t, network.settings.time_features)[crystals.batch]
    return network.atom_latent_emb(torch.cat([network.node_embedding(crystals.species - 1), time_features], 1))


def factorised(network: CSPNet, crystals: CrystalBatch, t: Tensor) -> Tensor:
    """Compute position velocities (sum N, 3), with linear maps where their inputs live and nothing fused."""
    h = embedded(network, crystals, t)
    sin, cos = pair_features(crystals, crystals.layout.edges, network.settings.frequencies)
    metric = (crystals.cell @ crystals.cell.transpose(1, 2)).flatten(1)
    first, second, _ = crystals.layout.pairs
    receiver, sender = torch.cat([first, second]), torch.cat([second, first])
    for index in range(network.settings.layers):
        layer = cast("MessageLayer", network.get_submodule(f"csp_layer_{index}"))
        inner, outer = cast("nn.Linear", layer.edge_mlp[0]), layer.edge_mlp[2]
        sizes = [layer.hidden, layer.hidden, 9, layer.waves, layer.waves]
        w_receiver, w_sender, w_metric, w_sin, w_cos = inner.weight.split(sizes, dim=1)
        z = layer.layer_norm(h)
        got = F.linear(z, w_receiver) + F.linear(metric, w_metric, inner.bias)[crystals.batch]
        given = F.linear(z, w_sender)
        odd, even = F.linear(sin, w_sin), F.linear(cos, w_cos)
        message = F.silu(outer(F.silu(got[receiver] + given[sender] + torch.cat([even + odd, even - odd]))))
        own = F.silu(outer(F.silu(got + given + w_cos.sum(1))))
        mean = own.index_add(0, receiver, message) / crystals.n_atoms[crystals.batch, None]
        h = h + layer.node_mlp(torch.cat([z, mean], 1))
    return network.coord_out(network.final_layer_norm(h))


def compiled(network: CSPNet) -> None:
    """Compile all layers, for any sizes."""
    for index in range(network.settings.layers):
        layer = network.get_submodule(f"csp_layer_{index}")
        layer.forward = torch.compile(layer.forward, dynamic=True)


def ways_of(settings: NetworkSettings, crystals: CrystalBatch, t: Tensor, compile_too: bool) -> dict[str, Way]:
    """Return ways to evaluate networks with the same weights."""
    network = CSPNet(settings)
    ways: dict[str, Way] = {
        "plain": lambda: plain(network, crystals, t),
        "factorised": lambda: factorised(network, crystals, t),
        "fused": lambda: network(crystals, t).pos_b,
        "bfloat16": lambda: network(crystals, t, "bfloat16").pos_b,
    }
    if compile_too:
        other = CSPNet(settings)
        other.load_state_dict(network.state_dict())
        compiled(other)
        ways["compiled"] = lambda: other(crystals, t).pos_b
    return ways


def main() -> None:
    """Print a row for every number of atoms, hidden size, and pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for one busy core, with one thread")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, which needs a C++ compiler")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print("milliseconds, and how many times faster than plain")
    for n, hidden in SIZES:
        structures = ATOMS // n
        crystals = CrystalBatch(
            torch.randint(1, 90, (ATOMS,)),
            torch.rand(ATOMS, 3),
            4 * torch.eye(3).repeat(structures, 1, 1),
            torch.full((structures,), n),
        )
        ways = ways_of(NetworkSettings(hidden=hidden), crystals, torch.rand(structures), options.compile)
        began = time.perf_counter()
        with torch.no_grad():
            expected = ways["plain"]()
            for name, way in ways.items():
                bound = 0.05 * float(expected.abs().max()) if name == "bfloat16" else 1e-5
                torch.testing.assert_close(way(), expected, atol=bound, rtol=1e-4)
        if "compiled" in ways:
            ways["compiled"]().sum().backward()
            print(f"compiled and compared in {time.perf_counter() - began:.0f} s")

        def forward(way: Way) -> Callable[[], object]:
            return torch.no_grad()(way)

        def both(way: Way) -> Callable[[], object]:
            return lambda: way().sum().backward()

        for name, passes in (("forward", forward), ("with backward", both)):
            seconds = {
                key: fastest(passes(way), options.repeats, torch.device("cpu"), options.clock)
                for key, way in ways.items()
            }
            cells = [f"{key} {1e3 * value:.1f} ({seconds['plain'] / value:.2f})" for key, value in seconds.items()]
            print(f"{n:3d} atoms, hidden {hidden}, {name}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
