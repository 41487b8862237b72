"""Muon against the singular value decomposition, PyTorch's own, and AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omatg_ray.flow.muon import MATRIX_RATE, Muon, orthogonalise, split_matrices
from tests.small import small_network


def gradients(parameters: list[nn.Parameter], steps: int) -> list[list[torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    return [[torch.randn(p.shape, generator=rng) for p in parameters] for _ in range(steps)]


def run(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int = 4) -> list[torch.Tensor]:
    for each in gradients(parameters, steps):
        for parameter, gradient in zip(parameters, each, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [parameter.detach().clone() for parameter in parameters]


def start() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in ((6, 9), (12, 5), (7, 7))]


@pytest.mark.parametrize("shape", [(8, 8), (8, 30), (30, 8), (1, 5)])
def test_singular_vectors_stay_and_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalise(matrix) @ right.T
    off = found - torch.diag(found.diagonal())
    assert float(off.abs().max()) < 1e-9
    # Values far below the largest take more steps than there are.
    large = values > 0.1 * values[0]
    assert bool(((found.diagonal()[large] > 0.65) & (found.diagonal()[large] < 1.25)).all())


def test_matrices_are_updated_as_by_pytorch_up_to_its_bfloat16() -> None:
    ours, theirs = start(), start()
    found = run(Muon(ours, [], lr=0.002, weight_decay=0.1), ours)
    reference = torch.optim.Muon(theirs, lr=0.002 * MATRIX_RATE, weight_decay=0.1, momentum=0.95, nesterov=True)
    for mine, other, before in zip(found, run(reference, theirs), (p.detach() for p in start()), strict=True):
        assert float((mine - other).norm() / (other - before).norm()) < 0.03


def test_others_are_updated_as_by_adamw() -> None:
    ours, theirs = start(), start()
    found = run(Muon([], ours, lr=0.01, weight_decay=0.1), ours)
    for mine, other in zip(found, run(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1), theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)


def test_parameters_without_a_gradient_stay() -> None:
    parameters = start()
    Muon(parameters[:1], parameters[1:], lr=0.1).step()
    assert all(torch.equal(p, q) for p, q in zip(parameters, start(), strict=True))


def test_hidden_matrices_are_those_of_the_messages_and_the_embedding_of_the_time() -> None:
    network = small_network()
    network.train_only({"pos_b", "cell_b"})
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    matrices, others = split_matrices(network, network.trainable_parameters())
    assert len(matrices) + len(others) == len(network.trainable_parameters())
    assert {names[id(p)].split(".")[-3 if "mlp" in names[id(p)] else 0] for p in matrices} == {
        "edge_mlp", "node_mlp", "atom_latent_emb",
    }  # fmt: skip
    assert {"coord_out.weight", "lattice_out.weight", "node_embedding.weight"} <= {names[id(p)] for p in others}
