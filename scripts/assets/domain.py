#!/usr/bin/env python
"""Write what the bundled base and potential were trained on into assets that lack it; weights stay as they are.

python scripts/assets/domain.py

The base: the training split of the bundled crystals. The potential: the same crystals, of which strained, rattled,
swapped, random and generated copies have the same compositions (`label.py`), and the decorated prototypes of further
compositions (`label_decorated.py`), as many as `build` asks for. Which of these were left out since atoms overlap, or
since the energy is too high, is not known any more; they count here. `pretrain` and `adopt.py` write the same.
"""

from __future__ import annotations

import json

from label_decorated import further_candidates
from prototypes import PROTOTYPES
from pymatgen.core import Element

from omatg_ray.assets import crystals, root, seal
from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
from omatg_ray.crystal.read import read_dataset
from omatg_ray.run.atomic import write_text
from omatg_ray.run.checkpoints import DESCRIPTION_FILE
from omatg_ray.run.location import PROTOTYPES as OF_PROTOTYPES

DECORATED = 10_000  # candidates that `build` has labelled: `label_decorated.py --limit`


def main() -> None:
    """Write and seal both."""
    base, potential = root(OF_PROTOTYPES) / "base", root(OF_PROTOTYPES) / "potential"
    described = json.loads((base / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    described["domain"] = of_base().model_dump(mode="json")
    write_text(base / DESCRIPTION_FILE, json.dumps(described, indent=1) + "\n")
    write_text(potential / DOMAIN_FILE, of_potential().model_dump_json(indent=1) + "\n")
    for folder in (base, potential):
        seal(folder)


def of_base() -> Domain:
    """Return the domain of the training split."""
    return Domain.of(read_dataset(crystals("train", OF_PROTOTYPES)).crystals)


def of_potential() -> Domain:
    """Return the domain of what the potential was distilled on."""
    return Domain.of(
        [*read_dataset(crystals("train", OF_PROTOTYPES)).crystals.atomic_numbers, *decorated()], sized=False
    )


def decorated() -> list[list[int]]:
    """Return the atomic numbers of the decorated prototypes that the potential was distilled on."""
    contents = {name: prototype.contents() for name, prototype in PROTOTYPES.items()}
    return [
        [Element(symbol).Z for role, symbol in one.elements for _ in range(contents[one.prototype][role])]
        for one in further_candidates()[:DECORATED]
    ]


if __name__ == "__main__":
    main()
