from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.backend import Assessed, Block, EvaluationBackend, Measured, Relaxation, Spent
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.search.loop import ASKED, SearchLoop, Work
from omatg_ray.search.sampler import FixedSampler

CELLS = {"NaCl": [[11, 17], [11, 11, 17, 17]], "MgO": [[12, 8]], "KBr": [[19, 35]]}
WORK = Work(Sampling(4), relax=9, batch=2, block=3)
MOST = 31


@dataclass
class Backend:
    """Cubes whose energies are their edges, written down in the order in which they are asked for.

    Attributes:
        edges: Edge in Å by identity of the crystal.
        steps: Relaxation steps of each crystal.
        unfinished: Identities of crystals that do not rest; the others then rest at once.
        begun: Blocks in the order in which they were handed over.
        made: The same, in the order in which they were made.
    """

    edges: dict[int, float] = field(default_factory=dict)
    steps: int = 9
    unfinished: Sequence[int] | None = None
    begun: list[Block] = field(default_factory=list)
    made: list[Block] = field(default_factory=list)

    def measure(self, _: FlowModel, blocks: Sequence[Block]) -> Iterator[Measured]:
        self.begun += blocks
        return map(self._measured, blocks)

    def _measured(self, block: Block) -> Measured:
        self.made.append(block)
        edges = torch.tensor([self.edges.get(index, 6.0 + index / 100) for index in block.indices]).double()
        crystals = cubes(block.species, edges)
        steps, rests = torch.full_like(edges, self.steps), torch.ones(len(edges), dtype=torch.bool)
        if self.unfinished is not None:
            rests = torch.tensor([index not in self.unfinished for index in block.indices])
            steps = steps.where(~rests, 0.0)
        relaxed = Relaxation(crystals, edges, None, steps, rests, 0.0)
        return Measured(crystals, Spent(0.0, 0.0), Assessed(edges, None, relaxed=relaxed if block.relax else None))


class Recording(FixedSampler):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__(cast(FlowModel, None), 7)
        self.taken: list[list[float]] = []
        self.events: list[str] = []

    def take(self, crystals: CrystalBatch, energy: torch.Tensor) -> None:
        assert len(crystals) == len(energy)
        self.taken.append(energy.tolist())
        self.events.append("take")

    def learn(self) -> None:
        self.events.append("learn")


def cubes(species: Sequence[Sequence[int]], edges: torch.Tensor) -> CrystalBatch:
    """Cubes with atoms along their diagonals."""
    sizes = [len(numbers) for numbers in species]
    pos = torch.cat([torch.arange(n)[:, None].expand(n, 3) / n for n in sizes]).double()
    atoms = torch.tensor([number for numbers in species for number in numbers])
    return CrystalBatch(atoms, pos, edges[:, None, None] * torch.eye(3).double(), torch.tensor(sizes))


def search(names: Sequence[str] = ("NaCl", "MgO", "KBr"), second: Any = None) -> tuple[SearchLoop, Recording]:
    sampler = Recording()
    return SearchLoop({name: CELLS[name] for name in names}, sampler, WORK, second), sampler


def run(loop: SearchLoop, backend: Backend, **limits: Any) -> Iterator[Any]:
    return loop.run(cast(EvaluationBackend, backend), **limits)


def formulas(blocks: Sequence[Block]) -> list[str]:
    of = {11: "NaCl", 12: "MgO", 19: "KBr"}
    return [of[numbers[0]] for block in blocks for numbers in block.species]


def test_formulas_work_in_two_shifts_and_one_round_is_always_on_its_way() -> None:
    loop, sampler = search()
    backend = Backend()
    rounds = run(loop, backend)
    next(rounds)
    assert formulas(backend.made) == ["NaCl", "NaCl", "KBr", "KBr"]
    assert formulas(backend.begun[len(backend.made) :]) == ["MgO", "MgO"]
    assert sampler.events == ["take"], "it learns after its state was kept"
    next(rounds)
    assert sampler.events == ["take", "learn", "take"]
    assert formulas(backend.made) == ["NaCl", "NaCl", "KBr", "KBr", "MgO", "MgO"]
    # The next round of the first two was begun with what it has learned from them, before the other ended.
    assert len(backend.begun) > len(backend.made)
    assert [len(block.species) for block in backend.made] == [3, 1, 2], "blocks of three at most"


