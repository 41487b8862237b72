"""Metrics of a run that the report shows, grouped into pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from omatg_ray.evaluate.metrics import CAPPED
from omatg_ray.report.plots import Curve, Panel
from omatg_ray.reward.settings import ENERGY


def _losses(title: str, suffix: str) -> Panel:
    shown = (
        Curve("pretrain", f"loss{suffix}", "training", smooth=True),
        Curve("pretrain", f"val_loss{suffix}", "validation"),
    )
    return Panel(title, shown, "loss", xlabel="epoch", log=True)


def _of_fields(metric: str, smooth: bool = False) -> tuple[Curve, ...]:
    names = (("pos", "positions"), ("cell", "cell"))
    return tuple(Curve("train", f"{metric}_{field}", label, smooth=smooth) for field, label in names)


PRETRAINING = (
    _losses("Pretraining loss", ""),
    _losses("Pretraining loss of positions", "_pos"),
    _losses("Pretraining loss of cells", "_cell"),
    Panel("Learning rate", (Curve("pretrain", "lr", "learning rate"),), "learning rate", xlabel="epoch"),
)

REINFORCEMENT = (
    Panel(
        "Reward",
        (Curve("train", "reward_mean", "mean", spread="reward_std", smooth=True),),
        "reward",
        "Mean over an iteration's rollouts; the band is one standard deviation.",
    ),
    Panel(
        "Energy of the rollouts",
        (Curve("train", "energy_median", "median", smooth=True),),
        "energy (eV/atom)",
        "Median of the valid structures; every iteration has other compositions. The mean, which single crystals with "
        "overlapping atoms dominate, is energy_mean in metrics.jsonl.",
    ),
    Panel(
        "Relative energy on validation, capped mean",
        (Curve("validation", "relative_energy_mean_capped", "capped mean"),),
        "relative energy (eV/atom)",
        f"{CAPPED} If the energy alone is rewarded, the best checkpoint has the lowest capped mean, unless "
        "validation.best names something else.",
        marks_best=True,
    ),
    Panel(
        "Relative energy on validation, median",
        (Curve("validation", "relative_energy_median", "median of valid"),),
        "relative energy (eV/atom)",
        "Of the valid structures, not capped. Their mean, which single crystals dominate, is relative_energy_mean in "
        "metrics.jsonl.",
        marks_best=True,
    ),
    Panel(
        "Reward on validation",
        (Curve("validation", "reward_mean", "mean"),),
        "reward",
        "If more than the energy is rewarded, or species are generated, the best checkpoint has the highest mean, "
        "unless validation.best names something else.",
        marks_best=True,
    ),
    Panel(
        "Invalid structures",
        (
            Curve("train", "invalid_share", "rollouts", smooth=True),
            Curve("validation", "invalid_share", "validation"),
            Curve("train", "failed_share", "failed rewards"),
        ),
        "share",
        percent=True,
    ),
    Panel("Match rate on validation", (Curve("validation", "match_rate", "match rate"),), "match rate", share=True),
    Panel(
        "RMSE on validation",
        (Curve("validation", "rmse", "RMSE, matched"), Curve("validation", "crmse", "cRMSE, all")),
        "RMSE / (V/N)$^{1/3}$",
    ),
    Panel("Clipped ratios", _of_fields("clip_fraction", smooth=True), "share", percent=True, optional=True),
    Panel("KL to the base", _of_fields("kl", smooth=True), "KL divergence (nats)", optional=True),
    Panel(
        "Reward gradients above their limit",
        (Curve("train", "gradient_limited", "limited", smooth=True),),
        "share of the crystals",
        "Gradients that were scaled down to objective.reward_gradient.limit. They become rarer as crystals end closer "
        "to the bottom of their basins.",
        percent=True,
        optional=True,
    ),
    Panel(
        "Error of the matched flow",
        _of_fields("matching", smooth=True),
        "squared error",
        "Of the velocities on paths to training crystals: fractional units squared for positions, Å² for cells.",
        log=True,
        optional=True,
    ),
    Panel(
        "Noise of the policy",
        _of_fields("sigma"),
        "mean σ of the steps",
        "Fractional units for positions, Å for cells; for an annealing policy, in units of its schedule.",
        optional=True,
    ),
    Panel(
        "Diversity of the rollouts",
        (Curve("train", "diversity", "within groups", smooth=True),),
        "distance",
        "Mean distance between radial distribution functions within the groups of an iteration.",
        optional=True,
    ),
    Panel(
        "Agreement with the second potential",
        (Curve("train", "second_rank_correlation", "within groups", smooth=True),),
        "rank correlation",
        "1: both potentials rank the crystals of a group alike. The second one never enters the reward.",
        optional=True,
    ),
    Panel(
        "Shift against the second potential",
        (Curve("train", "second_shift", "mean", smooth=True),),
        "energy (eV/atom)",
        "How much better the rewarded potential finds crystals than the second one does; growth is a sign of reward "
        "hacking.",
        optional=True,
    ),
)


def rewards(weights: Mapping[str, float], logged: Iterable[str] = ()) -> tuple[Panel, ...]:
    """Return a panel for each part of a sum of rewards, and for each value behind one; none for the energy alone.

    Args:
        weights: Weights of the parts by name.
        logged: Names of all metrics of the run.
    """
    if weights.keys() <= {ENERGY}:
        return ()
    of_parts = [
        Panel(
            f"Reward: {name}",
            _both(name),
            "reward",
            f"Weight {weight:g}." if weight else "Weight 0: only monitored.",
        )
        for name, weight in weights.items()
    ]
    found = (re.fullmatch(r"reward_(.+)_mean", metric) for metric in dict.fromkeys(logged))
    names = [match[1] for match in found if match is not None and match[1] not in weights]
    return (*of_parts, *(Panel(f"Behind the reward: {name}", _both(name), name, optional=True) for name in names))


def _both(name: str) -> tuple[Curve, ...]:
    metric = f"reward_{name}_mean"
    return Curve("train", metric, "rollouts", smooth=True), Curve("validation", metric, "validation")
