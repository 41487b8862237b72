"""`scripts/benchmarks`: what they count, and that they run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT

CONFIG = ROOT / "configs" / "bundled_velocity.yaml"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts" / "benchmarks"), *sys.path])


def test_products_are_counted_with_their_sizes_in_both_directions() -> None:
    """For y = x W, its sum differentiated: forward (3, 4)(4, 5); backward Wᵀ's and x's gradient."""
    from products import Product, flops, products

    x, weight = torch.rand(3, 4, requires_grad=True), torch.rand(4, 5, requires_grad=True)
    found = products(lambda: (x @ weight).sum().backward())
    assert found == Counter({Product(1, 3, 4, 5): 1, Product(1, 4, 3, 5): 1, Product(1, 3, 5, 4): 1})
    assert flops(found) == 3 * 2 * 3 * 4 * 5
    batched = products(lambda: torch.baddbmm(torch.zeros(7, 2, 3), torch.rand(7, 2, 5), torch.rand(7, 5, 3)))
    assert batched == Counter({Product(7, 2, 5, 3): 1})


def test_products_that_autocast_lowers_are_counted_as_such_in_both_directions() -> None:
    from products import Product, products, seconds_alone

    x, weight = torch.rand(3, 4, requires_grad=True), torch.rand(4, 5, requires_grad=True)

    def lowered() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            y = x @ weight
        y.float().sum().backward()

    sizes, low = ((3, 4, 5), (4, 3, 5), (3, 5, 4)), torch.bfloat16
    found = products(lowered)
    assert found == Counter({Product(1, *size, low): 1 for size in sizes})
    assert seconds_alone(found, torch.device("cpu"), "wall", repeats=1) > 0


def test_products_of_the_fused_messages_are_counted_in_both_directions() -> None:
    """One crystal of 3 atoms: 3 pairs, 9 edges; of the precision of what atoms give."""
    from products import Product, products

    from omatg_ray.crystal.batch import Layout
    from omatg_ray.flow.messages import mean_message

    hidden, waves, low = 5, 7, torch.bfloat16
    atoms = [torch.rand(3, hidden, dtype=low, requires_grad=True) for _ in range(2)]
    angles, split = [torch.rand(3, waves, dtype=low) for _ in range(2)], [torch.rand(hidden, waves) for _ in range(2)]
    weight, bias = torch.rand(hidden, hidden), torch.rand(hidden)
    layout = Layout(torch.tensor([3]))
    found = products(lambda: mean_message(layout.edges, *atoms, *angles, *split, weight, bias).float().sum().backward())
    assert found == Counter(
        {
            Product(1, 3, waves, hidden, low): 2,  # sines and cosines
            Product(1, 9, hidden, hidden, low): 2,  # the second layer, and the gradient of what goes in
            Product(1, hidden, 9, hidden, low): 1,  # of its weights
            Product(1, hidden, 3, waves, low): 2,  # of those of sines and cosines
        }
    )


def test_every_stage_can_be_measured() -> None:
    from stages import STAGES, Setting, measure
    from workload import Size

    threads = torch.get_num_threads()
    size = Size(atoms=4, groups=1, members=2, steps=3, epochs=1)
    setting = Setting(repeats=1, threads=threads)
    rows = {stage: measure(stage, setting, size) for stage in STAGES}
    assert all(row.seconds > 0 for row in rows.values())
    # Two structures; two steps.
    assert (
        rows["network"].evaluations == 2 and rows["rollout"].evaluations == rows["update, one epoch"].evaluations == 4
    )
    # The frozen lattice follows the base network, so that a rollout evaluates two; x_0 needs none.
    network = rows["network"].flops
    assert rows["rollout"].flops == pytest.approx(2 * 2 * network, rel=0.01)
    assert rows["x_0 and noise"].flops == 0
    # Backward passes need no gradient of the distance features: less than three times the products of the forward pass.
    assert 2 * network < rows["network, backward too"].flops < 3 * network
    assert str(rows["network"]).startswith("network ")
    lowered = replace(size, precision="bfloat16")
    for stage in ("network", "network, backward too"):
        row = measure(stage, setting, lowered)
        assert row.flops == rows[stage].flops
        assert "bfloat16" in str(row)


def test_cases_differ_from_the_first_in_one_thing() -> None:
    import argparse

    from stages import cases
    from workload import Size

    options = argparse.Namespace(
        atoms=[5, 20], groups=[8], members=[16, 64], steps=[50], precision=["float32", "bfloat16"]
    )
    assert cases(options) == [
        Size(5, 8, 16, 50, 1),
        Size(20, 8, 16, 50, 1),
        Size(5, 8, 64, 50, 1),
        Size(5, 8, 16, 50, 1, "bfloat16"),
    ]


def test_a_case_is_computed_in_its_precision() -> None:
    """Its trajectories, and what learns from them."""
    from stages import Case, Setting
    from workload import Size

    size = Size(atoms=4, groups=1, members=2, steps=3, epochs=1)
    first, second = (Case(Setting(), replace(size, precision=precision)) for precision in ("float32", "bfloat16"))
    start = first.start(first.item(3))
    rolled = [case.rolled(*start, 3) for case in (first, second)]
    assert [trajectory.precision for trajectory in rolled] == ["float32", "bfloat16"]
    exact, coarse = (trajectory.displacement["pos"] for trajectory in rolled)
    assert not torch.equal(exact, coarse)
    torch.testing.assert_close(exact, coarse, atol=0.02, rtol=0.0)


def test_without_the_official_implementation_it_is_said_what_is_missing(tmp_path: Path) -> None:
    from official import OfficialMissing, import_official

    with pytest.raises(OfficialMissing, match="holds no omg/omg_irl"):
        import_official(tmp_path)
    (tmp_path / "omg" / "omg_irl").mkdir(parents=True)
    (tmp_path / "omg" / "__init__.py").touch()
    (tmp_path / "omg" / "omg_irl" / "__init__.py").write_text("import torch_scatter_that_nobody_has")
    with pytest.raises(OfficialMissing, match="torch_scatter_that_nobody_has.*mace-torch"):
        import_official(tmp_path)
    sys.modules.pop("omg", None)


@pytest.mark.parametrize(("precision", "diversity"), [("float32", 0.0), ("bfloat16", 0.5)])
def test_an_iteration_is_that_of_the_trainer(precision: str, diversity: float) -> None:
    """The benchmark's iteration learns what `Trainer` with a `LocalTrainingBackend` learns, weight by weight."""
    from workload import Iterations, Size, compositions, learner, plan, reinforced

    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.reward.protocol import RewardResult
    from omatg_ray.rl.backend import LocalTrainingBackend
    from omatg_ray.rl.settings import AdvantageSettings, RolloutSettings
    from omatg_ray.rl.trainer import Trainer

    class Volume:
        name, elements = "volume", None

        def __call__(self, crystals):  # type: ignore[no-untyped-def]
            return RewardResult(-crystals.cell.det().abs().double(), {})

    size = Size(atoms=4, groups=2, members=3, steps=3, epochs=2, precision=precision)
    advantage = AdvantageSettings(shaping="none", diversity_weight=diversity)
    first, second = (reinforced(FlowModel.load("bundled-prototypes"), ["pos", "cell"]) for _ in range(2))
    learns, other = (learner(model, 1e-3, 2) for model in (first, second))
    iterations = Iterations(first, learns, Volume(), "wall", advantage, distances=diversity > 0)
    done = iterations.iterate(plan(size, 0, groups_per_item=1))
    crew = LocalTrainingBackend(other, second, Volume())
    settings = RolloutSettings(groups=2, group_size=3, steps=3, precision=precision)
    metrics = Trainer(settings, compositions(4), advantage, crew, seed=0, total=1).step()
    assert done.reward_mean == pytest.approx(metrics["reward_mean"])
    for ours, theirs in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    before = FlowModel.load("bundled-prototypes").network.coord_out.weight
    assert not torch.equal(first.network.coord_out.weight, before)