def test_samples_take_turns_with_the_cells_and_identities_are_their_own() -> None:
    loop, _ = search()
    backend = Backend()
    rounds = run(loop, backend)
    for _ in range(4):
        next(rounds)
    indices = [index for block in backend.made for index in block.indices]
    assert len(set(indices)) == len(indices) == 12
    of_salt = [
        (len(numbers), turn)
        for block in backend.made
        for numbers, turn in zip(block.species, block.turns or (), strict=True)
        if numbers[0] == 11
    ]
    assert sorted(of_salt) == [(2, 0), (2, 1), (4, 0), (4, 1)]


@pytest.mark.parametrize("steps, samples", [(9, 8), (0, 24)])
def test_a_budget_is_never_exceeded_and_what_relaxations_leave_is_used(steps: int, samples: int) -> None:
    """A sample takes 1 + 3 · (steps + 1) evaluations: 31 or 4. What is on its way may take the most."""
    loop, _ = search()
    course = [loop.evaluations for _ in run(loop, Backend(steps=steps), evaluations=8 * MOST)]
    assert course[-1] <= 8 * MOST
    done = sum(each.samples for each in loop.courses.values())
    assert done >= samples and loop.evaluations == done * (1 + 3 * (steps + 1))
    assert 8 * MOST - loop.evaluations < MOST


def test_it_ends_when_nothing_better_comes_for_any_formula() -> None:
    loop, sampler = search()
    backend = Backend({2 * 3: 4.0})  # the third sample of NaCl is the best
    rounds = [{name: course.samples for name, course in courses.items()} for courses in run(loop, backend, patience=4)]
    # The first sample of the others stays the best; rounds have two samples of each.
    assert rounds[-1] == {"NaCl": 8, "MgO": 6, "KBr": 6}
    assert loop.courses["NaCl"].best == pytest.approx(4.0) and loop.courses["NaCl"].at == 3
    assert sampler.events.count("learn") == len(rounds)


def test_one_formula_learns_from_a_round_before_the_next_begins() -> None:
    loop, sampler = search(["NaCl"])
    backend = Backend()
    rounds = run(loop, backend)
    for number in range(1, 4):
        next(rounds)
        assert len(backend.begun) == len(backend.made) == number
        assert sampler.events == ["take", *["learn", "take"] * (number - 1)]


def test_only_what_is_new_is_learned_from() -> None:
    loop, sampler = search(["MgO"])
    rounds = run(loop, Backend({0: 6.0, 1: 5.0, 2: 6.0, 3: 4.999}))
    next(rounds)
    next(rounds)
    assert sampler.taken == [[6.0, 5.0], [pytest.approx(4.999)]], "a copy as such says nothing new; a lower one does"
    assert sorted(loop.archive.all.count.tolist()) == [2, 2]


class Second:
    """Another potential, by which the smallest cubes, 1.5 eV/atom below all others by the first, lie 0.2 above."""

    asked = 0

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        self.asked += len(crystals)
        edges = crystals.cell[:, 0, 0]
        energy = torch.where(edges < 4.0, 5.2, edges.clamp(max=5.1)).where(edges < 9.0, torch.nan)
        return RewardResult(-energy, {"energy_per_atom": energy})


def test_a_second_potential_keeps_holes_of_the_first_from_leading() -> None:
    second = Second()
    work = Work(Sampling(4), relax=9, batch=12, block=64)
    sampler = Recording()
    loop = SearchLoop({"MgO": CELLS["MgO"]}, sampler, work, cast(MatGLEnergy, second))
    edges = {index: 5.0 + 0.1 * index for index in range(12)} | {3: 3.5, 4: 9.5}
    next(run(loop, Backend(edges)))
    (taken,) = sampler.taken
    assert second.asked == ASKED == len(taken), "the lowest by the first"
    assert max(taken) == pytest.approx(5.2), "a hole, however deep, lies a little above the true lowest"
    assert min(taken) == pytest.approx(5.0)
    assert loop.courses["MgO"].best == pytest.approx(3.5), "what was found is by the first"


def test_an_energy_that_the_second_potential_lacks_is_not_learned_from() -> None:
    sampler = Recording()
    loop = SearchLoop({"MgO": CELLS["MgO"]}, sampler, WORK, cast(MatGLEnergy, Second()))
    next(run(loop, Backend({0: 9.5, 1: 5.05})))
    assert sampler.taken == [[pytest.approx(5.05)]]


