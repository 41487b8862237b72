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
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "of_nothing": torch.arange(4.0)[4:],
    "repeated": torch.tensor([6]).expand(20),
    "in_lists": [np.arange(3.0).tolist(), {"deep": (1, [2.0])}],
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


def memory(tensor: torch.Tensor) -> Calls:
    """The memory of a tensor as torch pickles it."""
    _, (storage, *_) = tensor.__reduce_ex__(2)
    return Calls(*storage.__reduce__()[:1], *storage.__reduce__()[1])


def rebuilt(*arguments: Any) -> Calls:
    return Calls(torch._utils._rebuild_tensor_v2, memory(torch.arange(6.0)), *arguments)


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (2, 3), (3, 1)),
        (1, (5,), (1,)),
        (0, (3,), (2,)),
        (5, (), ()),
        (6, (0,), (1,)),
        (0, (0, 10**9), (10**9, 1)),
        (2, (1, 2), (10**9, 3)),
    ],
)
def test_tensors_within_their_memory(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
    found = unpickle_record(pickle.dumps({"pos": rebuilt(offset, size, stride, False, None)}))["pos"]
    expected = np.lib.stride_tricks.as_strided(np.arange(6.0)[offset:], size, [4 * 2 * n for n in stride])
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    "offset, size, stride",
    [
        (0, (7,), (1,)),
        (1, (6,), (1,)),
        (0, (4,), (2,)),
        (6, (), ()),
        (7, (0,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (10**12,), (1,)),
        (0, (2,), (2**62,)),
        (0, (2, 2), (2**63, 2**63)),
        (0, (10**9,), (0,)),
        (0, (10**5, 10**5), (0, 0)),
        (-1, (2,), (1,)),
        (5, (3,), (-2,)),
        (0, (-1,), (1,)),
        (0, (2,), (1, 1)),
        (0, (True,), (1,)),
        (0, (2.0,), (1,)),
        (0, 2, 1),
        (None, (2,), (1,)),
    ],
)
def test_tensors_beyond_their_memory_are_refused(offset: Any, size: Any, stride: Any) -> None:
    with pytest.raises(DataError, match="tensor of size"):
        unpickle_record(pickle.dumps({"pos": rebuilt(offset, size, stride, False, None)}))


def test_hooks_are_not_passed_on_and_other_numbers_of_arguments_refused() -> None:
    hooks = collections.OrderedDict(a=1)
    found = unpickle_record(pickle.dumps({"pos": rebuilt(0, (6,), (1,), True, hooks)}))["pos"]
    assert not found.requires_grad
    assert found._backward_hooks is None
    for arguments in ((0, (6,), (1,)), (0, (6,), (1,), False), (0, (6,), (1,), False, None, {"neg": True})):
        with pytest.raises(DataError, match="not a readable pickle"):
            unpickle_record(pickle.dumps({"pos": rebuilt(*arguments)}))


class Changed:
    """Pickles as the result of a call whose state is then changed."""

    def __init__(self, made: Calls, state: Any) -> None:
        self.made, self.state = made, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (*self.made.call, self.state)


@pytest.mark.parametrize(
    "state",
    [(memory(torch.zeros(1)), 0, (1000,), (1,)), (rebuilt(0, (1,), (1,), False, None), 0, (1000,), (1,))],
)
def test_the_state_of_a_tensor_cannot_be_replaced(state: Any) -> None:
    """Tensors take another memory, size and strides from their state, unchecked."""
    with pytest.raises(DataError, match="changes a tensor"):
        unpickle_record(pickle.dumps({"pos": Changed(rebuilt(0, (6,), (1,), False, None), state)}))


@pytest.mark.parametrize("state", [{"dtype": None}, (None, {"value": 1})])
def test_the_memory_of_a_tensor_cannot_be_changed(state: Any) -> None:
    changed = Changed(memory(torch.arange(6.0)), state)
    hostile = Calls(torch._utils._rebuild_tensor_v2, changed, 0, (1,), (1,), False, None)
    with pytest.raises(DataError, match="changes a tensor"):
        unpickle_record(pickle.dumps({"pos": hostile}))


def test_the_memory_of_a_tensor_is_nothing_else() -> None:
    """A whole tensor in its place would come from torch with sizes that nothing here has looked at."""
    inner = io.BytesIO()
    torch.save(torch.arange(6.0), inner)
    with pytest.raises(DataError, match="a Tensor in place of its memory"):
        unpickle_record(pickle.dumps({"pos": Calls(torch.storage._load_from_bytes, inner.getvalue())}))


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils _rebuild_tensor_v2",
        "torch.storage _load_from_bytes",
        "numpy dtype",
        "numpy ndarray",
        "numpy.core.multiarray scalar",
        "numpy._core.multiarray _reconstruct",
    ],
)
@pytest.mark.parametrize("state", [b"}\x8c\x01xK\x01s", b"N}\x8c\x01xK\x01s\x86"])
def test_known_functions_have_nothing_to_change(name: str, state: bytes) -> None:
    """BUILD of {"x": 1} and of (None, {"x": 1}), which set attributes where there can be any."""
    hostile = b"\x80\x04}\x8c\x01ac" + name.replace(" ", "\n").encode() + b"\n" + state + b"bs."
    with pytest.raises(DataError, match="attribute"):
        unpickle_record(hostile)


def test_a_list_that_holds_the_same_often_is_not_taken_apart_as_often() -> None:
    value: list[Any] = [torch.ones(1)]
    for _ in range(100):
        value = [value, value]
    found = unpickle_record(pickle.dumps({"ids": value}))["ids"]
    for _ in range(100):
        found = found[0]
    assert torch.equal(found[0], torch.ones(1))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(DataError, match="RecursionError"):
        unpickle_record(pickle.dumps({"ids": endless}))


@pytest.mark.parametrize("data", [b"", b"not a pickle", pickle.dumps(RECORD)[:-20], b"\x80\x04."])
def test_damaged_pickles(data: bytes) -> None:
    with pytest.raises(DataError, match="not a readable pickle"):
        unpickle_record(data)


def test_a_pickle_of_something_else() -> None:
    with pytest.raises(DataError, match="holds a list instead of a dictionary"):
        unpickle_record(pickle.dumps([1]))
