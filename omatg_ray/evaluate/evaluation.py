"""Evaluation of a sampler: one crystal per reference, matched and weighed against it and its polymorphs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.evaluate.bench import BLOCK, Bench, Block, Comparisons, Measured
from omatg_ray.evaluate.metrics import (
    CSPMetrics,
    capped_relative_energies,
    crmse,
    energy_mean,
    invalid_share,
    match_rate,
    relative_energy_mean,
    relative_energy_mean_capped,
    relative_energy_median,
    rmse,
)
from omatg_ray.evaluate.polymorphs import Polymorphs
from omatg_ray.evaluate.unique import find_unique
from omatg_ray.model import CHUNK_PAIRS, EULER, FlowModel, NoiseMode, Solver
from omatg_ray.policy.annealing import Annealing, describe
from omatg_ray.reward.matching import compositions
from omatg_ray.reward.validity import check_validity
from omatg_ray.run.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a sampler on a data set, and what they were computed from, row by row.

    Attributes:
        metrics: Summary.
        ids: Identity of every reference.
        crystals: Generated crystals, one per reference.
        valid: (n,) bool.
        match: RMSE to the reference, NaN where there is no match (n,), and everywhere where species are generated.
        polymorph: Id of the polymorph that each matches most closely (n,), None where there is none (`CSPMetrics` says
            what a polymorph is); None if no row has any.
        lowest_polymorph: Id of the polymorph of lowest energy of each (n,), likewise; None without a potential too.
        energy: eV/atom, NaN where invalid (n,); None without a potential.
        relative_energy: Energy over that of the reference (n,), likewise; NaN too where the compositions differ.
        relative_energy_capped: The same with invalid crystals and higher energies at the cap (n,), likewise; NaN where
            the potential failed.
        settings: Label, steps, noise, seed, annealing, potential: what was asked for.
    """

    metrics: CSPMetrics
    ids: list[str]
    crystals: CrystalBatch
    valid: Tensor
    match: Tensor
    polymorph: list[str | None] | None
    lowest_polymorph: list[str | None] | None
    energy: Tensor | None
    relative_energy: Tensor | None
    relative_energy_capped: Tensor | None
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; NaN becomes None."""
        per_structure: dict[str, Any] = {
            "id": self.ids,
            "formula": self.crystals.formulas(),
            "valid": self.valid.tolist(),
            "rmse": _plain(self.match),
        }
        if self.polymorph is not None:
            per_structure["polymorph"] = self.polymorph
        if self.lowest_polymorph is not None:
            per_structure["lowest_polymorph"] = self.lowest_polymorph
        for name, values in (
            ("energy_per_atom", self.energy),
            ("relative_energy", self.relative_energy),
            ("relative_energy_capped", self.relative_energy_capped),
        ):
            if values is not None:
                per_structure[name] = _plain(values)
        return {**self.settings, "metrics": self.metrics.as_dict(), "per_structure": per_structure}


def _plain(values: Tensor) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]


class Evaluator:
    """Evaluates samplers on one data set, always from the same seed: x_0 and noise of a row never change.

    A generated crystal is compared with the reference of its row, and with all other crystals of the data set that have
    the same atoms in their cells (`Polymorphs`), also those that a limit leaves out. Of a model that generates species
    it is compared with nothing (`CSPMetrics` says what is measured instead).

    Args:
        references: One crystal is generated for each, with its atoms.
        bench: Generates and measures; without a potential there are structure metrics only.
        seed: Seed of x_0 and noise.
        limit: Use at most so many of them, spread over the data set; a crystal keeps the seed of its row there.
        chunk_pairs: Ordered pairs of atoms per network call.
        block: Crystals generated, matched and weighed together.
    """

    def __init__(
        self,
        references: CrystalDataset,
        bench: Bench,
        seed: int,
        limit: int | None = None,
        chunk_pairs: int = CHUNK_PAIRS,
        block: int = BLOCK,
    ) -> None:
        self._rows = spread_rows(len(references), limit)
        self._known, self.references = references, references.select(self._rows)
        self.bench, self.seed, self.chunk_pairs, self._block = bench, seed, chunk_pairs, block
        crystals = self.references.crystals
        self._species = [z.tolist() for z in crystals.species.split(crystals.layout.sizes)]
        self._blocks = torch.arange(len(crystals)).split(block)
        self._polymorphs = Polymorphs(references.crystals, self._rows)
        self._pairs = [self._compared(rows.tolist()) for rows in self._blocks]

    def _compared(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Pairs (place in a block, row of the data set): first every row's reference, then the other polymorphs."""
        own = [(place, self._rows[row]) for place, row in enumerate(rows)]
        polymorphs = self._polymorphs.of_row
        return own + [(i, known) for i, reference in own for known in polymorphs[rows[i]] if known != reference]

    @cached_property
    def reference_energy(self) -> Tensor | None:
        """Energies of the references (n,) in eV/atom; None without a potential."""
        if self.bench.reward is None:
            return None
        crystals = self.references.crystals
        return torch.cat(list(self.bench.weigh([crystals.select(rows) for rows in self._blocks])))

    @cached_property
    def _lowest(self) -> list[int | None] | None:
        """Lowest polymorph of every row by its place in the data set; None without polymorphs or a potential."""
        if self.reference_energy is None or not self._polymorphs.n_polymorphic:
            return None
        crystals = self._known.crystals
        energy = dict(zip(self._rows, self.reference_energy.tolist(), strict=True))
        others = sorted({known for places in self._polymorphs.of_row for known in places} - energy.keys())
        batches = [others[start : start + self._block] for start in range(0, len(others), self._block)]
        for batch, found in zip(batches, self.bench.weigh([crystals.select(batch) for batch in batches]), strict=True):
            energy.update(zip(batch, found.tolist(), strict=True))
        return self._polymorphs.lowest(energy)

    def __call__(
        self,
        model: FlowModel,
        steps: int,
        noise: NoiseMode = "none",
        schedule: Annealing | None = None,
        label: str = "",
        progress: bool = False,
        solver: Solver = EULER,
    ) -> Evaluation:
        """Generates and measures.

        Args:
            model: Sampler.
            steps: Grid points; steps − 1 network evaluations.
            noise: Without noise or with the policy's.
            schedule: Annealing in place of the model's own.
            label: What tables, reports and the progress bar call this evaluation.
            progress: Show a progress bar.
            solver: As in `FlowModel.generate`.
        """
        done: list[Measured] = []
        open_species = model.generates_species
        with Progress(len(self.references), label or "evaluate", shown=progress) as bar:
            for measured in self.bench.measure(model, self._asked(steps, noise, schedule, solver, not open_species)):
                done.append(measured)
                bar.advance(steps=len(measured.crystals))
        crystals = CrystalBatch.cat(one.crystals for one in done)
        valid = check_validity(crystals).valid
        energy = reference = None
        if self.reference_energy is not None:
            energy, reference = torch.cat([one.energy for one in done if one.energy is not None]), self.reference_energy
        metrics = CSPMetrics(n=len(crystals), invalid_share=invalid_share(valid))
        rmse_of_row, closest = torch.full((len(crystals),), torch.nan, dtype=torch.float64), None
        if open_species:
            theirs = compositions(self.references.crystals)
            same = torch.tensor([a == b for a, b in zip(compositions(crystals), theirs, strict=True)])
            reference = None if reference is None else reference.where(same, torch.nan)
            metrics = replace(metrics, same_composition=int(same.sum()), **self._open_metrics(crystals, energy, valid))
        else:
            matches = [one.match for one in done if one.match]
            rmse_of_row = torch.cat([match.rmse[: len(one.crystals)] for one, match in zip(done, matches, strict=True)])
            closest = self._closest([match.rmse for match in matches])
            metrics = replace(
                metrics,
                match_rate=match_rate(rmse_of_row),
                rmse=rmse(rmse_of_row),
                crmse=crmse(rmse_of_row, self.bench.stol),
                timed_out=sum(match.timed_out for match in matches),
                failed=sum(match.failed for match in matches),
                **self._polymorph_metrics(closest),
            )
        metrics = replace(metrics, **self._energy_metrics(energy, reference, valid))
        relative = capped = None
        if energy is not None and reference is not None and self.bench.reward is not None:
            relative, cap = energy - reference, self.bench.reward.invalid_energy
            capped = capped_relative_energies(energy, reference, valid, cap)
        annealing, reward = model.annealing if schedule is None else schedule, self.bench.reward
        settings = {
            "label": label,
            "steps": steps,
            "network_evaluations": steps - 1,
            "noise": noise,
            "solver": solver,
            "seed": self.seed,
            "annealing": describe(annealing),
            "potential": None if reward is None else reward.potential.name,
        }
        return Evaluation(
            metrics=metrics,
            ids=self.references.ids,
            crystals=crystals,
            valid=valid,
            match=rmse_of_row,
            polymorph=self._names(closest),
            lowest_polymorph=None if open_species else self._names(self._lowest),
            energy=energy,
            relative_energy=relative,
            relative_energy_capped=capped,
            settings=settings,
        )

    def _asked(
        self, steps: int, noise: NoiseMode, schedule: Annealing | None, solver: Solver, compared: bool
    ) -> list[Block]:
        """What the bench is to generate and, if it is to compare, with what."""
        return [
            Block(
                species=[self._species[row] for row in rows],
                indices=[self._rows[row] for row in rows],
                steps=steps,
                noise=noise,
                schedule=schedule,
                seed=self.seed,
                comparisons=Comparisons.among(self._known.crystals, pairs) if compared else None,
                chunk_pairs=self.chunk_pairs,
                solver=solver,
            )
            for rows, pairs in zip(self._blocks, self._pairs, strict=True)
        ]

    def _closest(self, rmse_of_pairs: Sequence[Tensor]) -> list[int | None] | None:
        """Closest polymorph of every row by its place in the data set; None if no row has any.

        Args:
            rmse_of_pairs: RMSE of the pairs of every block.
        """
        if not self._polymorphs.n_polymorphic:
            return None
        found: list[dict[int, float]] = [{} for _ in self._rows]
        for rows, pairs, values in zip(self._blocks, self._pairs, rmse_of_pairs, strict=True):
            for (place, known), value in zip(pairs, values.tolist(), strict=True):
                if not math.isnan(value):
                    found[int(rows[place])][known] = value
        return self._polymorphs.closest(found)

    def _polymorph_metrics(self, closest: Sequence[int | None] | None) -> dict[str, Any]:
        if closest is None:
            return {}
        return {
            "match_any": self._polymorphs.match_any(closest),
            "match_lowest": None if self._lowest is None else self._polymorphs.match_lowest(closest, self._lowest),
            "n_polymorphic": self._polymorphs.n_polymorphic,
        }

    def _energy_metrics(self, energy: Tensor | None, reference: Tensor | None, valid: Tensor) -> dict[str, Any]:
        if self.bench.reward is None or reference is None or energy is None:
            return {}
        cap = self.bench.reward.invalid_energy
        return {
            "relative_energy_mean": relative_energy_mean(energy, reference, valid),
            "relative_energy_median": relative_energy_median(energy, reference, valid),
            "relative_energy_mean_capped": relative_energy_mean_capped(energy, reference, valid, cap),
        }

    @staticmethod
    def _open_metrics(crystals: CrystalBatch, energy: Tensor | None, valid: Tensor) -> dict[str, Any]:
        """What says something of crystals whose species were generated too."""
        unique = valid[find_unique(crystals).representatives]
        return {
            "energy_mean": None if energy is None else energy_mean(energy, valid),
            "unique_share": int(unique.sum()) / len(crystals),
        }

    def _names(self, places: Sequence[int | None] | None) -> list[str | None] | None:
        """Ids of crystals of the data set by their places in it."""
        return None if places is None else [None if place is None else self._known.ids[place] for place in places]


def spread_rows(total: int, limit: int | None) -> list[int]:
    """At most `limit` rows of `total`, spread evenly, always the same ones."""
    return [row * total // limit for row in range(limit)] if limit is not None and limit < total else list(range(total))
