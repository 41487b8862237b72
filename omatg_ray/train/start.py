"""How a pretraining starts: from the weights of a model, and with a warm-up."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from omatg_ray.config import Config
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ConfigError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import PretrainSettings
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.run.location import as_base


@dataclass(frozen=True)
class Start:
    """What a pretraining run starts from.

    Attributes:
        weights: Weights of the network; None: random ones.
        base: Distribution of x_0 that the weights belong to; None: one fitted to the crystals.
    """

    weights: dict[str, Tensor] | None = None
    base: BaseDistribution | None = None

    def base_for(self, crystals: CrystalBatch, settings: PretrainSettings) -> BaseDistribution:
        """Return the distribution of x_0 for training on some crystals."""
        return self.base or BaseDistribution.fit(crystals, settings.lattices)


def take_start(config: Config) -> tuple[Config, Start]:
    """Return the configuration with network and paths of the model in `pretrain.start`, and what is taken over from it.

    Without such a model, the configuration is returned as it is. A pairing belongs to training and may be another one;
    a `separation`, which starts without effect, may be added.

    Raises:
        ConfigError: The model is reinforced, generates species or has paths that are not trained here; or the
            configuration asks for another network, other paths or other lattices than the model has.
        ModelError: As `FlowModel.load`.
    """
    settings = config.pretrain
    if settings.start is None:
        return config, Start()
    model = FlowModel.load(as_base(settings.start))
    what, default = model.description, PretrainSettings()
    if what.active:
        raise ConfigError(f"pretrain.start: {settings.start} is reinforced; start from the base that it was made of")
    try:
        what.paths.refuse_untrainable()
    except ValueError as error:
        raise ConfigError(f"pretrain.start: the paths of {settings.start} are not trained here: {error}") from error
    paths = what.paths.model_copy(update={"pairing": settings.paths.pairing or what.paths.pairing})
    asked, plain = (path.model_copy(update={"pairing": paths.pairing}) for path in (settings.paths, default.paths))
    network, weights = what.network, model.base_network.state_dict()
    if settings.network == network.model_copy(update={"separation": True}) != network:
        network = settings.network
        # New parts have no effect before they are trained.
        weights = CSPNet(network).state_dict() | weights
    if settings.network not in (default.network, network):
        raise ConfigError(
            "pretrain.network: pretrain.start decides it, apart from a separation that is new; set it to null, or "
            "train without a start"
        )
    if asked not in (plain, paths):
        raise ConfigError(
            "pretrain.paths: pretrain.start decides them, apart from their pairing; leave them out, or train without a "
            "start"
        )
    if settings.lattices not in (default.lattices, what.base_distribution.cell.kind):
        raise ConfigError(
            f"pretrain.lattices: those of {settings.start} start otherwise ({what.base_distribution.cell.kind}); leave "
            "it out, or train without a start"
        )
    taken = {"network": network, "paths": paths}
    config = config.model_copy(update={"pretrain": settings.model_copy(update=taken)})
    return config, Start(weights, what.base_distribution)


def warn_of_warmup(settings: PretrainSettings, crystals: int) -> None:
    """Warn if a run ends before its learning rate has risen to what was asked for."""
    updates = settings.epochs * math.ceil(crystals / settings.batch_size)
    if updates < settings.warmup_steps:
        warnings.warn(
            f"all of this run is warm-up: {crystals:,} crystals in batches of {settings.batch_size} for "
            f"{settings.epochs} epochs are {updates} updates, and the learning rate rises for pretrain.warmup_steps="
            f"{settings.warmup_steps}; lower that, or raise pretrain.epochs",
            stacklevel=3,
        )
