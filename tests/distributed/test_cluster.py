"""What a cluster cannot do is said within seconds; what it did is undone."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from omatg_ray.assets import ASSETS
from omatg_ray.commands.train import train
from omatg_ray.config import Config
from omatg_ray.distributed.cluster import join_cluster, reserve_room
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ClusterError, ConfigError
from omatg_ray.run.versions import software
from omatg_ray.train.build import build_run
from tests.conftest import ROOT
from tests.distributed.conftest import CORES, Command, Nodes, Workshop

SOON = RaySettings(wait=2)


def assert_free(cores: float) -> None:
    """Within seconds: nodes report what they have now and then."""
    deadline = time.monotonic() + 10
    while not math.isclose(ray.available_resources().get("CPU", 0.0), cores):
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.1)


@pytest.mark.usefixtures("cluster")
def test_room_that_is_there_is_taken_and_given_back() -> None:
    with reserve_room([("rollout", {"CPU": 1.5}), ("learner", {"CPU": 1.0})], SOON):
        assert_free(2 * CORES - 2.5)
    assert_free(2 * CORES)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "bundles, asked",
    [
        # More than all nodes have together; more than any node has; what no node has.
        ([("rollout", {"CPU": 1.0})] * 9, "9 x rollout (1 CPU), in all 9 CPU"),
        (
            [("rollout", {"CPU": 1.0})] * 2 + [("learner", {"CPU": 5.0})],
            "2 x rollout (1 CPU), 1 x learner (5 CPU), in all 7 CPU",
        ),
        ([("rollout", {"CPU": 0.5, "GPU": 0.5})] * 3, "3 x rollout (0.5 CPU, 0.5 GPU), in all 1.5 CPU, 1.5 GPU"),
    ],
)
def test_a_cluster_without_room(bundles: list[tuple[str, dict[str, float]]], asked: str) -> None:
    with pytest.raises(ClusterError) as error, reserve_room(bundles, SOON):
        pytest.fail("there is no room for this")
    message = str(error.value)
    assert f"Requested: {asked}." in message
    assert "Available: 2 nodes, " in message and f"({CORES} CPU)" in message and f"({CORES} CPU, 1 GPU)" in message
    assert "ray.*.workers" in message


@pytest.mark.usefixtures("cluster")
def test_a_run_that_does_not_fit_leaves_nothing_that_is_in_the_way(
    workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    fits = [f"run={tmp_path / 'run'}", f"base={base}", "iterations=0", "ray.wait=1", "rollout.groups=40"]
    with pytest.raises(ClusterError, match=r"40 x rollout \(1 CPU\)"):
        train(workshop.load(*fits, "ray.rollout.workers=40"), progress=False)
    train(workshop.load(*fits), progress=False)


def test_a_gpu_that_pytorch_does_not_see(workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path) -> None:
    """Ray's book-keeping has one, and lends half of it to the rollout actor; the machine has none."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}", "ray.rollout.workers=1", "ray.rollout.gpus=0.5")
    with pytest.raises(ClusterError, match=r"^node \S+ offers 0.5 GPU, but PyTorch sees none there; install"):
        train(config, progress=False)


