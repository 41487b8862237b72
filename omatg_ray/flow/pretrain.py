"""Pretraining of the network on crystals: epochs, validation, and a state that resumes exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import Fields
from omatg_ray.errors import TrainingError
from omatg_ray.flow.loss import DENOISERS, LossName, flow_loss
from omatg_ray.flow.muon import Muon, split_matrices
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.pairing import paired
from omatg_ray.flow.paths import TIME_MARGIN
from omatg_ray.flow.process_group import ProcessGroup, SingleProcess, share_of
from omatg_ray.flow.settings import PretrainSettings
from omatg_ray.run.optimizer_state import flatten_optimizer, restore_optimizer
from omatg_ray.seeding import generator

# Independent base samples and times per validation structure: enough to tell epochs apart.
VALIDATION_REPEATS = 4
Losses = dict[str, float]
Number = TypeVar("Number", float, Tensor)
Wrap = Callable[[nn.Module], nn.Module]


class Pretrainer:
    """Trainer of a network; `ema_network` is the result.

    All randomness of an epoch derives from (seed, epoch), so a run that stops and resumes gives the same numbers as an
    uninterrupted one.

    Several ranks can train one network, each on its share of every batch. Every rank draws the numbers for the whole
    batch and computes the rows of its share. All ranks end every step with the same weights, which equal those of a
    single process up to rounding.

    Args:
        settings: Settings of the pretraining.
        train: Training crystals (all of them, packed).
        val: Validation crystals.
        base: Distribution of x_0.
        seed: Seed of the initial weights and of everything drawn.
        device: Device to train on; by default that of `train`.
        process_group: Processes that train the network; by default this one alone.
        wrap: Wraps the network so that its gradients are averaged over the ranks, e.g. in DistributedDataParallel; None
            leaves it as it is.
        start: Weights that training starts from; by default random ones.

    Raises:
        DataError: The network does not know an element of the crystals.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        train: CrystalBatch,
        val: CrystalBatch,
        base: BaseDistribution,
        seed: int,
        device: torch.device | None = None,
        process_group: ProcessGroup | None = None,
        wrap: Wrap | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings, self.train, self.val, self.base, self.seed = (
            settings,
            train.to(device),
            val.to(device),
            base,
            seed,
        )
        self.process_group = process_group or SingleProcess()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = CSPNet(settings.network).to(self.train.device)
        if start is not None:
            self.network.load_state_dict(start)
        denoisers = [DENOISERS[field] for field in settings.paths.with_gamma]
        self.network.train_only({"pos_b", "cell_b", *denoisers})
        self._losses: list[LossName] = ["pos", "cell", *denoisers]
        self.network.require([int(train.species.max()), int(val.species.max())])
        self._average = AveragedModel(self.network, avg_fn=self._ema_update)
        trained = self.network.trainable_parameters()
        self.optimizer: torch.optim.Optimizer = (
            Muon(*split_matrices(self.network, trained), lr=settings.lr, weight_decay=settings.weight_decay)
            if settings.optimizer == "muon"
            else torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        )
        self._trained = self.network if wrap is None else wrap(self.network)
        self.steps_per_epoch = math.ceil(len(train) / settings.batch_size)
        self.epoch = 0
        self.best_val_loss, self.best_epoch = math.inf, 0

    @property
    def ema_network(self) -> CSPNet:
        """Return the network with the averaged weights."""
        return cast("CSPNet", self._average.module)

    def _ema_update(self, average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        # A smaller decay at first lets the average follow the weights; a fixed one would retain the random start.
        decay = min(self.settings.ema, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(current, average, decay)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step: linear warm-up, then half a cosine, zero one step after the last."""
        settings = self.settings
        total = settings.epochs * self.steps_per_epoch
        if step < settings.warmup_steps:
            return settings.lr * (step + 1) / settings.warmup_steps
        progress = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
        return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def _draw(self, x_1: CrystalBatch, rng: torch.Generator) -> tuple[CrystalBatch, Tensor, Fields]:
        """Draw a base sample for x_1, not yet paired with it, times (B,), and the Gaussians z of the fields with γ."""
        paths = self.settings.paths
        pos, cell = self.base.draw(x_1.species, x_1.layout, rng, x_1)
        t = torch.rand(len(x_1), generator=rng)
        if paths.open_ended:
            t = TIME_MARGIN + (1.0 - 2.0 * TIME_MARGIN) * t
        z: Fields = {
            field: torch.randn((x_1.pos if field == "pos" else x_1.cell).shape, generator=rng).to(x_1.device, x_1.dtype)
            for field in paths.with_gamma
        }
        x_0 = x_1.replace(pos.to(x_1.device, x_1.dtype), cell.to(x_1.device, x_1.dtype))
        return x_0, t.to(x_1.device, x_1.dtype), z

    def run_epoch(self) -> Losses:
        """Train on all training crystals once, in a new order.

        Returns:
            Mean losses of the epoch (`loss`, `loss_pos`, `loss_cell`, with γ also `loss_pos_eta`, `loss_cell_eta`) and
            the last learning rate `lr`.

        Raises:
            TrainingError: The loss or its gradient is not finite; the step is not taken. Names the structures of the
                batch by their row in the split. All ranks raise it.
        """
        settings, rng = self.settings, generator(self.seed, "pretrain", self.epoch)
        order = torch.randperm(len(self.train), generator=rng)
        sums, lr = dict.fromkeys(["loss", *(f"loss_{name}" for name in self._losses)], 0.0), 0.0
        for index, rows in enumerate(order.split(settings.batch_size)):
            whole = self.train.select(rows)
            x_0, t, z = self._draw(whole, rng)
            share = share_of(len(rows), self.process_group.rank, self.process_group.size).to(whole.device)
            z = {field: noise[whole.layout.atoms_of(share) if field == "pos" else share] for field, noise in z.items()}
            x_0, x_1, t = x_0.select(share), whole.select(share), t[share]
            x_0 = paired(x_0, x_1, settings.paths.pairing)
            own = flow_loss(self._trained, settings.paths, x_0, x_1, t, z, whole.layout)
            lr = self.learning_rate(self.epoch * self.steps_per_epoch + index)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.zero_grad(set_to_none=True)
            # The wrapper averages gradients over the ranks, but the losses of the shares must add up.
            (self._weighted(own) * self.process_group.size).backward()
            summed = self.process_group.sum(torch.stack([own[name] for name in self._losses]).detach())
            parts = dict(zip(self._losses, summed, strict=True))
            loss = self._weighted(parts)
            norm = torch.nn.utils.clip_grad_norm_(self.network.trainable_parameters(), settings.grad_clip)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                shown = ", ".join(map(str, sorted(rows.tolist())[:20])) + (", ..." if len(rows) > 20 else "")
                raise TrainingError(
                    f"loss {float(loss)}, gradient norm {float(norm)} in epoch {self.epoch + 1}; rows of the "
                    f"training split in this batch: [{shown}]; lower pretrain.lr, or check these crystals"
                )
            self.optimizer.step()
            self._average.update_parameters(self.network)
            sums["loss"] += float(loss) * len(rows)
            for name, value in parts.items():
                sums[f"loss_{name}"] += float(value) * len(rows)
        self.epoch += 1
        return {name: value / len(self.train) for name, value in sums.items()} | {"lr": lr}

    def _weighted(self, losses: Mapping[LossName, Number]) -> Number:
        weights = self.settings.loss_weights
        total = weights.pos * losses["pos"] + weights.cell * losses["cell"]
        for name in self._losses[2:]:
            total = total + getattr(weights, name) * losses[name]
        return total

    @torch.no_grad()
    def validate(self) -> Losses:
        """Return the losses of the averaged weights on the validation crystals, with the same x_0, t and z every time.

        One rank computes them without the others.
        """
        settings, rng = self.settings, generator(self.seed, "validate")
        sums: dict[LossName, float] = dict.fromkeys(self._losses, 0.0)
        atoms, cells = 0, 0
        for rows in torch.arange(len(self.val)).repeat(VALIDATION_REPEATS).split(settings.batch_size):
            x_1 = self.val.select(rows)
            x_0, t, z = self._draw(x_1, rng)
            x_0 = paired(x_0, x_1, settings.paths.pairing)
            for name, value in flow_loss(self.ema_network, settings.paths, x_0, x_1, t, z).items():
                sums[name] += float(value) * (len(x_1.species) if name.startswith("pos") else len(x_1))
            atoms, cells = atoms + len(x_1.species), cells + len(x_1)
        means = {name: value / (atoms if name.startswith("pos") else cells) for name, value in sums.items()}
        return {"val_loss": self._weighted(means)} | {f"val_loss_{name}": value for name, value in means.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a resumed run needs, as named tensors."""
        state = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        state |= {f"average.{k}": v for k, v in self._average.state_dict().items()}
        state |= {f"optimizer.{k}": v for k, v in flatten_optimizer(self.optimizer).items()}
        state["epoch"] = torch.tensor(self.epoch)
        state["best_val_loss"] = torch.tensor(self.best_val_loss, dtype=torch.float64)
        state["best_epoch"] = torch.tensor(self.best_epoch)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned.

        Raises:
            ModelError: The optimizer state has other shapes.
            RuntimeError: The weights have other shapes.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self._average.load_state_dict(part("average."))
        restore_optimizer(self.optimizer, part("optimizer."))
        self.epoch = int(state["epoch"])
        self.best_val_loss, self.best_epoch = float(state["best_val_loss"]), int(state["best_epoch"])


Recipe = partial[Pretrainer]
"""A `Pretrainer` without its last arguments: device, process group and wrapper. Crystals are on the CPU."""