SMALL = ["rollout={groups: 2, group_size: 3, steps: 6, groups_per_item: 1}", "workers=0", "threads=1"]


def test_every_way_sets_all_shortcuts_whatever_the_configuration_says() -> None:
    from shortcuts import ways

    from omatg_ray.config import Config

    taken = ["rollout.precision=bfloat16", "rollout.learn_from={transitions: 4, kind: random}"]
    found = {}
    for name, words in ways(2).items():
        config = Config.load(CONFIG, [*taken, *words])
        some = config.rollout.learn_from
        found[name] = (config.rollout.precision, None if some is None else (some.kind, some.transitions))
    assert found == {
        "plain": ("float32", None),
        "bfloat16": ("bfloat16", None),
        "window of 2": ("float32", ("window", 2)),
        "2 random steps": ("float32", ("random", 2)),
        "window of 2, bfloat16": ("bfloat16", ("window", 2)),
    }


@pytest.mark.long
def test_a_way_does_the_iterations_of_its_configuration() -> None:
    """Weight by weight those of `Trainer` with the crew of a run in one process."""
    from shortcuts import Way, ways

    from omatg_ray.config import Config
    from omatg_ray.rl.trainer import Trainer
    from omatg_ray.train.backend import local_training
    from omatg_ray.train.build import build_run

    config = Config.load(CONFIG, [*SMALL, *ways(2)["window of 2, bfloat16"]])
    parts = build_run(config)
    way = Way(config, parts, "wall")
    crew = local_training(config, parts)
    trainer = Trainer(config.rollout, parts.compositions, config.advantage, crew, config.seed, config.iterations)
    for iteration in range(2):
        assert way.iterate(iteration).reward_mean == pytest.approx(trainer.step()["reward_mean"])
    for ours, theirs in zip(way.model.learned.parameters(), parts.model.learned.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.long
def test_shortcuts_are_compared_with_the_plain_way(capsys: pytest.CaptureFixture[str]) -> None:
    from shortcuts import main

    main([*SMALL, "--iterations", "2", "--learn-from", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["iteration 1", "iteration 2"]
    assert lines[2].split() == ["way", "rollout", "reward", "learn", "iteration", "ratio"]
    assert len(lines) == 3 + 5 and all(float(line.split()[-1]) > 0 for line in lines[3:])
    assert lines[3].startswith("plain ") and lines[3].endswith(" 1.00")


def test_what_a_configuration_cannot_do_is_said_in_a_line() -> None:
    from shortcuts import main

    with pytest.raises(SystemExit, match=r"^error: (.|\n)*learn_from.transitions = 10"):
        main([*SMALL, "--learn-from", "10"])


@pytest.mark.processes
@pytest.mark.long
def test_busy_and_quiet_iterations_are_compared_with_the_runtime_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from busy import CASES, main

    name = next(iter(CASES))
    main(["--rounds", "1", "--busy", "1", "--case", name, "--waiting", "GOMP_SPINCOUNT=1000", *SMALL])
    heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split()[-5:] == ["busy", "longest", "busy/quiet", "quiet,", "ratio"]
    assert [row.removeprefix(name).strip().rsplit(maxsplit=5)[0] for row in rows] == [
        "the runtime's", "the package's", "GOMP_SPINCOUNT=1000"
    ]  # fmt: skip
    assert all(float(number) > 0 for row in rows for number in row.split()[-5:])
    assert rows[0].endswith(" 1.000")


def held(mebibytes: int) -> tuple[float, float]:
    """MiB that this process holds at present and held at the most beyond what it held before, while it held some."""
    from apart import peak, resident

    before = resident()
    # Written to, as memory that is only asked for is not resident.
    torch.ones(mebibytes * 2**18)
    return resident() - before, peak(torch.device("cpu")) - before


@pytest.mark.long
def test_a_process_of_its_own_tells_its_own_peak() -> None:
    """What an earlier one needed does not count."""
    from apart import apart

    now, most = zip(*apart(held, [(256,), (64,)]), strict=True)
    assert max(now) < 32
    assert 256 <= most[0] < 300 and 64 <= most[1] < 110


def test_trajectories_that_are_made_up_can_be_learned_from() -> None:
    from memory import Setting, made_up, mebibytes, new_policy
    from workload import Size, objective

    from omatg_ray.crystal.lattice import volume
    from omatg_ray.flow.settings import NetworkSettings
    from omatg_ray.rl.learner import Learner
    from omatg_ray.rl.settings import LearnerSettings

    torch.manual_seed(0)
    size = Size(atoms=3, groups=2, members=4, steps=5, epochs=1)
    network = NetworkSettings(hidden=8, layers=1, frequencies=2, time_features=8)
    policy = new_policy(Setting(size, network, ("pos", "cell")))
    trajectory = made_up(size, policy)
    assert len(trajectory) == 8 and trajectory.n_steps == 4
    assert trajectory.log_prob["pos"].shape == (4, 24) and trajectory.log_prob["cell"].shape == (4, 8)
    # Positions, displacements and densities in float32, atomic numbers in int64.
    atoms, structures = 24 * (4 * (3 + 4 * 3 + 4) + 8), 8 * 4 * (9 + 4 * 9 + 4)
    assert mebibytes(trajectory) == pytest.approx((atoms + structures) / 2**20)
    assert trajectory.final().cell.isfinite().all() and (volume(trajectory.x_0.cell) / 3 > 5).all()
    # It refuses what is not finite.
    metrics = Learner(policy, objective(0.0), LearnerSettings(epochs=1)).update(trajectory, torch.linspace(-1, 1, 8))
    assert metrics["grad_norm"] > 0


def test_memory_is_measured_of_what_was_asked_for() -> None:
    from memory import Setting, measure
    from workload import Size

    from omatg_ray.flow.settings import NetworkSettings

    network = NetworkSettings(hidden=64, layers=2, frequencies=4, time_features=8)
    setting = Setting(Size(atoms=4, groups=2, members=8, steps=3, epochs=1), network, ("pos", "cell"))
    few, many, low = (
        measure(setting, "update", pairs, precision)
        for pairs, precision in ((40, "float32"), (10_000, "float32"), (10_000, "bfloat16"))
    )
    # Of 16 structures with 16 pairs each over 2 steps: two at one step, and all at all.
    assert (few.pairs, many.pairs, low.pairs) == (32, 512, 512)
    # Both SiLUs of both layers, forward, keep what they got.
    assert many.kept > 512 * 64 * 2 * 2 * 4 / 2**20 and many.kept > low.kept and many.kept > few.kept
    rolled = measure(setting, "rollout", 2, "float32")
    assert rolled.pairs == 256 and rolled.kept == 0


def test_the_largest_that_fits_is_named() -> None:
    from memory import Row, largest

    rows = [
        Row("update", 4000, "float32", 4000, 1.0, 100.0, 1000.0),
        Row("update", 16_000, "float32", 16_000, 1.0, 200.0, 2000.0),
        Row("update", 16_000, "bfloat16", 16_000, 1.0, 100.0, 1900.0),
        Row("rollout", 1, "float32", 25_600, 0.0, 2000.0, 4000.0),
    ]
    assert largest(rows, 1.9) == [
        "largest tried under 1.9 GiB in float32: update, microbatch_pairs=4000",
        "largest tried under 1.9 GiB in bfloat16: update, microbatch_pairs=16000",
        "largest tried under 1.9 GiB in float32: rollout: none",
    ]


@pytest.mark.long
def test_memory_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from memory import main

    rows = ["--microbatch-pairs", "100", "--groups-per-item", "--precision", "float32"]
    size = ["--atoms", "4", "--groups", "2", "--members", "2", "--steps", "3"]
    main([*rows, *size, "--hidden", "8", "--layers", "1", "--frequencies", "2", "--time-features", "8"])
    lines = capsys.readouterr().out.splitlines()
    # Four cells of 4 atoms over 2 steps.
    assert "0.0 M ordered pairs" in lines[0] and lines[0].endswith("parameters")
    assert lines[3].startswith("update, microbatch_pairs=100 ")
    assert lines[4:] == ["largest tried under 8 GiB in float32: update, microbatch_pairs=100"]


def test_all_ways_to_evaluate_the_network_are_the_same() -> None:
    import torch
    from network import ways_of

    from omatg_ray.crystal.batch import CrystalBatch
    from omatg_ray.flow.settings import NetworkSettings

    generator = torch.Generator().manual_seed(0)
    cells = 4 * torch.eye(3) + 0.3 * torch.randn(3, 3, 3, generator=generator)
    crystals = CrystalBatch(
        torch.randint(1, 90, (12,), generator=generator),
        torch.rand(12, 3, generator=generator),
        cells,
        torch.full((3,), 4),
    )
    settings = NetworkSettings(hidden=16, layers=2, frequencies=4, time_features=8)
    ways = ways_of(settings, crystals, torch.rand(3, generator=generator), compile_too=False)
    found = {name: way().detach() for name, way in ways.items()}
    assert set(found) == {"plain", "factorised", "fused", "bfloat16"}
    for name, bound in (("factorised", 1e-5), ("fused", 1e-5), ("bfloat16", 2e-2)):
        torch.testing.assert_close(found[name], found["plain"], atol=bound, rtol=1e-4)
    assert not torch.equal(found["bfloat16"], found["plain"])


@pytest.mark.long
def test_large_cells_are_measured_with_every_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import large_cells

    from omatg_ray.flow.settings import NetworkSettings

    monkeypatch.setattr("sys.argv", ["large_cells.py", "--atoms", "3", "--crystals", "2", "--hidden", "8"])
    large_cells.main()
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == row.count("|") == len(large_cells.NETWORKS) + 2
    assert row.startswith("| 3 | ") and row.count("ms") == row.count("MiB") == len(large_cells.NETWORKS)
    assert large_cells.model_of(NetworkSettings(hidden=8, neighbors=2)).description.network.neighbors == 2


@pytest.mark.long
def test_a_search_of_waiting_actors_takes_the_time_that_they_wait() -> None:
    words = [
        "--formulas",
        "6",
        "--batch",
        "8",
        "--rollouts",
        "1",
        "--rewards",
        "2",
        "--generate",
        "0.01",
        "--rounds",
        "2",
    ]
    words += ["--relax", "0.3", "--learn", "0.5"]
    script = ROOT / "scripts" / "benchmarks" / "search.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=250, check=True)
    first, *rows = done.stdout.splitlines()
    assert first == "6 formulas, 2 reward actors on 4 nodes, ideal 0.9 s"
    found = [
        re.fullmatch(r"shifts: (\d), a round of all formulas ([\d.]+) s, reward actors idle ([\d.]+)", row)
        for row in rows
    ]
    seconds = {int(row[1]): float(row[2]) for row in found if row}
    assert seconds.keys() == {1, 2} and min(seconds.values()) >= 0.8
    assert seconds[1] >= 0.9 + 0.5 - 0.1, "in one shift they wait while the sampler learns"


@pytest.mark.long
def test_actors_that_wait_stand_in_for_all_roles() -> None:
    """They are told what actors are told, so what these are told may not change without them."""
    script = ROOT / "scripts" / "benchmarks" / "control_plane.py"
    done = subprocess.run(
        [sys.executable, script, "--workers", "1"], capture_output=True, text=True, timeout=250, check=True
    )
    assert "1 + 1 " in done.stdout
