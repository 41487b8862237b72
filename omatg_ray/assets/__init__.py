"""What the package carries: crystals, potential, base model, schedule; so that it works where nothing else is there.

Each asset is a folder below `assets/` with its files, a `card.md` that says how it was made and what it is good for,
and `SHA256SUMS` over them, which `sha256sum -c` reads too. The word `bundled` names them wherever a model, a potential,
crystals or a schedule are named.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Final, Literal, get_args

from omatg_ray.errors import DataError
from omatg_ray.run.atomic import write_text
from omatg_ray.run.checkpoints import sha256_of

SUMS, CARD = "SHA256SUMS", "card.md"
AssetName = Literal["crystals", "potential", "base", "schedule"]
ASSETS: tuple[AssetName, ...] = get_args(AssetName)
# What a checksum has to stand for: a list that lost a line would let a damaged file through.
NEEDED: Final[dict[AssetName, tuple[str, ...]]] = {
    "crystals": (CARD, "train.extxyz", "val.extxyz", "test.extxyz"),
    "potential": (CARD, "model.json", "model.pt", "state.pt", "known_energies.json"),
    "base": (CARD, "model.json", "weights.safetensors"),
    "schedule": (CARD, "schedule.json", "weights.safetensors"),
}

_MEND = "install the package anew, or in a checkout: git checkout -- omatg_ray/assets"


def root() -> Path:
    """The folder of the assets."""
    return Path(__file__).parent


def asset(name: AssetName) -> Path:
    """The folder of an asset, after its files were compared with their checksums. Others in it do not matter.

    Raises:
        DataError: A file is missing, not as it was sealed, or not sealed although the asset needs it.
    """
    files(name)
    return root() / name


def files(name: AssetName) -> list[Path]:
    """The files of an asset that have a checksum, in the order of their names, after they were compared with it.

    Raises:
        DataError: As `asset`.
    """
    folder = root() / name
    sums = folder / SUMS
    if not sums.is_file():
        raise DataError(f"bundled {name}: {sums} is missing; {_MEND}")
    lines = sums.read_text(encoding="utf-8").splitlines()
    entries = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    if not entries or None in entries:
        raise DataError(f"bundled {name}: {sums} is no list of checksums; {_MEND}")
    digests = {entry[2]: entry[1] for entry in entries if entry}
    outside = [file for file in digests if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]
    if outside:
        raise DataError(f"bundled {name}: {sums} names {outside[0]}, which lies outside of its folder; {_MEND}")
    for file, digest in sorted(digests.items()):
        if not (folder / file).is_file():
            raise DataError(f"bundled {name}: {folder / file} is missing; {_MEND}")
        if sha256_of(folder / file) != digest:
            raise DataError(f"bundled {name}: {folder / file} is damaged, it differs from its checksum; {_MEND}")
    unsealed = [file for file in NEEDED[name] if file not in digests]
    if unsealed:
        raise DataError(f"bundled {name}: {sums} does not list {unsealed[0]}; {_MEND}")
    return sorted(folder / file for file in digests)


def seal(folder: Path) -> None:
    """Writes the checksums of all files of an asset's folder but hidden ones, as `sha256sum` does."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path for path in found if path != Path(SUMS) and not any(part.startswith(".") for part in path.parts)]
    write_text(folder / SUMS, "".join(f"{sha256_of(folder / path)}  {path.as_posix()}\n" for path in shown))


def card(name: AssetName) -> str:
    """The card of an asset, Markdown.

    Raises:
        DataError: As `asset`.
    """
    return (asset(name) / CARD).read_text(encoding="utf-8")


def crystals(split: str) -> Path:
    """The file of a split of the bundled crystals: train, val or test.

    Raises:
        DataError: As `asset`.
    """
    return asset("crystals") / f"{split}.extxyz"


def quickstart() -> Path:
    """The configuration of `omatg-ray train` without one: the copy that a wheel holds, or that of the checkout."""
    package = Path(__file__).parents[1]
    # The copy first: beside an installed package, a folder `configs` would be somebody else's.
    copy = package / "quickstart.yaml"
    return copy if copy.is_file() else package.parent / "configs" / "quickstart.yaml"
