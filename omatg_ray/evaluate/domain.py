"""What the model and the potentials of a command were trained on, and a warning about what lies outside."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

from omatg_ray.crystal.domain import Trained, report_outside
from omatg_ray.model.checks import training_of, warn_unfamiliar
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy


def trained_on(models: Mapping[str, FlowModel], energies: Iterable[MatGLEnergy | None]) -> list[Trained]:
    """Return the domain of each model, by its name, and of each potential.

    If all models generate species, the elements that the potentials will meet are open too.
    """
    of_models = [training_of(model, name) for name, model in models.items()]
    potentials = [energy.potential for energy in energies if energy is not None]
    open_species = bool(of_models) and all(model.open_species for model in of_models)
    return [
        *of_models,
        *(Trained(f"potential {p.name}", p.domain, open_species=open_species) for p in potentials),
    ]


def warn_outside(
    models: Mapping[str, FlowModel], trained: Sequence[Trained], cells: Sequence[Sequence[int]], noun: str
) -> None:
    """Warn, once, of cells outside of what models and potentials were trained on.

    Of an older model, which knows no more than its elements and sizes, warn of these.

    Args:
        models: The models, by name.
        trained: As `trained_on` returns it.
        cells: Atomic numbers of each cell. For models that generate species only how many there are counts.
        noun: What the cells are, in the plural.
    """
    outside = report_outside(trained, cells, noun)
    if outside:
        warnings.warn(
            f"outside of the training data: {outside}. Check such results with another potential or DFT", stacklevel=2
        )
    for model in models.values():
        if model.description.domain is None:
            elements = frozenset() if model.generates_species else frozenset(z for cell in cells for z in cell)
            warn_unfamiliar(model, elements, frozenset(map(len, cells)))
