"""OMatG's data files: LMDB and Parquet give the crystals that were written, and errors name the row."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, about itself

ROCKSALT = Structure(
    Lattice([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]]), ["Na", "Cl"], [[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]]
)
TRICLINIC = Structure(
    Lattice.from_parameters(3.1, 4.2, 5.3, 75, 95, 105),
    ["Ba", "Ti", "O"],
    [[0.0, 0.0, 0.0], [0.45, 0.5, 0.55], [0.9, -0.2, 1.3]],
)


def record(structure: Structure, **properties: Any) -> dict[str, Any]:
    """As OMatG writes it: Cartesian positions."""
    return {
        "pos": torch.tensor(structure.cart_coords),
        "cell": torch.tensor(structure.lattice.matrix.copy()),
        "atomic_numbers": torch.tensor(structure.atomic_numbers),
        "pbc": torch.tensor([True, True, True]),
        **properties,
    }


def write_lmdb(path: Path, records: Mapping[str, Any]) -> Path:
    with (
        lmdb.open(str(path), subdir=False, map_size=2**24, lock=False) as environment,
        environment.begin(write=True) as t,
    ):
        for key, value in records.items():
            t.put(key.encode(), value if isinstance(value, bytes) else pickle.dumps(value))
    return path


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def as_columns(structures: list[Structure]) -> dict[str, list[Any]]:
    return {
        "cell": [s.lattice.matrix.tolist() for s in structures],
        "positions": [s.cart_coords.tolist() for s in structures],
        "atomic_numbers": [list(s.atomic_numbers) for s in structures],
    }


def assert_written(path: Path, structures: list[Structure]) -> None:
    """What is read without reduction has the very cells and positions (wrapped), and reduced it is the same crystal."""
    as_written = read_dataset(path, reduce=False).crystals
    for found, expected in zip(as_written.to_structures(), structures, strict=True):
        assert found.atomic_numbers == expected.atomic_numbers
        np.testing.assert_allclose(found.lattice.matrix, expected.lattice.matrix, atol=1e-6)
        difference = found.frac_coords - expected.frac_coords
        np.testing.assert_allclose(difference, np.rint(difference), atol=1e-6)
    matcher = StructureMatcher(ltol=1e-4, stol=1e-4, angle_tol=1e-2, primitive_cell=False, scale=False)
    for found, expected in zip(read_dataset(path).crystals.to_structures(), structures, strict=True):
        assert matcher.fit(found, expected)


def test_lmdb_crystals(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", {"000": record(ROCKSALT), "001": record(TRICLINIC)})
    assert_written(path, [ROCKSALT, TRICLINIC])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.lmdb"]  # Reading leaves no lock file behind.


def test_lmdb_ids_and_properties(tmp_path: Path) -> None:
    records = {
        "a": record(ROCKSALT, ids="mp-7", band_gap=torch.tensor(1.5), stable=True, spectrum=torch.ones(4)),
        "b": record(TRICLINIC, identifier=np.int64(12)),
        "c": record(ROCKSALT),
    }
    dataset = read_dataset(write_lmdb(tmp_path / "a.lmdb", records))
    assert dataset.ids == ["mp-7", "12", "c"]
    assert dataset.properties[0] == {"ids": "mp-7", "band_gap": 1.5, "stable": 1}


def test_lmdb_order_is_that_of_the_keys(tmp_path: Path) -> None:
    """So that row i is the same crystal as in OMatG, which walks through the keys as they are stored."""
    path = write_lmdb(tmp_path / "a.lmdb", {str(i): record(ROCKSALT) for i in range(11)})
    assert read_dataset(path).ids == ["0", "1", "10", *"23456789"]
    assert len(read_dataset(path, limit=3)) == 3


def test_float32_and_left_out_properties(tmp_path: Path) -> None:
    values = {key: value.float() if key in ("pos", "cell") else value for key, value in record(TRICLINIC).items()}
    values["atomic_numbers"] = values["atomic_numbers"].int()
    assert_written(write_lmdb(tmp_path / "a.lmdb", {"0": values}), [TRICLINIC])


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_hostile_record_is_refused_by_key_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    records = {"0": record(ROCKSALT), "1": record(TRICLINIC, note=Hostile(f"touch {trace}"))}
    path = write_lmdb(tmp_path / "a.lmdb", records)
    with pytest.raises(DataError, match=r"a\.lmdb, key 1: its pickle asks for posix\.system, which is refused"):
        read_dataset(path)
    assert not trace.exists()
    assert len(read_dataset(path, limit=1)) == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cell": None}, "it has no 'cell'; its keys are pos, cell"),
        ({"pos": torch.zeros(3, 3)}, r"'pos' \(3, 3\) and 'atomic_numbers' \(2,\)"),
        ({"atomic_numbers": torch.tensor([11.5, 17.0])}, "not integers"),
        ({"atomic_numbers": torch.tensor([11, 0])}, "no chemical element"),
        ({"cell": torch.zeros(3, 3)}, "degenerate"),
        ({"cell": torch.full((3, 3), torch.nan)}, "NaN or infinite"),
        ({"pos": "zero"}, "'pos' is not an array of numbers"),
    ],
)
def test_bad_lmdb_records_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", {"ok": record(ROCKSALT), "poor": {**record(ROCKSALT), **change}})
    with pytest.raises(DataError, match=rf"a\.lmdb, key poor: .*{message}"):
        read_dataset(path)


def test_a_damaged_pickle_is_named(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", {"7": pickle.dumps(record(ROCKSALT))[:-30]})
    with pytest.raises(DataError, match=r"key 7: it is not a readable pickle"):
        read_dataset(path)


def test_files_that_are_no_lmdb(tmp_path: Path) -> None:
    (tmp_path / "text.lmdb").write_text("no database" * 1000)
    with pytest.raises(DataError, match=r"text\.lmdb: it is not an LMDB file"):
        read_dataset(tmp_path / "text.lmdb")
    whole = write_lmdb(tmp_path / "a.lmdb", {str(i): record(ROCKSALT) for i in range(50)}).read_bytes()
    (tmp_path / "half.lmdb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.lmdb: it is cut off"):
        read_dataset(tmp_path / "half.lmdb")
    with pytest.raises(DataError, match="holds no crystals"):
        read_dataset(write_lmdb(tmp_path / "empty.lmdb", {}))


def test_parquet_crystals(tmp_path: Path) -> None:
    columns = as_columns([ROCKSALT, TRICLINIC])
    assert_written(write_parquet(tmp_path / "a.parquet", columns), [ROCKSALT, TRICLINIC])


def test_parquet_ids_and_properties(tmp_path: Path) -> None:
    columns = as_columns([ROCKSALT, TRICLINIC])
    assert read_dataset(write_parquet(tmp_path / "a.parquet", columns)).ids == ["1", "2"]
    columns |= {"ids": ["x", "y"], "energy": [-1.25, None], "material_id": ["mp-1", None]}
    dataset = read_dataset(write_parquet(tmp_path / "b.parquet", columns))
    assert dataset.ids == ["mp-1", "y"]
    assert dataset.properties[0]["energy"] == -1.25
    assert "energy" not in dataset.properties[1]


def test_parquet_of_many_rows_keeps_their_order(tmp_path: Path) -> None:
    count = 600  # more than are decoded at once
    columns = {**as_columns([ROCKSALT] * count), "ids": [f"n{i}" for i in range(count)]}
    assert read_dataset(write_parquet(tmp_path / "a.parquet", columns)).ids == [f"n{i}" for i in range(count)]


def test_bad_parquet_files(tmp_path: Path) -> None:
    columns = as_columns([ROCKSALT, TRICLINIC])
    with pytest.raises(DataError, match=r"no column 'positions'; its columns are cell, atomic_numbers"):
        read_dataset(write_parquet(tmp_path / "a.parquet", {k: v for k, v in columns.items() if k != "positions"}))
    columns["positions"][1] = columns["positions"][1][:2]
    with pytest.raises(DataError, match=r"b\.parquet, row 2: .*\(2, 3\)"):
        read_dataset(write_parquet(tmp_path / "b.parquet", columns))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(DataError, match=r"c\.parquet: it is not a readable Parquet file"):
        read_dataset(tmp_path / "c.parquet")
