from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from omatg_ray import assets
from omatg_ray.assets import CONTENTS, asset, card, seal
from omatg_ray.config import Config
from omatg_ray.crystal.domain import DOMAIN_FILE
from omatg_ray.errors import DataError
from omatg_ray.model.flow_model import DESCRIPTION_FILE, WEIGHTS_FILE
from omatg_ray.reward.known_energies import KNOWN_ENERGIES
from omatg_ray.reward.potential import WEIGHT_FILES
from omatg_ray.run.location import (
    BUNDLED,
    BUNDLED_NAMES,
    PERIODIC,
    PROTOTYPES,
    BundledName,
    absolute_name,
    as_base,
    bundled_set,
    is_bundled,
)
from omatg_ray.train.splits import SPLITS

ABSOLUTE = re.compile(r"(?<![\w.-])/(home|work|tmp|root|Users|mnt)/|(?<![A-Za-z])[A-Za-z]:[\\/]")


@pytest.fixture
def potential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An asset of all files that it needs and one more, in a folder; sealed."""
    folder = tmp_path / "potential"
    (folder / "deep").mkdir(parents=True)
    (folder / "model.pt").write_bytes(bytes(range(256)))
    for name in ("model.json", "state.pt", "known_energies.json", "domain.json"):
        (folder / name).write_text(name)
    (folder / "deep" / "more weights.pt").write_bytes(b"more")
    (folder / "card.md").write_text("# A card − with a minus sign\n", encoding="utf-8")
    seal(folder)
    monkeypatch.setattr(assets, "root", lambda of="bundled": tmp_path / "other" if of == PROTOTYPES else tmp_path)
    return folder


SEALED = ["card.md", "deep/more weights.pt", "domain.json", "known_energies.json", "model.json", "model.pt", "state.pt"]


def listed(folder: Path) -> list[str]:
    return [line[66:] for line in (folder / "SHA256SUMS").read_text().splitlines()]


def test_the_seal_is_what_sha256sum_reads_and_covers_all_files(potential: Path) -> None:
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=potential, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name}: OK" for name in SEALED]
    digest = hashlib.sha256(bytes(range(256))).hexdigest()
    assert f"{digest}  model.pt\n" in (potential / "SHA256SUMS").read_text()


def test_a_whole_asset_is_given_with_its_card(potential: Path) -> None:
    assert asset("potential") == potential
    assert card("potential") == "# A card − with a minus sign\n"


def test_sealing_again_takes_in_what_changed(potential: Path) -> None:
    (potential / "new.txt").write_text("new")
    seal(potential)
    assert asset("potential") == potential
    assert listed(potential) == sorted([*SEALED, "new.txt"])


def test_hidden_files_are_not_sealed_and_others_that_are_not_do_not_matter(potential: Path) -> None:
    (potential / ".DS_Store").write_text("left by a file manager")
    (potential / ".cache").mkdir()
    (potential / ".cache" / "x").write_text("x")
    seal(potential)
    assert listed(potential) == SEALED
    (potential / "notes.txt").write_text("mine")
    assert assets.files("potential") == [potential / name for name in SEALED]


def test_every_file_that_an_asset_needs_has_to_be_sealed(potential: Path) -> None:
    sums = potential / "SHA256SUMS"
    for name in ("card.md", "model.json", "model.pt", "state.pt", "known_energies.json", "domain.json"):
        seal(potential)
        lines = sums.read_text().splitlines(keepends=True)
        sums.write_text("".join(line for line in lines if not line.endswith(f"  {name}\n")))
        with pytest.raises(DataError, match=f"^bundled potential: {sums} does not list {name};"):
            asset("potential")


def test_what_is_needed_is_what_the_readers_read() -> None:
    assert {*WEIGHT_FILES, KNOWN_ENERGIES, DOMAIN_FILE, "card.md"} == set(assets.NEEDED["potential"])
    assert {DESCRIPTION_FILE, WEIGHTS_FILE, "card.md"} == set(assets.NEEDED["base"])
    assert {*(f"{split}.extxyz" for split in SPLITS), "card.md"} == set(assets.NEEDED["crystals"])


@pytest.mark.parametrize("name", ["../elsewhere", "deep/../../elsewhere", "/etc/hostname"])
def test_checksums_of_files_elsewhere_are_refused(potential: Path, name: str) -> None:
    (potential.parent / "elsewhere").write_bytes(b"")
    with open(potential / "SHA256SUMS", "a") as sums:
        sums.write(f"{hashlib.sha256(b'').hexdigest()}  {name}\n")
    with pytest.raises(DataError, match=f"names {name}, which lies outside"):
        asset("potential")


def test_what_sha256sum_wrote_in_binary_mode_is_read(potential: Path) -> None:
    written = subprocess.run(["sha256sum", "-b", *SEALED], cwd=potential, capture_output=True, text=True)
    assert " *model.pt" in written.stdout
    (potential / "SHA256SUMS").write_text(written.stdout)
    assert asset("potential") == potential


@pytest.mark.parametrize("name", ["model.pt", "card.md", "deep/more weights.pt"])
def test_a_damaged_file_and_a_missing_one_are_named(potential: Path, name: str) -> None:
    file = potential / name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=f"^bundled potential: {file} is damaged.*git checkout"):
        asset("potential")
    file.unlink()
    with pytest.raises(DataError, match=f"^bundled potential: {file} is missing; reinstall"):
        card("potential")


def test_an_asset_without_checksums_is_refused(potential: Path) -> None:
    sums = potential / "SHA256SUMS"
    for text in ("", "version https://git-lfs.github.com/spec/v1\n", sums.read_text() + "abc  weights.pt\n"):
        sums.write_text(text)
        with pytest.raises(DataError, match=f"{sums} is not a list of checksums"):
            asset("potential")
    sums.unlink()
    with pytest.raises(DataError, match=f"{sums} is missing"):
        asset("potential")


def test_an_asset_that_is_not_there(potential: Path) -> None:
    with pytest.raises(DataError, match="^bundled crystals: .* is missing"):
        assets.crystals("test")


def test_a_set_has_assets_of_its_own_and_says_which_it_lacks(potential: Path) -> None:
    assert asset("potential", PERIODIC) == potential
    folder = potential.parent / "other" / "crystals"
    folder.mkdir(parents=True)
    for name in ("card.md", "train.extxyz", "val.extxyz", "test.extxyz"):
        (folder / name).write_text(name)
    seal(folder)
    assert assets.crystals("val", PROTOTYPES) == folder / "val.extxyz"
    with pytest.raises(
        DataError, match="^bundled-prototypes has no reinforced; it has crystals, potential, base, schedule$"
    ):
        asset("reinforced", PROTOTYPES)
    (folder / "val.extxyz").unlink()
    with pytest.raises(DataError, match="^bundled-prototypes crystals: .*val.extxyz is missing"):
        assets.crystals("train", PROTOTYPES)


def test_names_of_models() -> None:
    for word in BUNDLED_NAMES:
        assert bundled_set(word) == bundled_set(f"{word}/base") == bundled_set(f"{word}/reinforced") == word
        assert assets.model_named(f"{word}/base") == ("base", word) == assets.model_named(as_base(word))
        assert assets.model_named(f"{word}/reinforced") == ("reinforced", word)
        assert assets.set_with("crystals", f"{word}/base") == word
    assert assets.model_named(PROTOTYPES) == ("base", PROTOTYPES)
    assert [assets.model_named(word) for word in (BUNDLED, PERIODIC)] == [
        ("reinforced", BUNDLED),
        ("reinforced", PERIODIC),
    ]
    assert as_base("bundled/reinforced") == "bundled/reinforced" and as_base(Path("bundled")) == Path("bundled")
    assert {
        bundled_set(name)
        for name in (Path("bundled/base"), "bundled/potential", "/base", "", None, "bundled/", "bundled/base/base")
    } == {None}


def test_the_words_are_text_and_nothing_else() -> None:
    assert all(map(is_bundled, BUNDLED_NAMES)) and BUNDLED in BUNDLED_NAMES
    assert not any(map(is_bundled, (Path("bundled"), "./bundled", "Bundled", "", None)))


def test_the_quickstart_is_bundled_and_complete() -> None:
    config = Config.load(assets.quickstart())
    assert assets.quickstart().parts[-2:] == ("configs", "quickstart.yaml")
    assert (config.base, config.reward.potential, config.run) == (BUNDLED, BUNDLED, Path("runs/quickstart"))
    assert config.data.file is None and config.data.train is None


def test_a_wheel_has_its_own_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another project put beside it."""
    for folder in ("omatg_ray", "configs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "quickstart.yaml").touch()
        (tmp_path / folder / "polymorphs.yaml").touch()
    monkeypatch.setattr(assets, "__file__", str(tmp_path / "omatg_ray" / "assets" / "__init__.py"))
    assert assets.quickstart() == tmp_path / "omatg_ray" / "quickstart.yaml"
    assert assets.polymorphs() == tmp_path / "omatg_ray" / "polymorphs.yaml"


def test_records_tell_the_word_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_name("bundled") == "bundled"
    folders = ("./bundled", Path("bundled"), tmp_path / "bundled")
    assert {absolute_name(folder) for folder in folders} == {str(tmp_path / "bundled")}


BOTH_SETS = [(name, of) for of in (PROTOTYPES, PERIODIC) for name in CONTENTS[of]]


@pytest.mark.parametrize(("name", "of"), BOTH_SETS)
def test_what_the_package_carries_is_whole(name: assets.AssetName, of: BundledName) -> None:
    folder = asset(name, of)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listed(folder)) == {path for path in there if path != "SHA256SUMS" and not path.startswith(".")}
    assert len(card(name, of)) > 200


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data /home/me/x", True),
        ('"/tmp/x"', True),
        ("C:\\\\Users", True),
        ("runs/work/x and https://host/home/", False),
    ],
)
def test_what_an_absolute_path_is(text: str, found: bool) -> None:
    assert bool(ABSOLUTE.search(text)) == found


@pytest.mark.parametrize(("name", "of"), BOTH_SETS)
def test_no_asset_tells_where_it_was_made(name: assets.AssetName, of: BundledName) -> None:
    texts = [path for path in (assets.root(of) / name).rglob("*") if path.suffix in (".json", ".md")]
    assert texts
    for path in texts:
        assert ABSOLUTE.search(path.read_text(encoding="utf-8")) is None, path


def test_git_leaves_the_ends_of_lines_of_assets_alone() -> None:
    root = Path(assets.__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("no checkout")
    files = [f"omatg_ray/assets/{name}" for name in ("crystals/train.extxyz", "base/card.md", "x/deep/y.json")]
    done = subprocess.run(["git", "check-attr", "text", *files], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{file}: text: unset" for file in files]
