from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from omatg_ray import bundle
from omatg_ray.bundle import ASSETS, BUNDLED, asset, card, is_bundled, seal
from omatg_ray.config import Config
from omatg_ray.errors import DataError


@pytest.fixture
def potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An asset of two files, one of them in a folder, and its card; sealed."""
    folder = tmp_path / "potential"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.pt").write_bytes(bytes(range(256)))
    (folder / "deep" / "more weights.pt").write_bytes(b"more")
    (folder / "card.md").write_text("# A card − with a minus sign\n", encoding="utf-8")
    seal(folder)
    monkeypatch.setattr(bundle, "root", lambda: tmp_path)
    return folder


def test_the_seal_is_what_sha256sum_reads_and_covers_all_files(potential: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=potential, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["card.md: OK", "deep/more weights.pt: OK", "weights.pt: OK"]
    digest = hashlib.sha256(bytes(range(256))).hexdigest()
    assert f"{digest}  weights.pt\n" in (potential / "SHA256SUMS").read_text()


def test_a_whole_asset_is_given_with_its_card(potential: Path) -> None:
    assert asset("potential") == potential
    assert card("potential") == "# A card − with a minus sign\n"


def test_sealing_again_takes_in_what_changed(potential: Path) -> None:
    (potential / "new.txt").write_text("new")
    seal(potential)
    assert asset("potential") == potential
    assert [line[66:] for line in (potential / "SHA256SUMS").read_text().splitlines()] == [
        "card.md",
        "deep/more weights.pt",
        "new.txt",
        "weights.pt",
    ]


def test_what_sha256sum_wrote_in_binary_mode_is_read(potential: Path) -> None:
    written = subprocess.run(["sha256sum", "-b", "weights.pt"], cwd=potential, capture_output=True, text=True)
    assert " *weights.pt" in written.stdout
    (potential / "SHA256SUMS").write_text(written.stdout)
    assert asset("potential") == potential


@pytest.mark.parametrize("name", ["weights.pt", "card.md", "deep/more weights.pt"])
def test_a_damaged_file_and_a_missing_one_are_named(potential: Path, name: str) -> None:
    file = potential / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=f"^bundled potential: {file} is damaged.*git checkout"):
        asset("potential")
    file.unlink()
    with pytest.raises(DataError, match=f"^bundled potential: {file} is missing; install"):
        card("potential")


def test_an_asset_without_checksums_is_refused(potential: Path) -> None:
    sums = potential / "SHA256SUMS"
    for text in ("", "version https://git-lfs.github.com/spec/v1\n", sums.read_text() + "abc  weights.pt\n"):
        sums.write_text(text)
        with pytest.raises(DataError, match=f"{sums} is no list of checksums"):
            asset("potential")
    sums.unlink()
    with pytest.raises(DataError, match=f"{sums} is missing"):
        asset("potential")


def test_an_asset_that_is_not_there(potential: Path) -> None:
    with pytest.raises(DataError, match="^bundled crystals: .* is missing"):
        bundle.crystals("test")


def test_the_word_is_text_and_nothing_else() -> None:
    assert is_bundled(BUNDLED)
    assert not any(map(is_bundled, (Path("bundled"), "./bundled", "Bundled", "", None)))


def test_the_quickstart_is_bundled_and_complete() -> None:
    config = Config.load(bundle.quickstart())
    assert bundle.quickstart().parts[-2:] == ("configs", "quickstart.yaml")
    assert (config.base, config.reward.potential, config.run) == (BUNDLED, BUNDLED, Path("runs/quickstart"))
    assert config.data.file is None and config.data.train is None


def test_a_wheel_has_its_own_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "__file__", str(tmp_path / "site-packages" / "omatg_ray" / "bundle.py"))
    assert bundle.quickstart() == tmp_path / "site-packages" / "omatg_ray" / "quickstart.yaml"


@pytest.mark.parametrize("name", ASSETS)
def test_what_the_package_carries_is_whole(name: bundle.AssetName) -> None:
    folder = asset(name)
    listed = {line[66:] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.relative_to(folder).as_posix() for path in bundle.files(folder)}
    assert len(card(name)) > 200
