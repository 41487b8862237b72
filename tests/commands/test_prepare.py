from __future__ import annotations

from pathlib import Path

from omatg_ray.commands.prepare import prepare
from tests.commands.conftest import Workshop


def test_the_key_of_the_repulsion_reaches_the_reward(workshop: Workshop, base: Path) -> None:
    assert prepare(workshop.load(f"base={base}")).reward.repulsion
    assert not prepare(workshop.load(f"base={base}", "reward.repulsion=false")).reward.repulsion
