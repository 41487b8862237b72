"""`scripts/studies/schedules.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from omatg_ray.assets import crystals
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures


def test_crystals_are_spread_over_a_data_set() -> None:
    from schedules import spread

    dataset = read_dataset(crystals("val", "bundled-prototypes")).select(range(10))
    assert spread(dataset, 4).ids == [dataset.ids[row] for row in (0, 2, 5, 7)]
    assert spread(dataset, 20).ids == dataset.ids


@pytest.mark.long
@pytest.mark.filterwarnings(
    "ignore:outside of the training data",
    "ignore:the base.s own schedule is not used",
    "ignore:data.* share .* compositions",
)
def test_the_study_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a schedule is tried on has given nothing to the one that was learned elsewhere."""
    import schedules

    def some(part: str, rows: range) -> list[dict[str, str]]:
        dataset = read_dataset(crystals(part)).select(rows)
        sources = ["mp_20", "mpts_52", "bundled"] * len(rows)
        rows_of = [{"material_id": name, "source": source} for name, source in zip(dataset.ids, sources, strict=False)]
        write_structures(tmp_path / f"{part}.extxyz", dataset.crystals.to_structures(), rows_of)
        return rows_of

    ids = {part: some(part, range(0, 120, 20)) for part in ("train", "val", "test")}
    few = read_dataset(crystals("test", "bundled-prototypes")).select(range(0, 100, 5))
    write_structures(tmp_path / "perov5.extxyz", few.crystals.to_structures())
    monkeypatch.setattr(schedules, "SHARES", {"train": 3, "val": 2, "test": 2})
    monkeypatch.setattr(schedules, "KEYS", [*schedules.KEYS, "rollout.groups=2", "rollout.group_size=2"])
    monkeypatch.setattr(schedules, "TUNING", schedules.TUNING.model_copy(update={"pos": [1.0], "cell": [0.0]}))
    words = f"schedules.py --crystals {tmp_path} --perov5 {tmp_path / 'perov5.extxyz'} --iterations 1 --steps 5"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--out", str(tmp_path / "out")])
    schedules.main()
    results = json.loads((tmp_path / "out" / "ablation" / "ablation.json").read_text())["sets"]
    assert list(results) == ["prototypes", "perov_5", "mp_20", "mpts_52"]
    assert {"here", "elsewhere", "bundled"} <= {row["way"] for row in results["mp_20"]["rows"]}
    here, others = (
        read_dataset(tmp_path / "out" / "crystals" / name / "train.extxyz").ids for name in ("mp_20", "not_mp_20")
    )
    assert here == [row["material_id"] for row in ids["train"] if row["source"] == "mp_20"]
    assert others[-2:] == [row["material_id"] for row in ids["train"] if row["source"] == "mpts_52"]
    assert len(others) == 3 + 3 + 2
