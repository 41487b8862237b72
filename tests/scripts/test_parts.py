"""`scripts/assets/parts.py` and what uses it: the one split of real and bundled crystals."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import sys
from pathlib import Path

import pytest

from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.train.splits import SPLITS
from tests.small import rock_salt


@pytest.fixture(scope="module")
def bundled() -> dict[str, CrystalDataset]:
    return {part: read_dataset(bundled_crystals(part), reduce=False) for part in SPLITS}


def test_bundled_formulas_keep_their_part_and_others_are_spread_as_asked(bundled: dict[str, CrystalDataset]) -> None:
    from parts import TEST_SHARE, VAL_SHARE, Parts

    parts = Parts(bundled)
    for part, dataset in bundled.items():
        assert {parts.of(formula) for formula in dataset.compositions} == {part}
        assert [len(found) for found in parts.split(dataset).values()].count(0) == 2
    others = [parts.of(f"A{a}B{b}") for a in range(200) for b in range(50)]
    for part, share in (("test", TEST_SHARE), ("val", VAL_SHARE)):
        assert others.count(part) / len(others) == pytest.approx(share, abs=5 * (share / len(others)) ** 0.5)


def test_parts_do_not_depend_on_what_else_there_is(bundled: dict[str, CrystalDataset]) -> None:
    from parts import Parts

    few = Parts({part: dataset.select([0]) for part, dataset in bundled.items()})
    alone, together = Parts({}), Parts(bundled)
    new = [f"{a}2{b}3C5" for a, b in itertools.permutations(("Xe", "Kr", "Ar", "Ne", "He"), 2)]
    assert [few.of(name) for name in new] == [alone.of(name) for name in new] == [together.of(name) for name in new]


@pytest.mark.long
def test_real_crystals_are_split_without_a_leak(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: dict[str, CrystalDataset]
) -> None:
    """Of the first rows of both files, some of the first file once more in the second, and bundled crystals."""
    import real_crystals

    few = {part: dataset.select(range(0, len(dataset), 10)) for part, dataset in bundled.items()}
    for part, dataset in few.items():
        real_crystals.write(tmp_path / "few" / f"{part}.extxyz", dataset, ["bundled"] * len(dataset.ids))

    names = ("mp_20_biternary_val.csv.gz", "mpts_52_val.csv.gz")
    rows = []
    for name in names:
        with gzip.open(shared / "data" / name, "rt", encoding="utf-8", newline="") as file:
            rows.append([(row["material_id"], row["cif"]) for row in itertools.islice(csv.DictReader(file), 60)])
    rows[1] += rows[0][:20]
    for name, of in zip(names, rows, strict=True):
        with gzip.open(tmp_path / name, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("material_id", "cif"), *of])
    words = f"real_crystals.py --mp20 {tmp_path / names[0]} --mpts52 {tmp_path / names[1]} --out {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--bundled", str(tmp_path / "few")])
    real_crystals.main()
    parts = {part: read_dataset(tmp_path / "out" / f"{part}.extxyz", reduce=False) for part in SPLITS}
    for first, second in itertools.combinations(SPLITS, 2):
        assert not set(parts[first].compositions) & set(parts[second].compositions)
        assert not set(parts[first].ids) & set(parts[second].ids)
    for part, dataset in few.items():
        assert set(dataset.compositions) <= set(parts[part].compositions)
    real = [name for dataset in parts.values() for name in dataset.ids if name.startswith("mp-")]
    assert len(real) == len(set(real)) == len({name for of in rows for name, _ in of})
    sources = {values["source"] for dataset in parts.values() for values in dataset.properties}
    assert sources == {"mp_20", "mpts_52", "bundled"}

    assert any(max(dataset.sizes) > 20 for dataset in parts.values())
    for part, dataset in parts.items():
        rows = (dataset.crystals.n_atoms <= 20).nonzero()[:, 0]
        assert read_dataset(tmp_path / "out" / "small" / f"{part}.extxyz").ids == dataset.select(rows).ids
    held_out = [name for name in parts["test"].ids if name.startswith("mp-")]
    assert held_out and read_dataset(tmp_path / "out" / "real_test.extxyz").ids == held_out


@pytest.mark.long
def test_crystals_are_added_to_others_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rock salt is there already; of two new compositions each has one crystal."""
    import crystals
    from parts import Parts

    def line(symbol: str) -> str:
        of = rock_salt(6.3, symbol)
        record = {"id": f"{symbol}Cl-rocksalt-{symbol}Cl", "prototype": "rocksalt", "energy_per_atom": -3.0}
        record |= {"symbols": [site.specie.symbol for site in of], "cell": of.lattice.matrix.tolist()}
        return json.dumps(record | {"positions": of.frac_coords.tolist()})

    for part, symbol in zip(SPLITS, ("Na", "K", "Rb"), strict=True):
        properties = [
            {"material_id": f"{symbol}-there", "energy_per_atom": -3.0, "prototype": "B1", "space_group": 225}
        ]
        write_structures(tmp_path / "there" / f"{part}.extxyz", [rock_salt(6.3, symbol)], properties)
    (tmp_path / "relaxed.jsonl").write_text("\n".join(line(symbol) for symbol in ("Na", "Cs", "Tl", "Ag")) + "\n")
    words = f"crystals.py --relaxed {tmp_path / 'relaxed.jsonl'} --beside {tmp_path / 'there'} --out {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--workers", "1", "--largest", "52"])
    crystals.main()
    parts = Parts({})
    expected = {part: {f"{symbol}-there"} for part, symbol in zip(SPLITS, ("Na", "K", "Rb"), strict=True)}
    for symbol in ("Cs", "Tl", "Ag"):
        expected[parts.of(f"{symbol}Cl")].add(f"{symbol}Cl-rocksalt-{symbol}Cl")
    found = {part: set(read_dataset(tmp_path / "out" / f"{part}.extxyz").ids) for part in SPLITS}
    assert found == expected
