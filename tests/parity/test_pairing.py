"""Minimum-permutation pairing against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.crystal.batch import Layout
from omatg_ray.crystal.lattice import minimum_difference
from omatg_ray.flow.pairing import minimum_permutation


def test_rows_and_total_distances(shared):
    arrays = load_file(shared / "parity" / "min_permutation.safetensors")
    recorded = json.loads((shared / "parity" / "min_permutation.json").read_text())["periodic"]
    layout = Layout(arrays["n_atoms"])
    order = minimum_permutation(arrays["x_0"], arrays["x_1"], layout)
    local = order - layout.ptr[:-1][layout.batch]
    assert torch.equal(local, arrays["periodic/permutation_local_index"])
    assert torch.equal(arrays["x_0"][order], arrays["periodic/x_0_permuted"])
    totals = layout.sum(minimum_difference(arrays["x_1"] - arrays["x_0"][order]).norm(dim=1))
    assert totals.tolist() == pytest.approx(recorded["total_assignment_distance_per_structure"], rel=1e-6)


def test_pairing_of_a_training_batch(shared):
    arrays = load_file(shared / "parity" / "training_loss_perov5_small.safetensors")
    before = arrays["x_0/pos_before_matching"]
    order = minimum_permutation(before, arrays["x_1/pos"], Layout(arrays["n_atoms"]))
    assert torch.equal(before[order], arrays["x_0/pos"])