@pytest.mark.usefixtures("cluster")
def test_the_command_says_so_in_one_line(workshop: Workshop, base: Path, command: Command, tmp_path: Path) -> None:
    words = [workshop.config, f"run={tmp_path / 'run'}", f"base={base}", "ray.rollout.workers=40", "ray.wait=1"]
    command("train", *words).refuses("the cluster has no room for this run after 1 s", code=1)


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    code = (
        "from omatg_ray.distributed.cluster import join_cluster\n"
        "from omatg_ray.distributed.settings import RaySettings\n"
        "from omatg_ray.errors import ClusterError\n"
        "try:\n"
        "    with join_cluster(RaySettings(address='127.0.0.1:1')): pass\n"
        "except ClusterError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert "no Ray cluster at 127.0.0.1:1, or" in done.stdout, done.stderr


def test_something_else_listens_at_the_address(tmp_path: Path) -> None:
    """Such as the dashboard, whose port users take for that of the cluster; Ray itself would try for minutes."""
    code = (
        "import sys, threading\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "from omatg_ray.distributed import cluster\n"
        "from omatg_ray.distributed.settings import RaySettings\n"
        "from omatg_ray.errors import ClusterError\n"
        "cluster.SECONDS_TO_CONNECT = 3\n"
        "server = HTTPServer(('', 0), BaseHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "try:\n"
        "    with cluster.join_cluster(RaySettings(address=f'localhost:{server.server_port}')): pass\n"
        "except ClusterError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert "no Ray cluster at localhost:" in done.stdout and "no answer in 3 s" in done.stdout, done.stderr


JOINING = """
from omatg_ray.distributed import cluster
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ClusterError
cluster.SECONDS_TO_CONNECT = 3
try:
    with cluster.join_cluster(RaySettings(address=ADDRESS)): print("joined")
except ClusterError as error: print(error)
"""


def said_on_joining(address: str, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """A process that joins the cluster at an address, after some other code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", before + JOINING.replace("ADDRESS", repr(address))],
        cwd=ROOT, env=environment | variables, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip


def processes(head: str) -> str:
    """Code that lets Ray see this head alone, or none, of all that run on this machine."""
    return (
        "import functools; from ray._private import services\n"
        f"services.find_gcs_addresses = functools.cache(lambda: {{{head}}} - {{None}})\n"
    )


def test_auto_where_the_head_was_killed(tmp_path: Path) -> None:
    """Its address is still in Ray's file, and Ray itself would try for minutes; the test's time runs out before."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    done = said_on_joining("auto", processes("None"), RAY_TMPDIR=str(tmp_path))
    assert re.match(r"no Ray cluster at auto \(\S+:1\), or", done.stdout) and "refused" in done.stdout, done.stderr


def test_auto_where_there_never_was_a_head(tmp_path: Path) -> None:
    done = said_on_joining("auto", processes("None"), RAY_TMPDIR=str(tmp_path))
    assert "no Ray cluster at auto, or" in done.stdout and "ray.address" in done.stdout, done.stderr


def test_a_cluster_without_a_node_on_this_machine(cluster: Cluster) -> None:
    before = "from ray._private import services; services.find_node_ids = set\n"
    done = said_on_joining(cluster.address, before)
    assert f"it has no node on this machine, which is needed to join it (ray start --address={cluster.address})" in (
        done.stdout
    ), done.stderr


def test_auto_is_the_cluster_on_this_machine(cluster: Cluster, tmp_path: Path) -> None:
    done = said_on_joining("auto", processes(repr(cluster.address)), RAY_TMPDIR=str(tmp_path))
    assert done.stdout == "joined\n", done.stderr


@pytest.mark.usefixtures("cluster")
def test_a_program_that_is_connected_stays_connected() -> None:
    with join_cluster(RaySettings(address="127.0.0.1:1")):
        pass
    assert ray.is_initialized()


@pytest.mark.parametrize("override", ["ray.rollout.cpus=0.00001", "ray.learner.gpus=0.33333", "ray.rollout.gpus=2"])
def test_shares_that_ray_cannot_give(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0].replace(".", r"\.")):
        Config.load(None, [override])


def test_a_device_that_is_not_for_actors(workshop: Workshop, base: Path) -> None:
    with pytest.raises(ConfigError, match=r"^device: cuda asked for, but with actors ray.rollout.gpus"):
        build_run(workshop.load(f"base={base}", "device=cuda", "ray.rollout.workers=1"))


def test_a_ray_of_its_own_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never has more room than it has now, and is not asked to wait for it."""
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("omatg_ray.distributed.cluster._present", lambda: "1 node")
    for bundles in ([("rollout", {"CPU": 0.5})] * 5, [("learner", {"CPU": 1.0, "GPU": 1.0})]):
        message = r"^this machine has no room for this run\. Requested: "
        with pytest.raises(ClusterError, match=message), reserve_room(bundles, SOON, grows=False):
            pytest.fail("there is no room for this")


def test_a_job_that_ray_sent_to_another_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray tells a job the address of some Ray on its machine, which is luck where there are two."""
    code = (
        "from omatg_ray.distributed.cluster import join_cluster\n"
        "from omatg_ray.distributed.settings import RaySettings\n"
        "from omatg_ray.errors import ClusterError\n"
        "try:\n"
        "    with join_cluster(RaySettings()): print('joined')\n"
        "except ClusterError as error: print(error)\n"
    )
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
    session = Path(cluster.head_node.get_session_dir_path()).name
    for name, said in (
        ("session_of_another", "this job belongs to the Ray of session_of_another"),
        (session, "joined"),
    ):
        folder = tmp_path / name / "runtime_resources" / "working_dir_files" / "copy"
        folder.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.startswith(said), done.stderr


def test_shares() -> None:
    settings = Config.load(None, ["ray.rollout.cpus=2.5", "ray.rollout.gpus=0.5", "ray.learner.threads=4"]).ray
    assert settings.rollout.bundle == {"CPU": 2.5, "GPU": 0.5}
    assert (settings.rollout.n_threads, settings.rollout.device) == (2, "cuda")
    assert settings.learner.bundle == {"CPU": 1.0}
    assert (settings.learner.n_threads, settings.learner.device) == (4, "cpu")
    assert settings.reward.n_threads == 1


@pytest.fixture(scope="module")
def other_software(cluster: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A node whose package differs in a number; of its size is only that node."""
    other = tmp_path_factory.mktemp("other") / "omatg_ray"
    shutil.copytree(ROOT / "omatg_ray", other, ignore=shutil.ignore_patterns("__pycache__", *ASSETS))
    with open(other / "rl" / "advantage.py", "a", encoding="utf-8") as file:
        file.write("\nANOTHER = 1\n")
    # A node has the environment that it was started in.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(other.parent))
        node = cluster.add_node(num_cpus=CORES + 1, object_store_memory=100 * 2**20, fresh=True)
    yield
    cluster.remove_node(node)


@pytest.mark.usefixtures("other_software")
@pytest.mark.parametrize("verb", ["train", pytest.param("tune", marks=pytest.mark.long)])
def test_a_node_with_another_version_of_the_package_is_refused_by_name(
    verb: str, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """All actors or trials start there."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        f"config: {workshop.config}\noverrides: {{base: {base}, ray.address: {cluster.address}}}\n"
        f"space: {{learner.lr: {{grid: [0.001]}}}}\ntrial: {{cpus: {CORES + 1}}}\nscheduler: {{kind: none}}\n"
    )
    words = {
        "train": [workshop.config, f"base={base}", "ray.rollout.workers=1", f"ray.rollout.cpus={CORES + 1}"],
        "tune": [sweep],
    }[verb]
    # A process of its own, whose path of imports is not that of the tests, which workers would have.
    done = subprocess.run(
        [sys.executable, "-m", "omatg_ray", verb, *map(str, words), f"run={tmp_path / 'run'}"],
        cwd=tmp_path, env=os.environ | {"RAY_ADDRESS": cluster.address}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    who = "rollout actor 0" if verb == "train" else "trial 00000"
    differs = rf"omatg_ray \w+ \(the driver: {software()['omatg_ray']}\)"
    said = rf"omatg-ray: {who} on node \S+ runs other software than the driver and would .*: {differs}\. "
    assert done.returncode == 1 and re.match(said, done.stderr.splitlines()[-1]), done.stderr
