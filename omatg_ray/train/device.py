"""The device and the threads of this process."""

from __future__ import annotations

import torch

from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; `auto` is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: The device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name} asked for, but {torch.cuda.device_count()} CUDA devices are visible")
    return device


def driver_device(name: str, ray: RaySettings) -> torch.device:
    """Return the device of this process: the named one, or the CPU if actors do the work.

    Raises:
        ConfigError: The device does not exist here, or is not a CPU although actors do the work.
    """
    if not ray.rollout.workers:
        return choose_device(name)
    if name not in ("auto", "cpu"):
        raise ConfigError(
            f"device: {name} asked for, but with actors ray.rollout.gpus, ray.reward.gpus and ray.learner.gpus "
            "say what computes on a GPU"
        )
    return torch.device("cpu")


def set_threads(threads: int | None) -> None:
    """Set the number of PyTorch's CPU threads; None leaves the choice to PyTorch."""
    if threads is not None:
        torch.set_num_threads(threads)
