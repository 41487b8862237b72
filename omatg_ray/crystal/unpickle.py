"""Safe unpickling of records that hold tensors, numbers and texts, and nothing that could run code.

A pickle may name any function and have it called, so `pickle.loads` must not read files from other people. Here the
functions that a record of tensors needs are replaced by harmless ones of this module. Every other name is refused.

A pickle may also change the objects it gets: set attributes, or the whole state. A function, a tensor or its memory
therefore sits in an object that refuses any state until the pickle is read.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omatg_ray.errors import DataError

# Kinds of numpy types that are plain memory: truth values, integers, floats, texts and bytes, but no Python objects.
PLAIN_KINDS = "biufUS"
# Most elements of a tensor that repeats its memory (a stride of 0), which only takes room when copied.
MOST_REPEATED = 1_000_000


def unpickle_record(data: bytes) -> dict[str, Any]:
    """Return the dictionary in a pickle.

    Allowed are dictionaries, lists, tuples, texts, bytes, numbers, truth values, None, tensors on the CPU, and
    numpy scalars and arrays of plain types.

    Raises:
        DataError: The pickle is damaged, is not a dictionary, holds a tensor that is larger than its memory, or names
            anything else (which is never imported, let alone called).
    """
    try:
        record = _RecordUnpickler(io.BytesIO(data)).load()
        if not isinstance(record, dict):
            raise DataError(f"it holds a {type(record).__name__} instead of a dictionary")
        return {str(key): value for key, value in _plain(record, {}).items()}
    except DataError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"it is not a readable pickle ({type(error).__name__}: {error})") from error


class _Dtype:
    """Stand-in for a numpy dtype while a pickle is read: a type code, and the byte order from its state."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in PLAIN_KINDS:
            raise DataError(f"a numpy type {code!r} is refused: it holds more than numbers or texts")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stand-in for a numpy array, whose shape, type and memory come as its state."""

    def __init__(self, *_: object) -> None:
        self.value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, memory = state
        flat = np.frombuffer(memory, _dtype(dtype))
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Closed:
    """Container of a value that must not change while a pickle is read."""

    __slots__ = ("value",)
    what: ClassVar = "a tensor after creating it"

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: object) -> NoReturn:
        # Tensor.__setstate__ would let a pickle replace size and strides unchecked.
        raise DataError(f"its pickle changes {self.what}, which is refused")


class _Memory(_Closed):
    """The memory of tensors, as a flat tensor."""

    __slots__ = ()
    value: Tensor


class _Tensor(_Closed):
    """Stand-in for a tensor."""


class _Function(_Closed):
    """A function that a pickle may call."""

    __slots__ = ()
    what: ClassVar = "an attribute of a function"

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)


def _load_memory(data: bytes) -> _Memory:
    # torch's own function would unpickle without any restriction.
    try:
        memory = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"the memory of a tensor is refused: torch's weights-only reading says {error}") from error
    if not isinstance(memory, torch.storage.TypedStorage):
        raise DataError(f"a tensor has a {type(memory).__name__} in place of its memory")
    bytes_ = memory._untyped_storage
    if bytes_.nbytes() > len(data):
        raise DataError(f"the memory of a tensor has {bytes_.nbytes()} bytes, more than the {len(data)} stored")
    return _Memory(torch.empty(0, dtype=memory.dtype).set_(bytes_))


def _make_tensor(memory: Any, offset: Any, size: Any, stride: Any, requires_grad: object, hooks: object) -> _Tensor:
    if not isinstance(memory, _Memory):
        raise DataError(f"a tensor has a {type(memory).__name__} in place of its memory")
    _require_inside(memory.value.numel(), offset, size, stride)
    # Without gradients and hooks: this is data.
    return _Tensor(memory.value.as_strided(size, stride, offset))


def _make_scalar(dtype: Any, memory: bytes) -> Any:
    return np.frombuffer(memory, _dtype(dtype), count=1)[0].item()


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_make_tensor),
    ("torch.storage", "_load_from_bytes"): _Function(_load_memory),
    ("numpy", "dtype"): _Function(_Dtype),
    ("numpy", "ndarray"): _Function(_Array),
    ("numpy.core.multiarray", "scalar"): _Function(_make_scalar),
    ("numpy.core.multiarray", "_reconstruct"): _Function(_Array),
}
"""Stand-ins by the names that pickled tensors, numpy scalars and arrays use."""


class _RecordUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved numpy.core to numpy._core; files with either exist.
        stand_in = KNOWN.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise DataError(f"its pickle asks for {module}.{name}, which is refused: a record holds tensors, numbers")
        return stand_in


def _require_inside(room: int, offset: Any, size: Any, stride: Any) -> None:
    """Check that a tensor lies within its memory; torch's own function would enlarge it with whatever lies there.

    Args:
        room: Elements of the memory.
        offset: First element.
        size: Elements along each dimension.
        stride: Distance of neighbours along each dimension.

    Raises:
        DataError: It does not, or an argument is not made of counts.
    """
    if not (_counts([offset]) and _counts(size) and _counts(stride) and len(size) == len(stride)):
        raise DataError(f"a tensor of size {size!r}, strides {stride!r} and offset {offset!r}, which must be counts")
    steps = zip(size, stride, strict=True)
    end = offset if 0 in size else offset + sum((n - 1) * step for n, step in steps) + 1
    if end > room:
        raise DataError(
            f"a tensor of size {size}, strides {stride} and offset {offset} goes beyond its memory of {room} numbers"
        )
    if math.prod(size) > max(room, MOST_REPEATED):
        raise DataError(f"a tensor of size {size} repeats its memory of {room} numbers too often")


def _counts(values: Any) -> bool:
    # True is an int, but not a count.
    return isinstance(values, Sequence) and all(type(value) is int and value >= 0 for value in values)


def _dtype(stand_in: Any) -> np.dtype[Any]:
    if not isinstance(stand_in, _Dtype):
        raise DataError(f"a {type(stand_in).__name__} is in place of a numpy type")
    return stand_in.dtype


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """Replace the stand-ins in a value by what they stand for."""
    if isinstance(value, _Array | _Tensor):
        return value.value
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in known:  # Copied once, however often it occurs.
        if isinstance(value, dict):
            known[id(value)] = {key: _plain(item, known) for key, item in value.items()}
        else:
            known[id(value)] = type(value)(_plain(item, known) for item in value)
    return known[id(value)]
