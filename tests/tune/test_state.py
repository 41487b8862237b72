"""The copy of Tune's state that a sweep keeps itself."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from omatg_ray.errors import DataError
from omatg_ray.tune.state import FOLDER, KEPT, bring_back


def kept(folder: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(folder / KEPT, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    (folder / FOLDER).mkdir(parents=True)
    (folder / FOLDER / "experiment_state-0.json").write_text("torn")
    return folder / KEPT


def test_what_was_kept_takes_the_place_of_what_is_torn(tmp_path: Path) -> None:
    kept(tmp_path, {"experiment_state-1.json": b"{}"})
    assert bring_back(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / FOLDER).iterdir()} == {
        "experiment_state-1.json": b"{}"
    }


@pytest.mark.parametrize("left", [0.0, 0.3])
def test_a_damaged_copy_is_refused_and_nothing_is_changed(tmp_path: Path, left: float) -> None:
    path = kept(tmp_path, {"experiment_state-1.json": b"{}" * 5000})
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    with pytest.raises(DataError, match=r"is damaged .*Nothing was changed; restore it from a backup"):
        bring_back(tmp_path)
    assert [file.name for file in (tmp_path / FOLDER).iterdir()] == ["experiment_state-0.json"]
