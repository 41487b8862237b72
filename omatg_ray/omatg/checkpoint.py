"""Lightning checkpoints of tensors and numbers, read without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omatg_ray.errors import ModelError
from omatg_ray.run.atomic import write_bytes

# Lightning migrates checkpoints by this version; these files have the layout of 2.x.
LIGHTNING_VERSION = "2.0.0"
# First bytes of a torch.save file before the zip format: the pickled magic number.
LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint.

    Attributes:
        path: File.
        state: Weights by name.
        epoch: Epoch, from 0; None if the file does not say.
        step: Optimizer steps; None if the file does not say.
        sha256: Checksum of the file.
    """

    path: Path
    state: dict[str, Tensor]
    epoch: int | None
    step: int | None
    sha256: str


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint with `weights_only`, which refuses anything but tensors and numbers.

    No tensor takes more memory than the file stores for it. PyTorch ensures this in its zip format (since version 1.6)
    as long as nothing is compressed, and it never compresses. In the older format, tensors may claim any size.

    Raises:
        ModelError: The file cannot be read, is compressed or in the format before 1.6, holds objects of other classes,
            or has no state dictionary.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    _require_plain_zip(path, data)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated or foreign file can raise anything
        # torch names the first class that it refuses.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused is not None:
            raise ModelError(
                f"{path} is refused: it holds a {refused[1]}, and reading that could run code from the file; if you "
                "trust it, keep only its weights (Lightning: save_weights_only)"
            ) from error
        raise ModelError(_foreign(path, data)) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a Lightning checkpoint: it has no `state_dict` of tensors")
    return Checkpoint(
        path,
        {str(name): value for name, value in state.items()},
        _integer(content.get("epoch")),
        _integer(content.get("global_step")),
        hashlib.sha256(data).hexdigest(),
    )


def write_checkpoint(path: Path, state: dict[str, Tensor]) -> None:
    """Write a checkpoint of weights only, as Lightning does with `save_weights_only`."""
    content: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": LIGHTNING_VERSION,
        "state_dict": {name: value.detach().cpu().contiguous() for name, value in state.items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getvalue())


def _require_plain_zip(path: Path, data: bytes) -> None:
    """Refuse files that could take more memory than their own size, before reading any of their content."""
    if data.startswith(LEGACY_START):
        raise ModelError(
            f"{path} is refused: it is in PyTorch's format before 1.6, in which tensors may claim any size; if you "
            "trust it, load it and save it again with torch.save"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
    except Exception as error:  # a damaged directory can raise anything
        raise ModelError(_foreign(path, data)) from error
    if claimed > len(data):
        raise ModelError(
            f"{path} is refused: its records claim {claimed} bytes, more than the {len(data)} of the file (PyTorch "
            "compresses nothing)"
        )


def _foreign(path: Path, data: bytes) -> str:
    return f"{path} ({len(data)} bytes) is not a PyTorch checkpoint, or is truncated"


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) else None
