"""`scripts/assets/label.py`: which crystals are labelled, and that finished files are left alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from omatg_ray.crystal.write import write_structures
from omatg_ray.reward.potential import load_potential
from tests.small import rock_salt

pytestmark = pytest.mark.processes

LENGTHS = [5.0 + 0.1 * k for k in range(8)]


@pytest.mark.long
def test_a_share_of_the_crystals_is_perturbed_and_all_are_labelled_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import label
    from configurations import KINDS
    from teacher import Labels

    salts = [rock_salt(length).get_primitive_structure() for length in LENGTHS]
    write_structures(tmp_path / "train.extxyz", salts, [{"material_id": f"salt-{k}"} for k in range(len(salts))])
    words = f"label.py --potential bundled --split train --crystals {tmp_path} --out {tmp_path / 'out'} --workers 1"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--share", "0.5"])
    label.main()
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    kinds = ("random-0", "rattled-0", "rattled-1", "relaxed", "strained-0", "swapped-0")
    assert files == [f"{kind}-000.safetensors" for kind in kinds]
    relaxed = Labels.load(tmp_path / "out" / "relaxed-000.safetensors")
    expected = load_potential("bundled").energies(relaxed.crystals, repulsion=False)
    torch.testing.assert_close(relaxed.energy, expected, rtol=0, atol=1e-3)
    assert len(relaxed.energy) == len(salts) and set(relaxed.kind.tolist()) == {KINDS.index("relaxed")}
    for name in files:
        if not name.startswith("relaxed"):
            some = Labels.load(tmp_path / "out" / name)
            assert 0 < len(some.energy) <= len(salts) / 2
            assert some.kind.tolist() == [KINDS.index(name.partition("-")[0])] * len(some.energy)
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files}
    (tmp_path / "out" / files[0]).unlink()
    label.main()
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files}
    assert [name for name in files if after[name] != before[name]] == files[:1]
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit, match="results of another share"):
        label.main()


def test_the_drawn_rows_depend_on_the_name_and_are_each_there_once() -> None:
    from label import drawn

    rows = drawn(100, 0.3, "strained-0")
    assert rows == sorted(set(rows)) == drawn(100, 0.3, "strained-0") and len(rows) == 30
    assert rows != drawn(100, 0.3, "rattled-0")
    assert drawn(7, 1.0, "any") == list(range(7))
