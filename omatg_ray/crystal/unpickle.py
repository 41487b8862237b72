"""Unpickling of records that hold tensors, numbers and texts, and nothing that could run code.

A pickle may name any function and have it called, so `pickle.loads` must not see files of others. Here the functions
that a record of tensors needs are replaced by harmless ones of this module, and every other name is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omatg_ray.errors import DataError

# Kinds of numpy types that are plain memory: truth values, integers, floats, texts and bytes, but no Python objects.
PLAIN_KINDS = "biufUS"


def unpickle_record(data: bytes) -> dict[str, Any]:
    """The dictionary that a pickle holds.

    Allowed are dictionaries, lists, tuples, texts, bytes, numbers, truth values, None, tensors on the CPU, and
    numpy scalars and arrays of plain types.

    Raises:
        DataError: It is damaged, no dictionary, or names anything else (which is never imported, let alone called).
    """
    try:
        record = _RecordUnpickler(io.BytesIO(data)).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"it is no readable pickle ({type(error).__name__}: {error})") from error
    if not isinstance(record, dict):
        raise DataError(f"it holds a {type(record).__name__} instead of a dictionary")
    return {str(key): _plain(value) for key, value in record.items()}


class _Dtype:
    """Stands for a numpy dtype while a pickle is read: a type code, and the byte order that its state brings."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in PLAIN_KINDS:
            raise DataError(f"a numpy type {code!r} is refused: it holds more than numbers or texts")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for a numpy array, whose shape, type and memory come as its state."""

    def __init__(self, *_: object) -> None:
        self.value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, memory = state
        flat = np.frombuffer(memory, _dtype(dtype))
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _RecordUnpickler(pickle.Unpickler):
    """Knows the names that pickled tensors, numpy scalars and arrays consist of."""

    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved numpy.core to numpy._core; files of both exist.
        known: dict[tuple[str, str], Callable[..., Any] | type] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch.storage", "_load_from_bytes"): self._storage,
            ("numpy", "dtype"): self._numpy_dtype,
            ("numpy", "ndarray"): self._array,
            ("numpy.core.multiarray", "scalar"): self._scalar,
            ("numpy.core.multiarray", "_reconstruct"): self._array,
        }
        found = known.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise DataError(f"its pickle asks for {module}.{name}, which is refused: a record holds tensors, numbers")
        return found

    # Bound methods: a pickle may try to change what it was given, and these have nothing to change.

    def _storage(self, data: bytes) -> Any:
        # What torch calls here would unpickle without any restriction.
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise DataError(f"the memory of a tensor is refused: torch's weights-only reading says {error}") from error

    def _tensor(self, storage: Any, *arguments: Any) -> Tensor:
        if not isinstance(storage, torch.storage.TypedStorage):
            raise DataError(f"a tensor without memory: a {type(storage).__name__} stands in its place")
        return torch._utils._rebuild_tensor_v2(storage, *arguments).detach()

    def _numpy_dtype(self, *arguments: Any) -> _Dtype:
        return _Dtype(*arguments)

    def _array(self, *arguments: Any) -> _Array:
        return _Array(*arguments)

    def _scalar(self, dtype: Any, memory: bytes) -> Any:
        return np.frombuffer(memory, _dtype(dtype), count=1)[0].item()


def _dtype(stand_in: Any) -> np.dtype[Any]:
    if not isinstance(stand_in, _Dtype):
        raise DataError(f"a {type(stand_in).__name__} stands in the place of a numpy type")
    return stand_in.dtype


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
