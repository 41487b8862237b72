import torch
from torch import nn

from omatg_ray.reward.matgl_start import import_matgl


def interaction() -> nn.Module:
    import_matgl()  # not before: it takes seconds
    from matgl.layers import TensorNetInteraction

    return TensorNetInteraction(
        num_rbf=4, units=8, activation=nn.SiLU(), cutoff=5.0, equivariance_invariance_group="O(3)", dtype=torch.float32
    )


def faster_sums(module: nn.Module) -> None:
    from omatg_ray.reward.tensornet_sum import sum_in_memory_order

    sum_in_memory_order(module)


def test_the_sums_are_those_of_matgl_to_the_bit() -> None:
    """In both layouts: channels last, as linear maps leave them, and first."""
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, 5, (40,), generator=generator)  # in any order, and row 5 has no neighbours
    layer, theirs = interaction(), interaction()
    faster_sums(nn.ModuleList([nn.Linear(2, 2), layer]))
    channels_last = [torch.randn(40, 3, 3, 8, generator=generator).permute(0, 3, 1, 2) for _ in range(3)]
    for messages in (tuple(channels_last), tuple(one.contiguous() for one in channels_last)):
        ours = layer.aggregate(messages, index, 6)
        for got, expected in zip(ours, theirs.aggregate(messages, index, 6), strict=True):
            assert got.shape == (6, 8, 3, 3)
            assert torch.equal(got, expected)
            assert got.permute(0, 2, 3, 1).is_contiguous()  # the layout that makes it fast; MatGL's own has another


def test_gradients_flow_as_through_matgl() -> None:
    layer, theirs = interaction(), interaction()
    theirs.load_state_dict(layer.state_dict())
    faster_sums(layer)
    generator = torch.Generator().manual_seed(1)
    edges = torch.randint(0, 6, (2, 30), generator=generator)
    lengths, attributes = torch.rand(30, generator=generator) * 5, torch.randn(30, 4, generator=generator)
    features = torch.randn(6, 8, 3, 3, generator=generator)
    found = []
    for one in (layer, theirs):
        x = features.clone().requires_grad_(True)
        out = one(edges, lengths, attributes, x)
        out.square().sum().backward()
        found.append((out.detach(), x.grad))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
