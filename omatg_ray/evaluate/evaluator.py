"""Evaluation of a sampler: crystals for every reference, compared with it and its polymorphs by match and energy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.domain import Trained, judge
from omatg_ray.crystal.validity import check_validity
from omatg_ray.evaluate.backend import Block, Comparisons, EvaluationBackend, Measured
from omatg_ray.evaluate.compositions import ByComposition, covered
from omatg_ray.evaluate.domain import trained_on
from omatg_ray.evaluate.evaluation import AfterRelaxation, Evaluation, Started, spread_rows
from omatg_ray.evaluate.metrics import CSPMetrics, after_relaxation, energy_quantiles, energy_rows, match_rows, mean
from omatg_ray.evaluate.polymorphs import Polymorphs
from omatg_ray.evaluate.relaxation import require_relaxable
from omatg_ray.evaluate.rewards import column_of, reward_rows
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.evaluate.unique import find_unique
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import UNGUIDED, Sampling
from omatg_ray.policy.schedule import describe
from omatg_ray.policy.settings import CHUNK_PAIRS
from omatg_ray.reward.matching import MatchResult, compositions
from omatg_ray.seeding import seed_of


@dataclass(frozen=True)
class _Compared:
    """Crystals of an evaluation, compared with their references.

    Attributes:
        rows: Rows whose means are metrics: (n,), or one for each reference.
        others: The other metrics.
        rmse: RMSE to the reference (n,), NaN where there is no match.
        closest: Closest polymorph, as row of the data set (n,); None if there are no polymorphs.
        energy: eV/atom (n,); None without a potential.
        relative: The same relative to the reference (n,), likewise.
    """

    rows: dict[str, Tensor]
    others: dict[str, Any]
    rmse: Tensor
    closest: list[int | None] | None
    energy: Tensor | None
    relative: Tensor | None


class Evaluator:
    """Evaluator of samplers on one data set, always from the same seed: x_0 and noise of a row never change.

    A generated crystal is compared with the reference of its row, and with all other crystals of the data set that have
    the same atoms in their cells (`Polymorphs`), including those that `limit` leaves out. If the model generates
    species, nothing is compared (`CSPMetrics` says what is measured instead).

    Args:
        references: Known crystals; one crystal is generated for each, with its atoms.
        backend: Generates and measures; without a potential there are only structure metrics.
        seed: Seed of x_0 and noise.
        limit: Largest number of references to use, spread over the data set; a crystal keeps the seed of its row there.
        chunk_pairs: Ordered pairs of atoms per network call.
        block: Crystals generated, matched and weighed together.
        samples: Crystals generated per reference. The first has x_0 and noise of `seed`, whatever their number; each of
            the others has a seed of its own that is derived from it.
        workers: Processes that find equal crystals among several samples; 0 uses this one.
        timeout: Seconds that one of these comparisons may take.
        reward_key: Says which reward the backend measures, if it measures one; results of others are not compared.
        relax: Most steps of relaxing every generated crystal, after which all is measured once more; 0 does not.

    Attributes:
        known: The whole data set, including what `limit` leaves out.

    Raises:
        ConfigError: Crystals are to be relaxed, and there is no potential.
    """

    def __init__(
        self,
        references: CrystalDataset,
        backend: EvaluationBackend,
        seed: int,
        limit: int | None = None,
        chunk_pairs: int = CHUNK_PAIRS,
        block: int = BLOCK,
        samples: int = 1,
        workers: int = 0,
        timeout: float = 10.0,
        reward_key: str | None = None,
        relax: int = 0,
    ) -> None:
        require_relaxable(relax, backend.energy)
        self._rows = spread_rows(len(references), limit)
        self.known, self.references = references, references.select(self._rows)
        self.backend, self.seed, self.chunk_pairs, self._block = backend, seed, chunk_pairs, block
        self.samples, self._workers, self.timeout = samples, workers, timeout
        self.reward_key, self.relax = reward_key, relax
        crystals = self.references.crystals
        self._species = crystals.atomic_numbers
        self._blocks = torch.arange(len(crystals)).split(block)
        self._polymorphs = Polymorphs(references.crystals, self._rows)
        self._pairs = [self._list_pairs(rows.tolist()) for rows in self._blocks]

    def _list_pairs(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        """List pairs (index in the block, row of the data set): first every row's reference, then other polymorphs."""
        own = [(index, self._rows[row]) for index, row in enumerate(rows)]
        polymorphs = self._polymorphs.of_row
        return own + [(i, known) for i, reference in own for known in polymorphs[rows[i]] if known != reference]

    @cached_property
    def reference_energy(self) -> Tensor | None:
        """Energies of the references (n,) in eV/atom; None without a potential."""
        if self.backend.energy is None:
            return None
        crystals = self.references.crystals
        return torch.cat(list(self.backend.weigh([crystals.select(rows) for rows in self._blocks])))

    @cached_property
    def _lowest(self) -> list[int | None] | None:
        """Lowest polymorph of every row, as row of the data set; None without polymorphs or a potential."""
        if self.reference_energy is None or not self._polymorphs.n_polymorphic:
            return None
        crystals = self.known.crystals
        energy = dict(zip(self._rows, self.reference_energy.tolist(), strict=True))
        others = sorted({known for polymorphs in self._polymorphs.of_row for known in polymorphs} - energy.keys())
        batches = [others[start : start + self._block] for start in range(0, len(others), self._block)]
        for batch, energies in zip(
            batches, self.backend.weigh([crystals.select(batch) for batch in batches]), strict=True
        ):
            energy.update(zip(batch, energies.tolist(), strict=True))
        return self._polymorphs.lowest(energy)

    @cached_property
    def _by_composition(self) -> ByComposition:
        return ByComposition.of(self.references.compositions)

    def __call__(self, model: FlowModel, sampling: Sampling, label: str = "", progress: bool = False) -> Evaluation:
        """Generate and measure crystals.

        Args:
            model: Sampler.
            sampling: Settings of the sampler.
            label: Name of this evaluation in tables, reports and the progress bar.
            progress: Whether to show a progress bar.
        """
        return self.start(model, sampling, label).finish(progress)

    def start(self, model: FlowModel, sampling: Sampling, label: str = "") -> Started:
        """Start an evaluation, which actors continue while another one finishes; arguments as for the call."""
        blocks, reward = self._plan_blocks(sampling, not model.generates_species), self.backend.energy
        settings = {
            "label": label,
            "steps": sampling.steps,
            "network_evaluations": sampling.steps - 1,
            "noise": sampling.noise,
            "solver": sampling.solver,
            "seed": self.seed,
            "samples": self.samples,
            "annealing": describe(sampling.schedule_of(model)),
            "potential": None if reward is None else reward.potential.name,
            "domain_of": self.domain_of(model),
            **({"relax": self.relax} if self.relax else {}),
            **({} if sampling.guidance == UNGUIDED else {"guidance": list(sampling.guidance)}),
        }
        open_species, domain = model.generates_species, self.judge(model)
        sum_up = partial(self.evaluation, settings=settings, open_species=open_species, domain=domain)
        return Started(self.backend.measure(model, blocks), len(self.references) * self.samples, label, sum_up)

    def judge(self, model: FlowModel) -> list[str]:
        """Say of every reference whether it is in the domain of a model and the potential (`judge`)."""
        trained = self._trained(model)
        return [judge(trained, cell) for cell in self._species]

    def domain_of(self, model: FlowModel) -> list[str]:
        """Return who says what it was trained on, of a model and the potential."""
        return ["the model" if one.is_model else one.who for one in self._trained(model) if one.domain is not None]

    def _trained(self, model: FlowModel) -> list[Trained]:
        return trained_on({"": model}, [self.backend.energy])

    def evaluation(
        self, done: Sequence[Measured], settings: dict[str, Any], open_species: bool, domain: list[str]
    ) -> Evaluation:
        """Combine the blocks of an evaluation.

        Args:
            done: All blocks that `start` requested, measured.
            settings: Settings to record with the evaluation.
            open_species: Whether species were generated.
            domain: What `judge` says of every reference.
        """
        crystals = CrystalBatch.cat(block.crystals for block in done)
        valid, found = check_validity(crystals).valid, [block.found for block in done]
        unique = self._unique(crystals, valid) if open_species or self.samples > 1 else None
        matches, energies = [one.match for one in found], [one.energy for one in found]
        generated = self._compare(crystals, valid, energies, matches, unique, open_species)
        rows, others = {"invalid_share": (~valid).double()} | generated.rows, generated.others
        by_composition = self._by_composition
        if open_species and unique is not None:
            others["unique_share"] = mean(unique)
        elif unique is not None:
            by_composition = by_composition.with_sums("unique_structures", unique.double())
            others["unique_structures"] = float(by_composition.totals["unique_structures"].sums.mean())
        if generated.relative is not None:
            by_composition = by_composition.with_medians(generated.rows["relative_energy_mean"])
        relaxations = [one.relaxed for one in found if one.relaxed is not None]
        relaxed = processor = None
        if relaxations:
            after, steps = CrystalBatch.cat(one.crystals for one in relaxations), [one.steps for one in relaxations]
            matches, energies = [one.match for one in relaxations], [one.energy for one in relaxations]
            # A relaxation turns no invalid crystal into a valid one, nor the reverse.
            again = self._compare(after, valid, energies, matches, None, open_species)
            rows |= after_relaxation(again.rows) | {"relaxed_steps": torch.cat(steps)}
            others |= after_relaxation(again.others)
            assert again.energy is not None
            assert again.relative is not None
            relaxed = AfterRelaxation(
                crystals=after,
                match=again.rmse,
                polymorph=self._look_up_ids(again.closest),
                energy=again.energy,
                relative_energy=again.relative,
                relative_energy_capped=again.rows["relative_energy_mean_capped"],
                steps=torch.cat(steps),
            )
            processor = sum(block.generation.processor for block in done) + sum(one.processor for one in relaxations)
        rewards = reward_rows([one.reward for one in found if one.reward is not None])
        means = {name: mean(values) for name, values in rows.items() if not name.startswith("coverage_at")}
        return Evaluation(
            metrics=CSPMetrics(**{"n": len(crystals)} | means | others),
            ids=self.references.ids * self.samples,
            crystals=crystals,
            valid=valid,
            match=generated.rmse,
            polymorph=self._look_up_ids(generated.closest),
            lowest_polymorph=None if open_species else self._look_up_ids(self._lowest, self.samples),
            energy=generated.energy,
            relative_energy=generated.relative,
            relative_energy_capped=rows.get("relative_energy_mean_capped"),
            settings=settings,
            by_composition=by_composition.with_rows(
                rows | {column_of(name): values for name, values in rewards.items()}
            ),
            seconds=0.0,
            generation_seconds=sum(block.generation.seconds for block in done),
            domain=domain * self.samples,
            recalled=rows.get("metre"),
            rewards=rewards,
            relaxed=relaxed,
            processor_seconds=processor,
        )

    def _compare(
        self,
        crystals: CrystalBatch,
        valid: Tensor,
        energies: Sequence[Tensor | None],
        matches: Sequence[MatchResult | None],
        unique: Tensor | None,
        open_species: bool,
    ) -> _Compared:
        """Compare crystals with their references.

        Args:
            crystals: Crystals of all blocks, generated or relaxed (n).
            valid: Which are valid (n,).
            energies: eV/atom by block; None without a potential.
            matches: Of the pairs of every block; None if nothing is compared.
            unique: Which are valid and equal to no earlier one (n,); None if that is not measured.
            open_species: Whether species were generated.
        """
        energy = reference = None
        if self.reference_energy is not None:
            energy = torch.cat([one for one in energies if one is not None])
            reference = self.reference_energy.repeat(self.samples)
        # Means of rows, and the other metrics.
        rows, others = dict[str, Tensor](), dict[str, Any]()
        rmse_of_row, closest = torch.full((len(crystals),), torch.nan, dtype=torch.float64), None
        if open_species:
            theirs = compositions(self.references.crystals) * self.samples
            same = torch.tensor([a == b for a, b in zip(compositions(crystals), theirs, strict=True)])
            reference = None if reference is None else reference.where(same, torch.nan)
            others = {
                "same_composition": int(same.sum()),
                "energy_mean": None if energy is None else mean(energy.where(valid & energy.isfinite(), torch.nan)),
            }
        else:
            found = [match for match in matches if match is not None]
            sizes = [len(own) for own in self._blocks] * self.samples
            rmse_of_row = torch.cat([match.rmse[:size] for match, size in zip(found, sizes, strict=True)])
            matched = self._collect_matches([match.rmse for match in found])
            of_polymorphs: dict[str, Tensor] = {}
            if self._polymorphs.n_polymorphic:
                # Every crystal's closest polymorph, as row of the data set.
                closest = [known for part in self._by_sample(matched) for known in self._polymorphs.closest(part)]
                of_polymorphs = self._polymorph_rows(closest)
            of_samples = {name: map(mean, self._by_sample(values)) for name, values in of_polymorphs.items()}
            others = {name: sum(means) / self.samples for name, means in of_samples.items()} | {
                "n_polymorphic": self._polymorphs.n_polymorphic or None,
                "timed_out": sum(match.timed_out for match in found),
                "failed": sum(match.failed for match in found),
            }
            rows |= match_rows(rmse_of_row, self.backend.stol) | of_polymorphs
            recalled = self._recall(matched)
            if not bool(recalled.isnan().all()):
                rows["metre"] = recalled
            if self.samples > 1:
                hits = (~rmse_of_row.isnan()).view(self.samples, -1).sum(0)
                at = [covered(hits, self.samples, k) for k in range(1, self.samples + 1)]
                rows["coverage"] = at[-1]
                if unique is not None:
                    rows["unique_share"] = unique.double()
                rows |= {f"coverage_at_{k}": values for k, values in enumerate(at[:-1], start=1)}
                others["coverage_at"] = list(map(mean, at))
        relative = None
        if energy is not None and reference is not None and self.backend.energy is not None:
            of_energies = energy_rows(energy, reference, valid, self.backend.energy.invalid_energy)
            relative = energy - reference
            rows |= of_energies
            others |= energy_quantiles(of_energies["relative_energy_mean"])
        return _Compared(rows, others, rmse_of_row, closest, energy, relative)

    def _plan_blocks(self, sampling: Sampling, compared: bool) -> list[Block]:
        """Plan the blocks to generate and, if `compared`, the crystals to compare them with; sample by sample."""
        seeds = [self.seed, *(seed_of(self.seed, "sample", number) for number in range(1, self.samples))]
        # Where a reference begins is random, since rows at equal distances could all have the same turn.
        first = [seed_of(self.seed, "turn", row) for row in self._rows]
        return [
            Block(
                species=[self._species[row] for row in rows],
                indices=[self._rows[row] for row in rows],
                sampling=sampling,
                seed=seed,
                comparisons=Comparisons.among(self.known.crystals, pairs) if compared else None,
                chunk_pairs=self.chunk_pairs,
                relax=self.relax,
                turns=[first[row] + number for row in rows],
            )
            for number, seed in enumerate(seeds)
            for rows, pairs in zip(self._blocks, self._pairs, strict=True)
        ]

    def _collect_matches(self, rmse_of_pairs: Sequence[Tensor]) -> list[dict[int, float]]:
        """Collect the matches of every generated crystal: RMSE by row of the known crystal in the data set.

        Args:
            rmse_of_pairs: RMSE of the pairs of every block of every sample.
        """
        matches: list[dict[int, float]] = [{} for _ in range(len(self._rows) * self.samples)]
        blocks = [
            (number * len(self._rows), rows, pairs)
            for number in range(self.samples)
            for rows, pairs in zip(self._blocks, self._pairs, strict=True)
        ]
        for (first, rows, pairs), values in zip(blocks, rmse_of_pairs, strict=True):
            for (index, known), value in zip(pairs, values.tolist(), strict=True):
                if not math.isnan(value):
                    matches[first + int(rows[index])][known] = value
        return matches

    def _by_sample(self, values: Any) -> Iterator[Any]:
        """Iterate over the rows of each sample, of a list or a tensor."""
        n = len(self._rows)
        return (values[first : first + n] for first in range(0, len(values), n))

    def _polymorph_rows(self, closest: Sequence[int | None]) -> dict[str, Tensor]:
        """Return which crystals match a polymorph, and which the lowest; NaN where there are no polymorphs."""
        has = torch.tensor([bool(polymorphs) for polymorphs in self._polymorphs.of_row]).repeat(self.samples)
        matched = torch.tensor([known is not None for known in closest])
        rows = {"match_any": matched.double().where(has, torch.nan)}
        if self._lowest is not None:
            pairs = zip(closest, self._lowest * self.samples, strict=True)
            right = torch.tensor([known is not None and known == lowest for known, lowest in pairs])
            rows["match_lowest"] = right.double().where(has, torch.nan)
        return rows

    def _recall(self, matches: Sequence[dict[int, float]]) -> Tensor:
        """Return 1 for references (references,) that any crystal matches, else 0; NaN with too many polymorphs."""
        matched = {known for match in matches for known in match}
        recalled = torch.tensor([float(row in matched) for row in self._rows], dtype=torch.float64)
        return recalled.where(~torch.tensor(self._polymorphs.crowded), torch.nan)

    def _unique(self, crystals: CrystalBatch, valid: Tensor) -> Tensor:
        """Return which crystals are valid and represent all that are equal to them (n,)."""
        clusters = find_unique(crystals, workers=self._workers, timeout=self.timeout)
        unique = torch.zeros(len(crystals), dtype=torch.bool)
        unique[clusters.representatives] = True
        return unique & valid

    def _look_up_ids(self, rows: Sequence[int | None] | None, times: int = 1) -> list[str | None] | None:
        """Look up the ids of rows of the data set, and repeat the list `times` times."""
        return None if rows is None else [None if row is None else self.known.ids[row] for row in rows] * times
