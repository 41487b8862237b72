"""Network outputs against the official implementation."""

import torch
from safetensors.torch import load_file

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.network import embed_time
from tests.parity.loading import peer_network

TOLERANCE = 2e-5


def test_outputs(shared):
    arrays = load_file(shared / "parity" / "network_perov5_small.safetensors")
    network = peer_network(shared)
    crystals = CrystalBatch(arrays["atomic_numbers"], arrays["frac_coords"], arrays["lattice"], arrays["n_atoms"])
    assert torch.equal(crystals.batch, arrays["batch"])
    with torch.no_grad():
        for k, t in enumerate(arrays["t"]):
            out = network(crystals, t)
            for name in ("pos_b", "pos_eta", "cell_b", "cell_eta"):
                torch.testing.assert_close(getattr(out, name), arrays[name][k], atol=TOLERANCE, rtol=0)
        embedding = embed_time(arrays["t"], network.settings.time_features)
        torch.testing.assert_close(embedding, arrays["time_embedding"], atol=1e-6, rtol=0)

        out = network(crystals, arrays["mixed/t"])
        for name in ("pos_b", "pos_eta", "cell_b", "cell_eta"):
            torch.testing.assert_close(getattr(out, name), arrays[f"mixed/{name}"], atol=TOLERANCE, rtol=0)
        for name in ("species_b", "species_eta"):
            expected = arrays[f"mixed/{name}_first6"]
            torch.testing.assert_close(getattr(out, name)[: len(expected)], expected, atol=TOLERANCE, rtol=0)
