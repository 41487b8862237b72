"""Compare CIF readers: this package, pymatgen, ASE and gemmi's own, by the atoms in the cell and its volume.

    python scripts/crystals/compare_readers.py FOLDER [--table table.tsv] [--files N]

Each reader reads the first data block with atoms of each file. A file is printed if two readers get different crystals,
or if only this package refuses it, with the reason. The table lists every file.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.text import decode

SAME_VOLUME = 1e-3
SECONDS = 20
MOST_TEXT = 300_000


class Found(NamedTuple):
    """Atoms in the cell, such as 'Cl4 Na4', and its volume in Å³; or the reason why there are none."""

    atoms: str
    volume: float = float("nan")

    @property
    def read(self) -> bool:
        return self.volume == self.volume

    def same(self, other: Found) -> bool:
        return self.atoms == other.atoms and abs(self.volume - other.volume) <= SAME_VOLUME * self.volume


def ours(path: Path) -> Found:
    """Read with this package."""
    crystals: CrystalBatch = read_dataset(path, reduce=False, limit=1).crystals
    numbers = crystals.species[: int(crystals.n_atoms[0])].tolist()
    return Found(_spell(gemmi.Element(z).name for z in numbers), float(crystals.cell[0].double().det().abs()))


def by_pymatgen(path: Path) -> Found:
    """Read with pymatgen."""
    from pymatgen.io.cif import CifParser

    structure = CifParser.from_str(_text(path)).parse_structures(primitive=False)[0]
    if not structure.is_ordered:
        return Found("disordered")
    return Found(_spell(gemmi.Element(site.specie.Z).name for site in structure), structure.volume)


def by_ase(path: Path) -> Found:
    """Read with ASE."""
    from ase.io.cif import read_cif

    atoms = next(iter(read_cif(StringIO(_text(path)), slice(0, 1))))
    occupancies = atoms.info.get("occupancy") or {}
    if any(abs(sum(share.values()) - 1) > 1e-2 or len(share) > 1 for share in occupancies.values()):
        return Found("disordered")
    return Found(_spell(atoms.get_chemical_symbols()), atoms.get_volume())


def by_gemmi(path: Path) -> Found:
    """Read with gemmi's reader of small structures."""
    document = gemmi.cif.read_string(_text(path).replace("\r\n", "\n").replace("\r", "\n"), 0)
    block = next(block for block in document if block.find_values("_atom_site_label"))
    structure = gemmi.make_small_structure_from_block(block)
    sites = structure.get_all_unit_cell_sites()
    if any(abs(site.occ - 1) > 1e-2 for site in sites):
        return Found("disordered")
    return Found(_spell(gemmi.Element(site.element.atomic_number).name for site in sites), structure.cell.volume)


READERS: dict[str, Callable[[Path], Found]] = {"ours": ours, "pymatgen": by_pymatgen, "ase": by_ase, "gemmi": by_gemmi}


def read_all(path: Path) -> dict[str, Found]:
    """Read a file with every reader."""
    return {name: _bounded(reader, path) for name, reader in READERS.items()}


def _bounded(reader: Callable[[Path], Found], path: Path) -> Found:
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(path)
    except Exception as error:  # noqa: BLE001 - whatever a reader raises is its answer
        return Found(" ".join(f"{type(error).__name__}: {error}".split())[:MOST_TEXT].replace(str(path), path.name))
    finally:
        signal.alarm(0)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def _text(path: Path) -> str:
    return decode(path.read_bytes(), lenient=True)


def _spell(symbols: Any) -> str:
    return " ".join(f"{symbol}{n}" for symbol, n in sorted(Counter(symbols).items()))


def verdict(found: dict[str, Found]) -> str:
    """Compare this package's result with those of the others."""
    mine, others = found["ours"], [other for name, other in found.items() if name != "ours"]
    read = [other for other in others if other.read]
    if not mine.read:
        return "refused by all" if not read else "disordered" if "disordered" in mine.atoms else "refused here"
    if not read:
        return "read here alone"
    agree = sum(mine.same(other) for other in read)
    return "agrees with all" if agree == len(read) else "agrees with some" if agree else "agrees with none"


def main() -> int:
    """Read the files, print the differences and how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--table", type=Path, help="write one line per file to this .tsv")
    parser.add_argument("--files", type=int, help="only this many, spread over the folder")
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in (".cif", ".mcif"))
    if arguments.files:
        paths = [paths[int(i)] for i in np.linspace(0, len(paths) - 1, arguments.files)]
    rows, counts = [], Counter[str]()
    with multiprocessing.Pool(1, maxtasksperchild=200) as pool:
        for path, found in zip(paths, pool.imap(read_all, paths), strict=True):
            kind = verdict(found)
            counts[kind] += 1
            cells = [f"{f.atoms} | {f.volume:.1f}" if f.read else f"- {f.atoms}" for f in found.values()]
            rows.append([str(path.relative_to(arguments.folder)), kind, *cells])
            if kind in ("agrees with some", "agrees with none", "refused here"):
                answers = [f"  {name:9}{cell[:200]}" for name, cell in zip(found, cells, strict=True)]
                print("\n".join([f"{rows[-1][0]}: {kind}", *answers]), flush=True)
    if arguments.table:
        with arguments.table.open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([["file", "verdict", *READERS], *rows])
    print("\n".join(f"{n:6} {kind}" for kind, n in counts.most_common()), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
