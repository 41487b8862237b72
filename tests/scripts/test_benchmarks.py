"""`scripts/benchmarks`: what they count, and that they run."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT


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


def test_cases_differ_from_the_first_in_one_thing() -> None:
    import argparse

    from stages import cases
    from workload import Size

    options = argparse.Namespace(atoms=[5, 20], groups=[8], members=[16, 64], steps=[50])
    assert cases(options) == [Size(5, 8, 16, 50, 1), Size(20, 8, 16, 50, 1), Size(5, 8, 64, 50, 1)]


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


def test_an_iteration_is_that_of_the_trainer() -> None:
    """The benchmark's iteration learns what `Trainer` with a `LocalCrew` learns, weight by weight."""
    from workload import PLAIN, Iterations, Size, compositions, learner, plan, reinforced

    from omatg_ray.bundle import bundled_model
    from omatg_ray.reward.protocol import RewardResult
    from omatg_ray.rl.crew import LocalCrew
    from omatg_ray.rl.trainer import Trainer
    from omatg_ray.rl.work import RolloutSettings

    class Volume:
        name, elements = "volume", None

        def __call__(self, crystals):  # type: ignore[no-untyped-def]
            return RewardResult(-crystals.cell.det().abs().double(), {})

    size = Size(atoms=4, groups=2, members=3, steps=3, epochs=2)
    first, second = (reinforced(bundled_model(), ["pos", "cell"]) for _ in range(2))
    done = Iterations(first, learner(first, 1e-3, 2), Volume(), size, "wall").iterate(plan(size, 0, groups_per_item=1))
    crew = LocalCrew(
        learner(second, 1e-3, 2), second.learned, second.description.base_distribution, Volume(), second.device
    )
    settings = RolloutSettings(groups=2, group_size=3, steps=3)
    metrics = Trainer(settings, compositions(4), PLAIN, crew, seed=0, total=1).step()
    assert done.reward_mean == pytest.approx(metrics["reward_mean"])
    for ours, theirs in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    before = bundled_model().network.coord_out.weight
    assert not torch.equal(first.network.coord_out.weight, before)
