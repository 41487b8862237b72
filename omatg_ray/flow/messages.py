"""Messages of a CSPNet layer and their mean, forward and backward, with little memory traffic.

Apart from its matrix products a layer only moves data: gathers, sums, SiLUs. These are fused where PyTorch can
(`embedding_bag` adds gathered rows while it reads them) and done in place where no input is needed again. The backward
pass keeps only the inputs of both SiLUs.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from omatg_ray.crystal.batch import Layout

_silu_backward = torch.ops.aten.silu_backward.grad_input


def mean_message(
    layout: Layout,
    receiver: Tensor,
    sender: Tensor,
    sin: Tensor,
    cos: Tensor,
    w_sin: Tensor,
    w_cos: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Return the mean over j of SiLU(W SiLU(receiver_i + sender_j + W_sin sin φ_ij + W_cos cos φ_ij) + b).

    j = i is included. Differentiable once. Everything is computed in the precision of the features; the weights may
    have another.

    Args:
        layout: Layout of the crystals.
        receiver: Contribution of each atom to the messages it receives (sum N, hidden).
        sender: Contribution of each atom to the messages it sends (sum N, hidden).
        sin: Sines of the layout's pairs (P, waves).
        cos: Cosines of the layout's pairs (P, waves).
        w_sin: (hidden, waves).
        w_cos: (hidden, waves).
        weight: W (hidden, hidden).
        bias: b (hidden,).

    Returns:
        (sum N, hidden).
    """
    w_sin, w_cos, weight, bias = (values.to(receiver.dtype) for values in (w_sin, w_cos, weight, bias))
    inputs = (receiver, sender, sin, cos, w_sin, w_cos, weight, bias)
    if torch.is_grad_enabled() and any(values.requires_grad for values in inputs):
        return cast("Tensor", _MeanMessage.apply(layout, *inputs))
    inner = _inner(layout, receiver, sender, sin, cos, w_sin, w_cos)
    outer = torch.addmm(bias, F.silu(inner, inplace=True), weight.T)
    return _mean(layout, F.silu(outer, inplace=True))


def _inner(
    layout: Layout, receiver: Tensor, sender: Tensor, sin: Tensor, cos: Tensor, w_sin: Tensor, w_cos: Tensor
) -> Tensor:
    """Return the input of the first SiLU (E, hidden)."""
    inner = F.embedding_bag(layout.edges.ends, torch.cat([receiver, sender]), mode="sum")
    there, back, own = inner.split([len(sin), len(sin), len(receiver)])
    even, odd = cos @ w_cos.T, sin @ w_sin.T
    there.add_(even).add_(odd)
    back.add_(even).sub_(odd)
    own.add_(w_cos.sum(1))
    return inner


def _mean(layout: Layout, message: Tensor) -> Tensor:
    return F.embedding_bag(layout.edges.by_receiver, message, layout.edges.start, mode="mean")


class _MeanMessage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, *inputs: Tensor) -> Tensor:
        *of_inner, weight, bias = inputs
        inner = _inner(layout, *of_inner)
        outer = torch.addmm(bias, F.silu(inner), weight.T)
        ctx.layout = layout
        ctx.save_for_backward(*of_inner[2:], weight, inner, outer)
        return _mean(layout, F.silu(outer))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_mean: Tensor) -> tuple[Tensor | None, ...]:
        sin, cos, w_sin, w_cos, weight, inner, outer = ctx.saved_tensors
        layout: Layout = ctx.layout
        edges = layout.edges
        each = g_mean / layout.n_atoms.index_select(0, layout.batch)[:, None]
        g_outer = each.index_select(0, edges.ends[:, 0])
        _silu_backward(g_outer, outer, grad_input=g_outer)
        between = F.silu(inner)
        g_weight, g_bias = g_outer.T @ between, g_outer.sum(0)
        g_inner = torch.mm(g_outer, weight, out=between)
        _silu_backward(g_inner, inner, grad_input=g_inner)
        g_receiver = F.embedding_bag(edges.by_receiver, g_inner, edges.start, mode="sum")
        g_sender = F.embedding_bag(edges.by_sender, g_inner, edges.start, mode="sum")
        there, back, own = g_inner.split([len(sin), len(sin), len(g_mean)])
        g_odd = there - back
        g_even = there.add_(back)
        g_w_sin = g_odd.T @ sin
        # An atom's own cosines are 1.
        g_w_cos = (g_even.T @ cos).add_(own.sum(0)[:, None])
        moved = ctx.needs_input_grad[3] or ctx.needs_input_grad[4]
        g_sin, g_cos = (g_odd @ w_sin, g_even @ w_cos) if moved else (None, None)
        return None, g_receiver, g_sender, g_sin, g_cos, g_w_sin, g_w_cos, g_weight, g_bias
