"""Published models by name: fetched and imported once, and clear errors where there is no hub. The hub is faked."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from pymatgen.core import Lattice, Structure

from omatg_ray.config import Config
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg.hub import fetch, is_hub_name
from omatg_ray.train.job import find_input, with_job_paths
from tests.omatg.files import SIZE, base_tree, network_state, of_class, write

NAME = "OMatG/MP-20-CSP/Linear-ODE"
COMMIT = "87dcc2a222f849f4f3c381a8cfa47ede0971d364"


class Hub:
    """A hub with one repository that has one model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / COMMIT
        self.asked: list[tuple[str, Any]] = []
        model = self.folder / "Linear-ODE"
        model.mkdir(parents=True)
        checkpoint, config = write(folder, base_tree(), network_state())
        checkpoint.rename(model / "checkpoint.ckpt")
        config.rename(model / "train.yaml")

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str]) -> str:
        self.asked.append((repo_id, allow_patterns))
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_hub_name(NAME)
    for other in ("OMatG/MP-20-CSP", "runs/base/best", "OMatG/a/b/c", "/OMatG/a/b", "omatg/a/b", "bundled"):
        assert not is_hub_name(other)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert not is_hub_name(NAME)  # A folder of the user's own goes first.


def test_a_published_model(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        place = fetch(NAME)
    assert hub.asked == [("OMatG/MP-20-CSP", ["Linear-ODE/checkpoint.ckpt", "Linear-ODE/train.yaml"])]
    assert place.is_relative_to(tmp_path / "cache")
    assert COMMIT[:12] in place.name  # A new commit of the repository is imported anew.
    assert FlowModel.load(place).description.network == SIZE
    assert any("--steps 20" in message for message in caplog.messages)

    written = (place / "model.json").stat().st_mtime_ns
    assert fetch(NAME) == place
    assert (place / "model.json").stat().st_mtime_ns == written


def test_as_base_of_a_config_and_as_a_model(hub: Hub) -> None:
    base = with_job_paths(Config.from_tree({"base": NAME})).base
    assert base == fetch(NAME) == find_input(NAME, "MODEL")
    assert with_job_paths(Config.from_tree({"base": "bundled"})).base == "bundled"
    assert with_job_paths(Config.from_tree({"base": "runs/x"})).base == Path("runs/x")


def test_training_crystals_that_lie_here_change_nothing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = base_tree()
    tree["data"] = {"train_dataset": of_class("omg.datamodule.StructureDataset", file_path="train.json")}
    (hub.folder / "Linear-ODE" / "train.yaml").write_text(yaml.safe_dump(tree))
    for folder in (tmp_path, hub.folder / "Linear-ODE"):
        write_structures(folder / "train.json", [Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])])
    monkeypatch.chdir(tmp_path)
    what = FlowModel.load(fetch(NAME)).description
    assert (what.elements, what.sizes) == ([], [])


def test_another_format_of_imports_imports_anew(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fetch(NAME)
    monkeypatch.setattr("omatg_ray.omatg.hub.IMPORT_FORMAT", 10_000)
    after = fetch(NAME)
    assert after != before
    assert (before / "model.json").is_file() and (after / "model.json").is_file()


def test_without_a_folder_for_caches(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ModelError, match="Linear-ODE .*no home folder; set XDG_CACHE_HOME"):
        fetch(NAME)
    assert not hub.asked


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def failing(error: Exception) -> Any:
    def snapshot_download(*_: object, **__: object) -> str:
        raise error

    return snapshot_download


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder"),
        OSError("Name or service not known"),
        ConnectionError(),
        RepositoryNotFoundError("404 Client Error.", response=SimpleNamespace(headers={}, request=None)),  # type: ignore[arg-type]
    ],
)
def test_without_a_hub_or_repository(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing(error))
    with pytest.raises(ModelError, match=r"Linear-ODE: .*cannot be fetched from the hub.*import-omatg"):
        fetch(NAME)


def test_a_folder_that_the_repository_lacks(hub: Hub) -> None:
    with pytest.raises(ModelError, match=r"has no Cubic-ODE/checkpoint\.ckpt; https://huggingface\.co/OMatG/MP-20-CSP"):
        fetch("OMatG/MP-20-CSP/Cubic-ODE")
