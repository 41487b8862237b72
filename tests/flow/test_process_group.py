"""Shares of a batch: which rows they hold, that their losses add up, and that ranks train as one process does."""

from __future__ import annotations

import math
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.fields import Fields
from omatg_ray.errors import TrainingError
from omatg_ray.flow.loss import DENOISERS, flow_loss
from omatg_ray.flow.pretrain import Pretrainer, Recipe
from omatg_ray.flow.process_group import DefaultProcessGroup, SingleProcess, share_of
from omatg_ray.flow.settings import PathSettings, PretrainSettings
from tests.small import SIZE, random_crystals, small_network


@pytest.mark.parametrize("n, size", [(7, 1), (7, 2), (7, 3), (2, 3), (0, 2)])
def test_every_row_is_in_one_share(n: int, size: int) -> None:
    shares = [share_of(n, rank, size) for rank in range(size)]
    assert torch.cat(shares).tolist() == list(range(n))
    counts = [len(share) for share in shares]
    assert max(counts) - min(counts) <= 1


def test_a_process_by_itself_needs_no_group() -> None:
    values = torch.tensor([1.0, 2.0])
    alone = SingleProcess()
    assert torch.equal(alone.sum(values), values)
    assert alone.exchange({"epoch": 1}) == [{"epoch": 1}]
    assert share_of(3, alone.rank, alone.size).tolist() == [0, 1, 2]


WITH_GAMMA = PathSettings.model_validate(
    {
        "pos": {"kind": "trigonometric", "gamma": {"kind": "sqrt", "a": 0.05}},
        "cell": {"kind": "linear", "gamma": {"kind": "encoder_decoder", "a": 0.5}},
    }
)


@pytest.mark.parametrize("paths", [PathSettings(), WITH_GAMMA], ids=["plain", "gamma"])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_losses_and_gradients_of_the_shares_add_up_to_those_of_the_batch(size: int, paths: PathSettings) -> None:
    # Four crystals of very different sizes: with five ranks, one of them has nothing.
    sizes = [1, 6, 2, 3]
    x_0, x_1, t = random_crystals(sizes, seed=1), random_crystals(sizes, seed=2), torch.rand(4, dtype=torch.float64)
    z: Fields = {"pos": torch.randn(12, 3, dtype=torch.float64), "cell": torch.randn(4, 3, 3, dtype=torch.float64)}
    denoisers = [DENOISERS[field] for field in paths.with_gamma]

    def losses_and_gradient(rows: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        network = small_network()
        network.train_only({"pos_b", "cell_b", *denoisers})
        share: Fields = {"pos": z["pos"][x_1.layout.atoms_of(rows)], "cell": z["cell"][rows]}
        loss = flow_loss(network, paths, x_0.select(rows), x_1.select(rows), t[rows], share, x_1.layout)
        torch.stack(list(loss.values())).sum().backward()
        gradients = [p.grad for p in network.trainable_parameters()]
        assert all(gradient is not None for gradient in gradients)  # or DistributedDataParallel would wait for them
        return torch.stack(list(loss.values())).detach(), [g for g in gradients if g is not None]

    whole, expected = losses_and_gradient(torch.arange(4))
    shares = [losses_and_gradient(share_of(4, rank, size)) for rank in range(size)]
    torch.testing.assert_close(sum(loss for loss, _ in shares), whole)
    for index, gradient in enumerate(expected):
        torch.testing.assert_close(sum(gradients[index] for _, gradients in shares), gradient)


EPOCHS = 3
# Seven crystals in batches of five: of the second batch, the third rank has nothing.
CRYSTALS = random_crystals([3, 1, 4, 2, 2, 5, 1], 0, torch.float32)
RECIPE = Recipe(
    Pretrainer,
    PretrainSettings(network=SIZE, paths=WITH_GAMMA, epochs=EPOCHS, batch_size=5, warmup_steps=0, lr=1e-2, ema=0.9),
    CRYSTALS,
    random_crystals([2, 3], 1, torch.float32),
    BaseDistribution.fit(CRYSTALS),
    seed=0,
)


def train_as_rank(rank: int, size: int, folder: Path) -> None:
    """What one of the processes does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size)
    group = DefaultProcessGroup()
    assert group.exchange({"rank": rank}) == [{"rank": other} for other in range(size)]
    trainer = RECIPE(process_group=group, wrap=DistributedDataParallel)
    losses = [trainer.run_epoch() for _ in range(EPOCHS)]
    torch.save({"losses": losses, "state": trainer.state_dict()}, folder / f"{rank}.pt")
    if rank == 1:
        trainer.train.cell.fill_(math.nan)
    with pytest.raises(TrainingError, match="epoch 4; rows of the training split"):
        trainer.run_epoch()
    (folder / f"{rank}.refused").touch()
    dist.destroy_process_group()


@pytest.mark.processes
def test_three_ranks_train_as_one_process_and_stop_together(tmp_path: Path) -> None:
    # Not forked from here, where other tests may have left threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.flow.test_process_group"])
    processes = [context.Process(target=train_as_rank, args=(rank, 3, tmp_path)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.glob("*.refused"))) == 3

    alone = RECIPE()
    losses = [alone.run_epoch() for _ in range(EPOCHS)]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(3)]
    for other in found[1:]:
        assert other["losses"] == found[0]["losses"]
        assert all(torch.equal(other["state"][key], value) for key, value in found[0]["state"].items())
    for ours, theirs in zip(found[0]["losses"], losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert found[0]["state"].keys() == alone.state_dict().keys()
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(found[0]["state"][key], value, rtol=1e-3, atol=1e-6)
