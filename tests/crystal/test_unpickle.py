"""Records of tensors from pickles: the same values as pickle's own, and nothing that runs code."""

from __future__ import annotations

import collections
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from omatg_ray.crystal.unpickle import unpickle_record
from omatg_ray.errors import DataError


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


RECORD: dict[str, Any] = {
    "pos": torch.arange(6, dtype=torch.float64).reshape(2, 3),
    "cell": torch.eye(3).t() * torch.tensor([1.0, 2.0, 3.0]),
    "atomic_numbers": torch.tensor([11, 17], dtype=torch.int32),
    "view": torch.arange(10.0)[2:8:2],
    "ids": "mp-1",
    "energy": -1.5,
    "nested": {"stable": True, "sites": [1, (2.0, None)]},
    "ordered": collections.OrderedDict(a=1),
    "numpy_float": np.float64(0.25),
    "numpy_int": np.int32(-7),
    "numpy_text": np.str_("Fm-3m"),
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "big_endian": np.arange(3, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


@pytest.mark.parametrize("protocol", [3, 4])
def test_values_are_those_of_pickle(protocol: int) -> None:
    found = unpickle_record(pickle.dumps(RECORD, protocol=protocol))
    assert found.keys() == RECORD.keys()
    for key, value in RECORD.items():
        if isinstance(value, torch.Tensor):
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[key], value)
        else:
            assert found[key] == value


@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (os.system, ("true",), "posix.system"),
        (eval, ("1",), "builtins.eval"),
        (subprocess.Popen, (["true"],), "subprocess.Popen"),
        (torch.load, ("x",), "torch.serialization.load"),
        (pickle.loads, (b"N.",), "_pickle.loads"),
        (getattr, ("x", "upper"), "builtins.getattr"),
    ],
)
def test_calls_are_refused_by_name_before_they_happen(
    function: Any, arguments: tuple[Any, ...], name: str, tmp_path: Path
) -> None:
    for record in (Calls(function, *arguments), {"nested": [{"deep": Calls(function, *arguments)}]}):
        with pytest.raises(DataError, match=name.replace(".", r"\.")):
            unpickle_record(pickle.dumps(record))


def test_a_call_leaves_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    hostile = pickle.dumps({"pos": Calls(os.system, f"touch {trace}")})
    with pytest.raises(DataError, match="refused"):
        unpickle_record(hostile)
    assert not trace.exists()
    pickle.loads(hostile)  # The same bytes do run the command when nothing restricts them.
    assert trace.exists()


def test_memory_of_a_tensor_is_no_back_door(tmp_path: Path) -> None:
    """What torch itself calls here reads an inner pickle without restriction."""
    trace = tmp_path / "trace"
    inner = io.BytesIO()
    torch.save(Calls(os.system, f"touch {trace}"), inner, _use_new_zipfile_serialization=False)
    hostile = pickle.dumps({"pos": Calls(torch.storage._load_from_bytes, inner.getvalue())})
    with pytest.raises(DataError, match="system"):
        unpickle_record(hostile)
    assert not trace.exists()


class NestedClass:
    pass


def test_objects_of_classes_are_refused() -> None:
    for value in (NestedClass(), Path("x"), zipfile.ZipInfo(), torch.nn.Linear(1, 1), torch.device("cpu")):
        with pytest.raises(DataError, match="refused"):
            unpickle_record(pickle.dumps({"cell": value}))


def test_numpy_objects_are_refused() -> None:
    objects: NDArray[Any] = np.array([None, "x"], dtype=object)
    with pytest.raises(DataError, match="'O8' is refused"):
        unpickle_record(pickle.dumps({"cell": objects}))
    structured = np.zeros(2, dtype=[("a", "f8"), ("b", "O")])
    with pytest.raises(DataError, match="is refused"):
        unpickle_record(pickle.dumps({"cell": structured}))


def test_what_a_pickle_was_given_stays_as_it_was() -> None:
    """BUILD after a global sets attributes of that very object, here defaults of torch's function."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    hostile = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\nN}\x8c\x0c__defaults__N\x85s\x86b."
    with pytest.raises(DataError):
        unpickle_record(hostile)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(RECORD)[:-20], b"\x80\x04."])
def test_damaged_pickles(data: bytes) -> None:
    with pytest.raises(DataError, match="no readable pickle"):
        unpickle_record(data)


def test_a_pickle_of_something_else() -> None:
    with pytest.raises(DataError, match="holds a list instead of a dictionary"):
        unpickle_record(pickle.dumps([1]))