def test_samples_without_an_energy_count_as_invalid() -> None:
    loop, sampler = search(["MgO"])
    backend = Backend({0: torch.nan, 1: 6.0})
    next(run(loop, backend))
    course = loop.courses["MgO"]
    assert (course.samples, course.invalid, course.at, course.best) == (2, 1, 2, 6.0)
    assert course.evaluations == MOST, "what is no crystal is not relaxed"
    assert sampler.taken == [[6.0]]


def test_every_sample_keeps_what_belongs_to_it() -> None:
    """Cells of two sizes are relaxed size by size, and are given back in the order of the plan."""
    work = Work(Sampling(4), relax=9, batch=5, block=2)
    sampler = Recording()
    loop = SearchLoop({"NaCl": CELLS["NaCl"]}, sampler, work)
    backend = Backend({0: 5.0, 1: 6.4, 2: 5.2, 3: 6.2, 4: 5.4}, unfinished=(2, 3))
    next(run(loop, backend))
    assert {block.seed for block in backend.made} == {7}
    assert [len(numbers) for block in backend.made for numbers in block.species] == [2, 2, 2, 4, 4]
    found = loop.archive.all
    of_sample = dict(zip(found.first.tolist(), range(5), strict=True))
    for sample, (edge, atoms) in enumerate([(5.0, 2), (6.4, 4), (5.2, 2), (6.2, 4), (5.4, 2)]):
        row = of_sample[sample + 1]
        assert float(found.energy[row]) == pytest.approx(edge) == float(found.crystals.cell[row, 0, 0])
        assert int(found.crystals.n_atoms[row]) == atoms
        assert bool(found.converged[row]) == (sample not in (2, 3))
    # Those that do not rest have taken all steps, the others none.
    assert loop.evaluations == 5 * 4 + 2 * 3 * 9


def test_formulas_that_are_left_share_the_shifts() -> None:
    loop, _ = search()
    for name in ("MgO", "KBr"):
        loop.courses[name].at = -(2**40)
    loop.courses["KBr"].at = 0
    backend = Backend()
    rounds = run(loop, backend, patience=2**30)
    for _ in range(4):
        next(rounds)
    assert len(backend.begun) > len(backend.made), "one works while the sampler learns from the other"
    assert set(formulas(backend.made)) == {"NaCl", "KBr"}


def test_a_smaller_budget_holds_for_rounds_that_were_begun() -> None:
    loop, _ = search()
    rounds = run(loop, Backend())
    next(rounds)
    rounds.close()
    spent = loop.evaluations
    assert [len(plan) for plan in loop.plans] == [2]
    for _ in run(loop, Backend(), evaluations=spent + MOST):
        pass
    assert loop.evaluations == spent + MOST


def test_a_search_that_has_ended_learns_no_more() -> None:
    loop, sampler = search()
    rounds = sum(1 for _ in run(loop, Backend(), evaluations=8 * MOST))
    for _ in range(2):
        assert not list(run(loop, Backend(), evaluations=8 * MOST))
    assert sampler.events.count("learn") == rounds


def test_what_ends_a_round_early_is_not_counted_twice() -> None:
    class Breaking(Backend):
        broken = False

        def _measured(self, block: Block) -> Measured:
            if len(self.made) == 2 and not self.broken:
                self.broken = True
                raise KeyboardInterrupt
            return super()._measured(block)

    loop, sampler = search()
    backend = Breaking()
    with pytest.raises(KeyboardInterrupt):
        list(run(loop, backend, evaluations=12 * MOST))
    list(run(loop, backend, evaluations=12 * MOST))
    assert sum(course.samples for course in loop.courses.values()) == 12
    assert loop.archive.all.count.sum() == 12 and len(set(loop.archive.all.energy.tolist())) == len(loop.archive)
    assert sampler.events.count("learn") == sampler.events.count("take")


def test_what_the_caller_does_between_rounds_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("omatg_ray.search.loop.time.perf_counter", lambda: now[0])
    loop, _ = search(["MgO"])
    rounds = run(loop, Backend())
    next(rounds)
    now[0] += 100.0
    next(rounds)
    assert loop.courses["MgO"].seconds == 0.0
