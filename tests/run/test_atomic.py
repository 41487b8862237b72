from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import NoReturn

import pytest

from omatg_ray.errors import OmatgRayError
from omatg_ray.run.atomic import (
    point,
    remove_folder,
    remove_leftovers,
    replace_folder,
    write_bytes,
    write_json,
    write_text,
)


def fail_with(code: int) -> object:
    def raise_error(*_: object, **__: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return raise_error


def test_writes_the_content_and_the_folders_above(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "text", "Ångström\n")
    write_bytes(tmp_path / "bytes", b"\x00\xff")
    write_json(tmp_path / "json", {"x": [1, None]})
    assert (tmp_path / "a" / "b" / "text").read_bytes() == b"\xc3\x85ngstr\xc3\xb6m\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert json.loads((tmp_path / "json").read_text()) == {"x": [1, None]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bytes", "json"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, step, fail_with(errno.ENOSPC))
    with pytest.raises(OmatgRayError, match=r"file: the disk or quota is full \([\d,]+ MB free in"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_permission_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", fail_with(errno.EACCES))
    with pytest.raises(OmatgRayError, match="cannot write .*file: permission denied"):
        write_text(tmp_path / "file", "new")


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), replace_folder(tmp_path / "file"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_replace_folder_swaps_whole_folders(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with replace_folder(path) as temporary:
            (temporary / content).write_text(content)
            assert temporary.parent == tmp_path
            assert not (path / content).exists()
    assert [found.name for found in path.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [path]


def test_replace_folder_keeps_the_old_one_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(KeyboardInterrupt), replace_folder(path) as temporary:
        (temporary / "new").touch()
        raise KeyboardInterrupt
    assert [found.name for found in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_replace_folder_keeps_the_old_one_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    rename, calls = os.replace, []

    def second_rename_fails(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", second_rename_fails)
    with pytest.raises(OmatgRayError, match="full"), replace_folder(path) as temporary:
        (temporary / "new").touch()
    assert [found.name for found in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_recognised_in_the_errors_of_other_libraries(tmp_path: Path) -> None:
    """Safetensors wraps the system's error in a class of its own."""
    with pytest.raises(OmatgRayError, match="folder: the disk or quota is full"), replace_folder(tmp_path / "folder"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


def test_point_replaces_a_link_and_stays_relative(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        point(tmp_path / "best", name)
        assert os.readlink(tmp_path / "best") == name
        assert (tmp_path / "best").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "best"]


def test_failed_point_keeps_the_old_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point(tmp_path / "best", "a")
    monkeypatch.setattr(os, "replace", fail_with(errno.EROFS))
    with pytest.raises(OmatgRayError, match="best"):
        point(tmp_path / "best", "b")
    assert os.readlink(tmp_path / "best") == "a"
    assert len(list(tmp_path.iterdir())) == 1


def test_leftovers_of_a_killed_writer_go(tmp_path: Path) -> None:
    write_text(tmp_path / "kept", "")
    (tmp_path / ".file.0123.tmp").touch()
    (tmp_path / ".folder.0123.tmp").mkdir()
    (tmp_path / ".folder.0123.tmp" / "file").touch()
    (tmp_path / ".hidden").touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "kept"]


def test_remove_folder(tmp_path: Path) -> None:
    with replace_folder(tmp_path / "folder") as temporary:
        (temporary / "file").touch()
    remove_folder(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
