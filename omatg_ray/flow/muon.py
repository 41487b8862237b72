"""Muon: momentum whose matrices are orthogonalised, and Adam for all other parameters.

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). PyTorch has it, too
(`torch.optim.Muon`), but orthogonalises in bfloat16, which takes seven times as long on processors without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

MATRIX_RATE = 10.0
"""Learning rate of the matrices in that of the others: an orthogonal update has a size of its own."""
MOMENTUM, BETAS, EPS = 0.95, (0.9, 0.999), 1e-8
NEWTON_SCHULZ, STEPS = (3.4445, -4.775, 2.0315), 5
"""Coefficients of the odd polynomial, chosen for its slope at zero, and how often it is applied."""


class Muon(torch.optim.Optimizer):
    """Muon for matrices, Adam for the rest; weights decay as in AdamW.

    Args:
        matrices: Weights (m, n) of hidden layers.
        others: All other parameters.
        lr: Learning rate of the others; matrices take `MATRIX_RATE` times as much.
        weight_decay: Decoupled weight decay, in units of the rate of each.
    """

    def __init__(
        self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0
    ) -> None:
        groups = [{"params": list(matrices), "matrices": True}, {"params": list(others), "matrices": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                rate = group["lr"] * (MATRIX_RATE if group["matrices"] else 1.0)
                parameter.mul_(1.0 - rate * group["weight_decay"])
                update = (_muon if group["matrices"] else _adam)(parameter.grad, self.state[parameter])
                parameter.add_(update, alpha=-rate)


def _muon(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return the update by Nesterov momentum, with all singular values near 1."""
    if not state:
        state["exp_avg"] = torch.zeros_like(gradient)
    average = state["exp_avg"].lerp_(gradient, 1.0 - MOMENTUM)
    rows, columns = gradient.shape
    return orthogonalise(gradient.lerp(average, MOMENTUM)) * max(1.0, rows / columns) ** 0.5


def _adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return the update by Adam (Kingma and Ba, 2015)."""
    if not state:
        state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(gradient)}
        state["exp_avg_sq"] = torch.zeros_like(gradient)
    state["step"] += 1
    first, second = (1.0 - beta ** float(state["step"]) for beta in BETAS)
    mean = state["exp_avg"].lerp_(gradient, 1.0 - BETAS[0])
    square = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - BETAS[1])
    return (mean / first) / ((square / second).sqrt() + EPS)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) with the singular vectors of a given one and singular values near 1 (0.7 to 1.2)."""
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if len(matrix) > matrix.shape[1] else wide


def split_matrices(module: nn.Module, trained: Sequence[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split trained parameters into the weights of linear layers with a bias, which are hidden ones, and the others."""
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and layer.bias is not None]
    hidden = {id(layer.weight) for layer in linear}
    return [p for p in trained if id(p) in hidden], [p for p in trained if id(p) not in hidden]
