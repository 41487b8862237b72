"""Driver of the official implementation (OMatG-IRL, package `omg`), stage by stage, beside this one.

Only names of its classes and functions are here; the package itself comes from a checkout. Its Lightning trainer is
left out and the few calls to it are replaced by their effects, which makes it a little faster.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from products import CLOCKS
from torch import Tensor, nn
from torch_geometric.data import Batch
from workload import CLIP, GRAD_CLIP, LEARNING_RATE, NOISE, POLICY_WEIGHT, Size, Timed

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields
from omatg_ray.omatg.hub import CHECKPOINT_FILE, CONFIG_FILE

INVALID_ENERGY = 3.0
"""Energy of an invalid structure in eV/atom, on both sides."""


class OfficialMissing(Exception):
    """The official implementation cannot be imported; the message says what to do."""


def import_official(folder: Path) -> None:
    """Make `omg` importable from a checkout.

    Raises:
        OfficialMissing: The folder is not a checkout, or a package that it needs is missing.
    """
    if not (folder / "omg" / "omg_irl").is_dir():
        raise OfficialMissing(
            f"{folder} holds no omg/omg_irl; give the folder of a checkout of https://github.com/FERMat-ML/OMatG"
        )
    sys.path.insert(0, str(folder))
    try:
        importlib.import_module("omg.omg_irl")
    except ImportError as error:
        raise OfficialMissing(
            f"the official implementation in {folder} cannot be imported ({error}); install what it needs into this "
            "environment: torch_scatter, torchsde, loguru, jsonargparse, wandb, smact, matminer, mace-torch and "
            "torch-sim-atomistic"
        ) from error


def _load(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _built(node: Any) -> Any:
    """Build the object that a configuration of class paths and arguments describes."""
    if isinstance(node, dict):
        values = {key: _built(value) for key, value in node.items()}
        if "class_path" in values:
            return _load(values["class_path"])(**values.get("init_args", {}))
        return values
    return [_built(value) for value in node] if isinstance(node, list) else node


class Official:
    """One reinforcement by OMatG-IRL, velocity variant.

    Args:
        exported: Folder of the base model, as `export_omatg` writes it.
        calculator: ASE calculator whose energies are rewarded; takes the place of MACE in the official reward.
        size: Size of an iteration.
        active: Fields that are reinforced.
        kl: Weight of the KL divergence.
        clock: See `CLOCKS`.
    """

    def __init__(
        self, exported: Path, calculator: Any, size: Size, active: Sequence[FieldName], kl: float, clock: str
    ) -> None:
        self._now = CLOCKS[clock]
        config = yaml.safe_load((exported / CONFIG_FILE).read_text())["model"]
        precision = torch.get_float32_matmul_precision()
        base = _load("omg.omg_lightning.OMGLightning")(**_built(config))
        # Building it changes the precision of all matrix products of the process; restore it.
        torch.set_float32_matmul_precision(precision)
        base.load_state_dict(
            torch.load(exported / CHECKPOINT_FILE, map_location="cpu", weights_only=True)["state_dict"]
        )
        shared = _load("omg.omg_irl.base_modules.base_modules")
        shared["model"], shared["datamodule"] = base.eval(), SimpleNamespace(train_batch_size=None)
        self.size, self._sampler = size, base.sampler
        self._fields = {name: _load("omg.utils.DataField")[name] for name in FIELDS}
        schedules = {
            name: _load(f"omg.omg_irl.{NOISE[name].kind.title()}NoiseSchedule")(NOISE[name].a) for name in active
        }
        self.module = _load("omg.omg_irl.OMGIRLVelocity")(
            reward=_energy_reward(calculator, self._now),
            reference_noise_schedules=schedules,
            noise_schedules=schedules,
            relative_costs={f"{name}_policy": POLICY_WEIGHT for name in active}
            | {f"{name}_regularization": kl for name in active},
            normalize_relative_costs=False,
            disable_fields=[name for name in FIELDS if name not in active],
            position_normalization="per_atom_surrogate",
            grpo_group_size=size.members,
            grpo_num_groups=size.groups,
            grpo_share_x_0=False,
            ppo_clip_epsilon=CLIP,
            ppo_epochs=size.epochs,
            gradient_clip_val=GRAD_CLIP,
            enable_progress_bar=False,
        )
        self._norms: list[float] = []
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=LEARNING_RATE)
        # These three calls replace the trainer.
        self.module.optimizers = lambda: self.optimizer
        self.module.manual_backward = lambda loss: loss.backward()
        self.module.clip_gradients = self._clip

    @property
    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The reinforced network and the frozen one."""
        return self.module.model, _load("omg.omg_irl.base_modules.base_modules")["model"].model

    def _clip(self, optimizer: torch.optim.Optimizer, gradient_clip_val: float, **_: Any) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._norms.append(float(nn.utils.clip_grad_norm_(parameters, gradient_clip_val)))

    def start(self, cells: Sequence[Sequence[int]]) -> Any:
        """Draw x_0 of an iteration over these compositions, as the official training step does."""
        n = self.size.members
        data = _batch(
            CrystalBatch(
                torch.tensor([z for cell in cells for z in cell]),
                torch.zeros(sum(map(len, cells)), 3),
                torch.eye(3).repeat(len(cells), 1, 1),
                torch.tensor([len(cell) for cell in cells]),
            )
        )
        return self._sampler.sample_p_0(Batch.from_data_list([data[i // n] for i in range(n * len(cells))]))

    def rollout(self, x_0: Any) -> Any:
        """Roll out trajectories from x_0, with rewards and advantages."""
        return self.module.rollout(x_0)

    def learn(self, trajectory: Any) -> tuple[list[float], list[float]]:
        """Learn for all epochs; return their losses and gradient norms."""
        self._norms = []
        losses = [self.module.ppo_update(trajectory)[0] for _ in range(self.size.epochs)]
        return losses, self._norms

    def iterate(self, cells: Sequence[Sequence[int]]) -> Timed:
        """Do one iteration over these compositions."""
        begun = self._now()
        trajectory = self.rollout(self.start(cells))
        rolled = self._now()
        self.learn(trajectory)
        scored = self.module.reward.seconds
        return Timed(rolled - begun - scored, scored, self._now() - rolled, float(trajectory.rewards.mean()))

    def replayed(self, x_0: CrystalBatch, noise: Fields) -> Any:
        """Roll out trajectories from an x_0 with given noise, (K, ...) per field."""
        fields = [name for name in FIELDS if name in noise]
        with _given_normals([noise[name][k] for k in range(self.size.steps - 1) for name in fields]):
            return self.rollout(_batch(x_0))

    def of(self, values: dict[Any, Tensor], name: FieldName) -> Tensor:
        """Return the value of a field in a dictionary of the official trajectory."""
        return values[self._fields[name]]


@contextmanager
def _given_normals(values: list[Tensor]) -> Iterator[None]:
    """Make `torch.randn_like` return these values in order.

    Raises:
        RuntimeError: Not all were requested.
    """
    left, original = iter(values), torch.randn_like
    torch.randn_like = lambda like: next(left).to(like)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.randn_like = original
    if next(left, None) is not None:
        raise RuntimeError("the official rollout drew fewer random numbers than this one")


def _batch(crystals: CrystalBatch) -> Any:
    """Convert crystals to the official data class."""
    data, structure = _load("omg.datamodule.OMGData"), _load("omg.datamodule.Structure")
    ptr = crystals.ptr.tolist()
    return Batch.from_data_list(
        [
            data(
                structure(
                    cell=crystals.cell[b],
                    atomic_numbers=crystals.species[ptr[b] : ptr[b + 1]],
                    pos=crystals.pos[ptr[b] : ptr[b + 1]],
                    pos_is_fractional=True,
                )
            )
            for b in range(len(crystals))
        ]
    )


def _energy_reward(calculator: Any, now: Callable[[], float]) -> Any:
    """Build the official energy reward with another calculator, with its own checks and loop over structures."""
    official: Any = _load("omg.omg_irl.EnergyReward")

    class WithCalculator(official):
        def __init__(self) -> None:
            _load("omg.omg_irl.rewards.Reward").__init__(self)
            self._scale, self._device, self._default_dtype = 1.0, "cpu", "float32"
            self._mace_model, self._batcher = calculator, None
            self._invalid_penalty, self._clip_std = INVALID_ENERGY, None
            self._volume_check_cutoff, self._structure_check_cutoff, self._polar_sine_cutoff = 0.1, 0.5, 1e-3
            self.seconds = 0.0

        def compute(self, *args: Any, **kwargs: Any) -> Any:
            begun = now()
            found = super().compute(*args, **kwargs)
            self.seconds = now() - begun
            return found

    return WithCalculator()
