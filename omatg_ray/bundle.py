"""What the package carries: crystals, a potential and a base model, so that it works where nothing else is there.

Each asset is a folder below `assets/` with its files, a `card.md` that says how it was made and what it is good for,
and `SHA256SUMS` over them, which `sha256sum -c` reads too. The word `bundled` names them wherever a model, a potential
or crystals are named.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeGuard, get_args

from omatg_ray.errors import DataError
from omatg_ray.run.atomic import write_text

if TYPE_CHECKING:
    from omatg_ray.model import FlowModel

BUNDLED: Final = "bundled"
SUMS, CARD = "SHA256SUMS", "card.md"
AssetName = Literal["crystals", "potential", "base"]
ASSETS: tuple[AssetName, ...] = get_args(AssetName)

_MEND = "install the package anew, or in a checkout: git checkout -- omatg_ray/assets"


def is_bundled(name: object) -> TypeGuard[Literal["bundled"]]:
    """Whether this is the word. A `Path` never is, so that `./bundled`, once it is a path, stays a folder."""
    return isinstance(name, str) and name == BUNDLED


def root() -> Path:
    """The folder of the assets."""
    return Path(__file__).parent / "assets"


def asset(name: AssetName) -> Path:
    """The folder of an asset, after its files were compared with their checksums.

    Raises:
        DataError: A file is missing or not as it was sealed.
    """
    folder = root() / name
    sums = folder / SUMS
    if not sums.is_file():
        raise DataError(f"bundled {name}: {sums} is missing; {_MEND}")
    lines = sums.read_text(encoding="utf-8").splitlines()
    entries = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    if not entries or None in entries:
        raise DataError(f"bundled {name}: {sums} is no list of checksums; {_MEND}")
    for digest, file in (entry.groups() for entry in entries if entry):
        if not (folder / file).is_file():
            raise DataError(f"bundled {name}: {folder / file} is missing; {_MEND}")
        if _sha256(folder / file) != digest:
            raise DataError(f"bundled {name}: {folder / file} is damaged, it differs from its checksum; {_MEND}")
    return folder


def files(folder: Path) -> list[Path]:
    """All files of an asset but its checksums, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)


def seal(folder: Path) -> None:
    """Writes the checksums of all files of an asset's folder, as `sha256sum` does."""
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files(folder)]
    write_text(folder / SUMS, "".join(lines))


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


def bundled_model() -> FlowModel:
    """The bundled base model.

    Raises:
        DataError: As `asset`.
    """
    from omatg_ray.model import FlowModel

    return FlowModel.load(BUNDLED)


def quickstart() -> Path:
    """The configuration of `omatg-ray train` without one: that of the checkout, or the copy that a wheel holds."""
    package = Path(__file__).parent
    here = package.parent / "configs" / "quickstart.yaml"
    return here if here.is_file() else package / "quickstart.yaml"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
