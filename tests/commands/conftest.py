"""Crystals, a potential with random weights and finished runs, small enough for a second each."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Element, Lattice, Structure

from omatg_ray.assets import seal
from omatg_ray.cli import main
from omatg_ray.commands.pretrain import pretrain
from omatg_ray.commands.train import TrainResult, train
from omatg_ray.config import Config
from omatg_ray.crystal.base import BaseDistribution, InformedCell
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import DOMAIN_FILE, Domain
from omatg_ray.crystal.write import write_structures
from omatg_ray.flow.settings import PathSettings
from omatg_ray.flow.species import MaskedSpecies
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.schedule import save_schedule
from omatg_ray.reward.potential import load_potential
from omatg_ray.run.location import PROTOTYPES
from tests.small import SIZE, learned_schedule, small_network

ELEMENTS = ("Na", "K", "Rb", "Mg", "Ca", "O", "S", "F", "Cl", "Br")

TINY = """
threads: 1
workers: 0
pretrain:
  network: {hidden: 16, layers: 2, frequencies: 4, time_features: 8}
  epochs: 6
  batch_size: 4
  warmup_steps: 2
  validate_every: 2
  checkpoint_every: 3
iterations: 4
rollout: {groups: 2, group_size: 4, steps: 4}
validation: {every: 2, limit: 2}
checkpoint: {every: 1, keep: 9}
"""


def write_tiny_potential(folder: Path, seed: int = 0) -> None:
    """A TensorNet with random weights, as MatGL saves it, with one of its own energies as the known one."""
    from matgl.apps.pes import Potential
    from matgl.models import TensorNet

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TensorNet(element_types=ELEMENTS, units=8, nblocks=1, num_rbf=4, cutoff=4.0)
    folder.mkdir()
    # Scaled and shifted so that energies spread over some eV/atom below the cap of 3.
    Potential(
        network,
        data_std=torch.tensor(300.0),
        element_refs=np.full(len(ELEMENTS), -30.0),
        calc_forces=False,
        calc_stresses=False,
    ).save(folder)
    species, pos = ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    cell = [[0, 2.845, 2.845], [2.845, 0, 2.845], [2.845, 2.845, 0]]
    crystal = CrystalBatch.from_structures([Structure(cell, species, pos)], torch.float64)
    # Any expectation loads it once, to find out what it gives.
    known = {"structure": {"species": species, "pos": pos, "cell": cell}, "energy_per_atom": 0.0, "tolerance": 1e9}
    (folder / "known_energies.json").write_text(json.dumps([known]))
    energy = load_potential(folder).energies(crystal).item() / 2
    (folder / "known_energies.json").write_text(json.dumps([known | {"energy_per_atom": energy, "tolerance": 1e-3}]))


def synthetic_crystals() -> list[Structure]:
    cubic = [
        Structure(Lattice.cubic(3.2 + 0.1 * i), pair, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
        for i, pair in enumerate(itertools.product(("Na", "K", "Rb"), ("F", "Cl", "Br")))
    ]
    cells = (Lattice.orthorhombic(3.0, 3.3 + 0.1 * i, 4.4) for i in range(4))
    pairs = itertools.product(("Mg", "Ca"), ("O", "S"))
    sites = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.1, 0.5, 0.0]]
    return cubic + [Structure(cell, (a, b, b), sites) for cell, (a, b) in zip(cells, pairs, strict=True)]


@dataclass(frozen=True)
class Workshop:
    """Where the files of a session lie.

    Attributes:
        root: Folder of everything.
        data: Thirteen crystals.
        potential: A MatGL potential with random weights.
        config: YAML file with tiny settings that names both.
    """

    root: Path
    data: Path
    potential: Path
    config: Path

    def load(self, *overrides: str) -> Config:
        return Config.load(self.config, overrides)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("workshop")
    shop = Workshop(root, root / "data.extxyz", root / "potential", root / "tiny.yaml")
    write_structures(shop.data, synthetic_crystals())
    write_tiny_potential(shop.potential)
    shop.config.write_text(
        f"{TINY}data: {{file: {shop.data}, val_compositions: 2, test_compositions: 3}}\n"
        f"reward: {{potential: {shop.potential}}}\n"
    )
    return shop


@pytest.fixture(scope="session")
def base(workshop: Workshop) -> Path:
    """A finished run of pretraining."""
    run = workshop.root / "base"
    pretrain(workshop.load(f"run={run}"), progress=False)
    return run


@pytest.fixture(scope="session")
def trained(workshop: Workshop, base: Path) -> TrainResult:
    """A finished run of reinforcement, four iterations."""
    return train(workshop.load(f"run={workshop.root / 'trained'}", f"base={base}"), progress=False)


@pytest.fixture(scope="session")
def de_novo(workshop: Workshop) -> Path:
    """A model with random weights that generates species, of the elements that the potential knows."""
    size = SIZE.model_copy(update={"mask": True})
    description = ModelDescription(
        network=size,
        paths=PathSettings(species=MaskedSpecies()),
        base_distribution=BaseDistribution(
            cell=InformedCell(log_length_mean=(2, 2, 2), log_length_std=(0.1, 0.1, 0.1))
        ),
        elements=[],
        sizes=[],
    )
    network = small_network(0, torch.float32, size)
    known = torch.tensor([Element(symbol).Z for symbol in ELEMENTS])
    with torch.no_grad():
        network.type_out.bias.fill_(-99.0).index_fill_(0, known - 1, 0.0)
    folder = workshop.root / "de_novo"
    folder.mkdir()
    FlowModel(description, network).save(folder)
    return folder


@dataclass(frozen=True)
class Outcome:
    """Exit code and streams of a command."""

    code: int
    out: str
    err: str

    def refuses(self, *parts: str, code: int = 2) -> None:
        """It said in its last line what is wrong, naming all parts, and exited with the code."""
        line = self.err.splitlines()[-1]
        assert line.startswith("omatg-ray") and all(part in line for part in parts), self.err
        assert "Traceback" not in self.err and self.code == code, self.err


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""

    def run(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def sealed(workshop: Workshop, base: Path, trained: TrainResult) -> Path:
    """Assets as the package carries them: splits and model of `base`, tiny potential, some schedule, `trained`."""
    root, schedule = workshop.root / "assets", workshop.root / "schedule"
    schedule.mkdir()
    save_schedule(learned_schedule(), schedule, {})
    for name, source in (
        ("crystals", base / "data"),
        ("potential", workshop.potential),
        ("base", base / "checkpoints" / "best"),
        ("schedule", schedule),
        ("reinforced", Path(trained.model)),
    ):
        folder = root / name
        folder.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix in (".extxyz", ".json", ".pt") or file.name == "weights.safetensors":
                shutil.copyfile(file, folder / file.name)
        (folder / "card.md").write_text(f"# Card of the {name}\n")
        if name == "potential":
            domain = Domain.of(CrystalBatch.from_structures(synthetic_crystals()), sized=False)
            (folder / DOMAIN_FILE).write_text(domain.model_dump_json())
        seal(folder)
    return root


@pytest.fixture
def assets(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them that takes the place of the package's own."""
    root = tmp_path / "assets"
    shutil.copytree(sealed, root)
    monkeypatch.setattr("omatg_ray.assets.root", lambda of="bundled": root / "other" if of == PROTOTYPES else root)
    return root
