"""Bundled assets: crystals, potential, models and schedule, so that the package works without other data.

Each asset is a folder with its files, a `card.md` on how it was made and what it is good for, and `SHA256SUMS` over
both, which `sha256sum -c` also reads. There are two sets of assets: `bundled-periodic` in `assets/periodic/`, which the
word `bundled` also stands for, and `bundled-prototypes`, the former one, in `assets/`. These words stand for an asset
of the set wherever a model, a potential, crystals or a schedule is named.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

from omatg_ray.errors import DataError
from omatg_ray.run.atomic import write_text
from omatg_ray.run.checkpoints import sha256_of
from omatg_ray.run.location import BUNDLED, PERIODIC, BundledName, SetName, as_base, bundled_set, meant

SUMS, CARD, PACKED = "SHA256SUMS", "card.md", ".gz"
AssetName = Literal["crystals", "potential", "base", "schedule", "reinforced"]
ASSETS: tuple[AssetName, ...] = get_args(AssetName)
CONTENTS: Final[dict[SetName, tuple[AssetName, ...]]] = {
    "bundled-prototypes": ("crystals", "potential", "base", "schedule"),
    "bundled-periodic": ("crystals", "potential", "base", "schedule", "reinforced"),
}
# Files that need a checksum, packed or not: otherwise a list that lost a line would let a damaged file pass.
NEEDED: Final[dict[AssetName, tuple[str, ...]]] = {
    "crystals": (CARD, "train.extxyz", "val.extxyz", "test.extxyz"),
    "potential": (CARD, "model.json", "model.pt", "state.pt", "known_energies.json", "domain.json"),
    "base": (CARD, "model.json", "weights.safetensors"),
    "schedule": (CARD, "schedule.json", "weights.safetensors"),
    "reinforced": (CARD, "model.json", "weights.safetensors"),
}

_FIX = "reinstall the package, or in a checkout: git checkout -- omatg_ray/assets"


def root(of: BundledName = BUNDLED) -> Path:
    """Return the folder of a set of assets."""
    everything = Path(__file__).parent
    return everything / "periodic" if meant(of) == PERIODIC else everything


def asset(name: AssetName, of: BundledName = BUNDLED) -> Path:
    """Return the folder of an asset after checking its files against their checksums. Other files do not matter.

    Args:
        name: What it is.
        of: Name of the set that it belongs to.

    Raises:
        DataError: The set has no such asset; or a file is missing, differs from its checksum, or lacks a checksum that
            the asset needs.
    """
    files(name, of)
    return root(of) / name


def has(of: BundledName) -> tuple[AssetName, ...]:
    """Return which assets of a set are there."""
    return tuple(name for name in CONTENTS[meant(of)] if (root(of) / name).is_dir())


def set_with(name: AssetName, of: object) -> BundledName | None:
    """Return the set that a word, or the name of a model, stands for, if it does and the set has this asset."""
    bundled = bundled_set(of)
    return bundled if bundled and name in has(bundled) else None


def model_named(word: str) -> tuple[AssetName, BundledName]:
    """Return the asset that the name of a bundled model stands for.

    Args:
        word: A set, which stands for its reinforced model, or its base if it has none; or `SET/base`, `SET/reinforced`.
    """
    of = bundled_set(word)
    assert of is not None
    if word == of:
        return ("reinforced" if "reinforced" in CONTENTS[meant(of)] else "base"), of
    return ("base" if word == as_base(of) else "reinforced"), of


def require(name: AssetName, of: BundledName) -> None:
    """Check that a set has an asset, without a look at its files.

    Raises:
        DataError: It has none.
    """
    contents = CONTENTS[meant(of)]
    if name not in contents:
        raise DataError(f"{of} has no {name}; it has {', '.join(contents)}")


def files(name: AssetName, of: BundledName = BUNDLED) -> list[Path]:
    """Return the files of an asset that have a checksum, sorted by name, after checking them against it.

    Raises:
        DataError: As `asset`.
    """
    folder = root(of) / name
    sums = folder / SUMS
    require(name, of)
    if not sums.is_file():
        raise DataError(f"{of} {name}: {sums} is missing; {_FIX}")
    lines = sums.read_text(encoding="utf-8").splitlines()
    entries = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    if not entries or None in entries:
        raise DataError(f"{of} {name}: {sums} is not a list of checksums; {_FIX}")
    digests = {entry[2]: entry[1] for entry in entries if entry}
    outside = [file for file in digests if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]
    if outside:
        raise DataError(f"{of} {name}: {sums} names {outside[0]}, which lies outside its folder; {_FIX}")
    for file, digest in sorted(digests.items()):
        if not (folder / file).is_file():
            raise DataError(f"{of} {name}: {folder / file} is missing; {_FIX}")
        if sha256_of(folder / file) != digest:
            raise DataError(f"{of} {name}: {folder / file} is damaged, it differs from its checksum; {_FIX}")
    unsealed = [file for file in NEEDED[name] if file not in digests and f"{file}{PACKED}" not in digests]
    if unsealed:
        raise DataError(f"{of} {name}: {sums} does not list {unsealed[0]}; {_FIX}")
    return sorted(folder / file for file in digests)


def seal(folder: Path) -> None:
    """Write the checksums of all files in an asset's folder except hidden ones, in the format of `sha256sum`."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path for path in paths if path != Path(SUMS) and not any(part.startswith(".") for part in path.parts)]
    write_text(folder / SUMS, "".join(f"{sha256_of(folder / path)}  {path.as_posix()}\n" for path in shown))


def card(name: AssetName, of: BundledName = BUNDLED) -> str:
    """Return the card of an asset, as Markdown.

    Raises:
        DataError: As `asset`.
    """
    return (asset(name, of) / CARD).read_text(encoding="utf-8")


def crystals(split: str, of: BundledName = BUNDLED) -> Path:
    """Return the file of a split of bundled crystals: train, val or test.

    Raises:
        DataError: As `asset`.
    """
    file = asset("crystals", of) / f"{split}.extxyz"
    return file if file.is_file() else file.with_name(f"{file.name}{PACKED}")


def quickstart() -> Path:
    """Return the default configuration of `omatg-ray train`."""
    return _configuration("quickstart.yaml")


def polymorphs() -> Path:
    """Return the configuration that teaches a model which of several polymorphs is the lowest."""
    return _configuration("polymorphs.yaml")


def _configuration(name: str) -> Path:
    """Return a configuration that the package carries: the copy in a wheel, or the file of a checkout."""
    package = Path(__file__).parents[1]
    # Prefer the copy: a folder `configs` beside an installed package would belong to another one.
    copy = package / name
    return copy if copy.is_file() else package.parent / "configs" / name
