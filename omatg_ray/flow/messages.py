"""Messages of a CSPNet layer and their mean, forward and backward, with little memory traffic.

Apart from its matrix products a layer only moves data: gathers, sums, SiLUs. These are fused where PyTorch can
(`embedding_bag` adds gathered rows while it reads them) and done in place where no input is needed again. The backward
pass keeps only the inputs of the SiLUs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from omatg_ray.crystal.batch import Edges

_silu_backward = torch.ops.aten.silu_backward.grad_input


def mean_message(
    edges: Edges,
    receiver: Tensor,
    sender: Tensor,
    sin: Tensor,
    cos: Tensor,
    w_sin: Tensor,
    w_cos: Tensor,
    weight: Tensor,
    bias: Tensor,
    pooled: bool = False,
) -> Tensor:
    """Return the mean over j of SiLU(W SiLU(receiver_i + sender_j + W_sin sin φ_ij + W_cos cos φ_ij) + b).

    j = i is included. Differentiable once. Everything is computed in the precision of the features; the weights may
    have another.

    Args:
        edges: The pairs i, j.
        receiver: Contribution of each atom to the messages it receives (sum N, hidden).
        sender: Contribution of each atom to the messages it sends (sum N, hidden).
        sin: Sines of the edges' pairs (P, waves).
        cos: Cosines of the edges' pairs (P, waves).
        w_sin: (hidden, waves).
        w_cos: (hidden, waves).
        weight: W (hidden, hidden).
        bias: b (hidden,).
        pooled: Take the mean of the inner SiLU instead: SiLU(W mean_j SiLU(...) + b), with W once per atom.

    Returns:
        (sum N, hidden).
    """
    w_sin, w_cos, weight, bias = (values.to(receiver.dtype) for values in (w_sin, w_cos, weight, bias))
    of_inner = (receiver, sender, sin, cos, w_sin, w_cos)
    inputs = of_inner if pooled else (*of_inner, weight, bias)
    if torch.is_grad_enabled() and any(values.requires_grad for values in inputs):
        function = _MeanOfInner if pooled else _MeanMessage
        mean = cast("Tensor", function.apply(edges, *inputs))
    else:
        message = F.silu(_inner(edges, *of_inner), inplace=True)
        if not pooled:
            message = F.silu(torch.addmm(bias, message, weight.T), inplace=True)
        mean = _mean(edges, message)
    return F.silu(torch.addmm(bias, mean, weight.T)) if pooled else mean


def _inner(
    edges: Edges, receiver: Tensor, sender: Tensor, sin: Tensor, cos: Tensor, w_sin: Tensor, w_cos: Tensor
) -> Tensor:
    """Return the input of the first SiLU (E, hidden)."""
    inner = F.embedding_bag(edges.ends, torch.cat([receiver, sender]), mode="sum")
    there, back, own = inner.split([len(sin), len(sin), len(receiver)])
    even, odd = cos @ w_cos.T, sin @ w_sin.T
    there.add_(even).add_(odd)
    back.add_(even).sub_(odd)
    own.add_(w_cos.sum(1))
    return inner


def _mean(edges: Edges, message: Tensor) -> Tensor:
    return F.embedding_bag(edges.by_receiver, message, edges.start, mode="mean")


def _by_message(edges: Edges, g_mean: Tensor) -> Tensor:
    """Return the gradient by the messages (E, hidden) of that by their means (sum N, hidden)."""
    return (g_mean / edges.degree[:, None]).index_select(0, edges.ends[:, 0])


def _by_inputs(
    ctx: Any, g_inner: Tensor, sin: Tensor, cos: Tensor, w_sin: Tensor, w_cos: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients by the six inputs of `_inner`; g_inner is overwritten."""
    edges: Edges = ctx.edges
    g_receiver = F.embedding_bag(edges.by_receiver, g_inner, edges.start, mode="sum")
    g_sender = F.embedding_bag(edges.by_sender, g_inner, edges.start, mode="sum")
    there, back, own = g_inner.split([len(sin), len(sin), len(g_receiver)])
    g_odd = there - back
    g_even = there.add_(back)
    g_w_sin = g_odd.T @ sin
    # An atom's own cosines are 1.
    g_w_cos = (g_even.T @ cos).add_(own.sum(0)[:, None])
    g_sin, g_cos = (g_odd @ w_sin, g_even @ w_cos) if any(ctx.needs_input_grad[3:5]) else (None, None)
    return g_receiver, g_sender, g_sin, g_cos, g_w_sin, g_w_cos


class _MeanMessage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, *inputs: Tensor) -> Tensor:
        *of_inner, weight, bias = inputs
        inner = _inner(edges, *of_inner)
        outer = torch.addmm(bias, F.silu(inner), weight.T)
        ctx.edges = edges
        ctx.save_for_backward(*of_inner[2:], weight, inner, outer)
        return _mean(edges, F.silu(outer))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_mean: Tensor) -> tuple[Tensor | None, ...]:
        *saved, weight, inner, outer = ctx.saved_tensors
        g_outer = _by_message(ctx.edges, g_mean)
        _silu_backward(g_outer, outer, grad_input=g_outer)
        between = F.silu(inner)
        g_weight, g_bias = g_outer.T @ between, g_outer.sum(0)
        g_inner = torch.mm(g_outer, weight, out=between)
        _silu_backward(g_inner, inner, grad_input=g_inner)
        return None, *_by_inputs(ctx, g_inner, *saved), g_weight, g_bias


class _MeanOfInner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, edges: Edges, *of_inner: Tensor) -> Tensor:
        inner = _inner(edges, *of_inner)
        ctx.edges = edges
        ctx.save_for_backward(*of_inner[2:], inner)
        return _mean(edges, F.silu(inner))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_mean: Tensor) -> tuple[Tensor | None, ...]:
        *saved, inner = ctx.saved_tensors
        g_inner = _by_message(ctx.edges, g_mean)
        _silu_backward(g_inner, inner, grad_input=g_inner)
        return None, *_by_inputs(ctx, g_inner, *saved)
