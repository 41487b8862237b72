"""What KubeRay, Ray's cluster launcher, Slurm and Docker need to find in the files of cluster/.

The fields are those of the CRDs of KubeRay 1.6 and 1.7 (`ray.io/v1`), of sbatch of Slurm 22.05 and later, and, for the
cluster launcher, of the Ray that is installed.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
import warnings
from collections.abc import Iterator
from copy import deepcopy
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from omatg_ray.config import Config
from tests.conftest import ROOT

CLUSTER = ROOT / "cluster"
KUBERAY = ("rayjob", "raycluster")
LAUNCHER = ("aws", "gcp")
INSTALLED = "/opt/omatg_ray/"  # where the image holds the project's files

# Misspelt fields are dropped by the API server, some with a warning only.
RAY_JOB = {
    "entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit",
    "submitterPodTemplate", "rayClusterSpec",
}  # fmt: skip
RAY_CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip
AUTOSCALER = {"version", "idleTimeoutSeconds", "securityContext", "resources"}
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
POD = {"containers", "volumes", "tolerations", "securityContext"}
CONTAINER = {"name", "image", "ports", "resources", "securityContext", "volumeMounts"}
SBATCH = {
    "job-name", "nodes", "ntasks-per-node", "cpus-per-task", "gpus-per-node", "mem", "time", "exclusive", "requeue",
    "open-mode", "output",
}  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def pinned(package: str) -> str:
    (version,) = re.findall(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text())
    return str(version)


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def manifest(name: str) -> dict[str, Any]:
    return load(CLUSTER / "kuberay" / f"{name}.yaml")


def cluster_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(name)["spec"]
    found: dict[str, Any] = spec["rayClusterSpec"] if name == "rayjob" else spec
    return found


def pods(name: str) -> Iterator[dict[str, Any]]:
    spec = cluster_spec(name)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def named(words: list[str]) -> Config:
    """The configuration that `omatg-ray train WORDS` would load, with files of the image read from the checkout."""
    file, *overrides = [word for word in words if not word.startswith("--")]
    assert all("=" in word for word in overrides)
    return Config.load(ROOT / file.removeprefix(INSTALLED), overrides)


def actors(config: Config) -> list[dict[str, float]]:
    ray = config.ray
    return [
        *[ray.rollout.bundle] * ray.rollout.workers,
        *[ray.reward.bundle] * ray.reward.workers,
        ray.learner.bundle,
    ]


def test_the_job_of_kuberay() -> None:
    job = manifest("rayjob")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"]) and len(job["metadata"]["name"]) <= 47
    spec = job["spec"]
    assert spec.keys() <= RAY_JOB and spec["submissionMode"] == "K8sJobMode"
    # A cluster of its own, which ends with it: KubeRay refuses a time to live of one that stays.
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] >= 0
    assert isinstance(spec["backoffLimit"], int) and spec["backoffLimit"] >= 0
    # It goes through a shell and through `ray job submit`, neither of which may find anything of its own in it.
    words = shlex.split(spec["entrypoint"])
    assert words[:4] == ["python", "-m", "omatg_ray", "train"] and not re.search(
        r"[;&|<>$`'\"{}()\n*]", spec["entrypoint"]
    )
    # The second of several tries finds a run.
    assert "--continue" in words and words[4].startswith(INSTALLED)


def test_what_the_job_runs_fits_its_cluster() -> None:
    config = named(shlex.split(manifest("rayjob")["spec"]["entrypoint"])[4:])
    assert config.ray.address is None and config.ray.wait >= 600  # nodes have to be started first
    (mount,) = cluster_spec("rayjob")["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert config.run.is_relative_to(mount["mountPath"])

    def free(group: dict[str, Any]) -> dict[str, float]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        return {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}

    # Those who want a GPU first, each to the first node with room.
    groups = sorted(cluster_spec("rayjob")["workerGroupSpecs"], key=lambda group: free(group)["GPU"])
    nodes = [free(group) for group in groups for _ in range(group["maxReplicas"])]
    for bundle in sorted(actors(config), key=lambda bundle: -bundle.get("GPU", 0)):
        node = next(node for node in nodes if all(node[kind] >= amount for kind, amount in bundle.items()))
        for kind, amount in bundle.items():
            node[kind] -= amount


def test_the_cluster_of_kuberay() -> None:
    cluster = manifest("raycluster")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", cluster["metadata"]["name"])


@pytest.mark.parametrize("name", KUBERAY)
def test_what_both_have_of_a_cluster(name: str) -> None:
    spec = cluster_spec(name)
    assert spec.keys() <= RAY_CLUSTER
    # KubeRay refuses tokens without a version of Ray, or with one before 2.52.
    assert spec["authOptions"] == {"mode": "token"} and spec["rayVersion"] == pinned("ray")
    assert spec["enableInTreeAutoscaling"] is True and spec["autoscalerOptions"]["version"] == "v2"
    assert spec["autoscalerOptions"].keys() <= AUTOSCALER
    head, workers = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert head.keys() == HEAD_GROUP and head["rayStartParams"] == {"num-cpus": "0"}
    gpus = {}
    for group in workers:
        assert group.keys() == WORKER_GROUP
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        gpus[group["groupName"]] = group["template"]["spec"]["containers"][0]["resources"]["limits"].get(
            "nvidia.com/gpu"
        )
    assert gpus == {"rollout": "1", "reward": None}
    for group in (head, *workers):
        # These go onto a command line; KubeRay takes strings only.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("name", KUBERAY)
def test_pods(name: str) -> None:
    for pod in pods(name):
        # The autoscaler replaces pods; KubeRay refuses another restartPolicy than Never.
        assert pod.keys() <= POD
        (container,) = pod["containers"]
        assert container.keys() <= CONTAINER
        assert container["image"].endswith(f"/omatg-ray:{project()['version']}")
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert all(isinstance(amount, str) for amount in container["resources"]["limits"].values())
    head = next(pods(name))
    ports = {port["name"]: port["containerPort"] for port in head["containers"][0]["ports"]}
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
    claim = load(CLUSTER / "kuberay" / "runs.yaml")
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    (volume,) = head["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert [mount["name"] for mount in head["containers"][0]["volumeMounts"]] == [volume["name"]]
    assert claim["spec"]["accessModes"] and claim["spec"]["resources"]["requests"]["storage"]
    assert head["securityContext"]["fsGroup"] == 1000  # the user of the image


# What the profile `restricted` of Kubernetes' Pod Security Standards asks of every container. KubeRay gives that of the
# Ray container to the one that waits for the head, too.
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize("name", KUBERAY)
def test_a_namespace_with_the_profile_restricted_takes_all_pods(name: str) -> None:
    def contexts(found: Any) -> Iterator[tuple[str, Any]]:
        """Of all containers, wherever they are; that of the autoscaler is in its options."""
        if isinstance(found, dict):
            for one in found.get("containers", []):
                yield one["name"], one.get("securityContext")
            if "autoscalerOptions" in found:
                yield "autoscaler", found["autoscalerOptions"].get("securityContext")
            found = list(found.values())
        if isinstance(found, list):
            for one in found:
                yield from contexts(one)

    everyone = list(contexts(manifest(name)))
    assert all(context == RESTRICTED for _, context in everyone), everyone
    submitter = ["ray-job-submitter"] if name == "rayjob" else []
    assert [one for one, _ in everyone] == [*submitter, "autoscaler", "ray-head", "ray-worker", "ray-worker"]
    assert all(not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"} for pod in pods(name))


def test_the_pod_that_submits() -> None:
    """KubeRay gives it its command where it has none, and the token."""
    template = manifest("rayjob")["spec"]["submitterPodTemplate"]
    assert template.keys() == {"spec"} and template["spec"].keys() == {"restartPolicy", "containers"}
    assert template["spec"]["restartPolicy"] == "Never"
    (container,) = template["spec"]["containers"]
    assert container.keys() == {"name", "image", "securityContext", "resources"}
    assert container["image"] == next(pods("rayjob"))["containers"][0]["image"]


@pytest.mark.parametrize("name", KUBERAY)
def test_every_image_is_counted(name: str) -> None:
    text = (CLUSTER / "kuberay" / f"{name}.yaml").read_text()
    (places,) = re.findall(r"put the name of your image in all (\w+) places", text)
    assert text.count("image:") == ["zero", "one", "two", "three", "four"].index(places)


def test_images_are_of_this_version() -> None:
    files = [CLUSTER / "Dockerfile", *(CLUSTER / "kuberay").glob("*.yaml"), ROOT / "docs" / "clusters.md"]
    tags = {tag for file in files for tag in re.findall(r"/omatg-ray:(\d[\w.]*)", file.read_text(encoding="utf-8"))}
    assert tags == {tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]}


def test_both_manifests_describe_one_cluster() -> None:
    job, cluster = cluster_spec("rayjob"), cluster_spec("raycluster")
    for spec in (job, cluster):
        spec["autoscalerOptions"].pop("idleTimeoutSeconds")
    assert job == cluster


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_cluster_launcher_takes_the_file(name: str) -> None:
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load(CLUSTER / "launcher" / f"{name}.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(deepcopy(config)))
    assert config["provider"]["type"] == name and config["provider"]["region"]
    assert config["auth"]["ssh_user"] == "ubuntu"


@pytest.mark.parametrize("name", LAUNCHER)
def test_nodes_of_the_cluster_launcher(name: str) -> None:
    config = load(CLUSTER / "launcher" / f"{name}.yaml")
    types = config["available_node_types"]
    assert types.keys() == {"head", "rollout", "reward"} and config["head_node_type"] == "head"
    assert types["head"]["resources"] == {"CPU": 0}
    workers = [types["rollout"], types["reward"]]
    assert all(node["min_workers"] == 0 and node["max_workers"] > 0 for node in workers)
    assert config["max_workers"] >= sum(node["max_workers"] for node in workers)
    for node in types.values():
        needed = {
            "aws": {"InstanceType", "ImageId", "BlockDeviceMappings"},
            "gcp": {"machineType", "disks"},
        }[name]
        assert needed <= node["node_config"].keys()
    if name == "gcp":
        assert config["provider"].keys() >= {"availability_zone", "project_id"}
        # Ray knows what machines of AWS have, and not those of Google.
        assert all(node["resources"].get("CPU") for node in workers) and types["rollout"]["resources"]["GPU"] == 1
        assert types["rollout"]["node_config"]["scheduling"] == {"onHostMaintenance": "TERMINATE"}


@pytest.mark.parametrize("name", LAUNCHER)
def test_what_nodes_of_the_cluster_launcher_get_and_do(name: str) -> None:
    config = load(CLUSTER / "launcher" / f"{name}.yaml")
    mounts = dict(config["file_mounts"])
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for remote, local in mounts.items():
        assert remote == f"~/omatg_ray_code/{local}" and (ROOT / local).exists()
    # What scripts/install and the build read.
    assert {"pyproject.toml", "constraints.txt", project()["readme"], *project()["license-files"]} <= set(
        mounts.values()
    )
    assert {"omatg_ray", "configs", "scripts/install"} <= set(mounts.values())
    setup = "\n".join(config["setup_commands"])
    assert "cd ~/omatg_ray_code && scripts/install" in setup and "export RAY_AUTH_MODE=token PATH=" in setup
    (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    (worker,) = [line for line in config["worker_start_ray_commands"] if "ray start" in line]
    assert "--head" in head and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--dashboard-host" not in head  # 127.0.0.1, unless somebody says otherwise
    assert "--address=$RAY_HEAD_IP:6379" in worker and "--port=6379" in head
    for line in (head, worker):
        assert_ray_start_takes(shlex.split(line.partition(";")[2])[2:])


def assert_ray_start_takes(options: list[str]) -> None:
    with warnings.catch_warnings(action="ignore"):
        from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    assert {option.partition("=")[0] for option in options} <= known


def sbatch() -> tuple[dict[str, str], str]:
    """Options and the script; Slurm reads options up to the first command only."""
    text = (CLUSTER / "slurm" / "train.sbatch").read_text()
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:]) and lines[0].startswith("#!")
    options = [line.removeprefix("#SBATCH --") for line in lines[:first] if line.startswith("#SBATCH")]
    return {option.partition("=")[0]: option.partition("=")[2] for option in options}, text


def test_the_options_of_the_slurm_job() -> None:
    options, _ = sbatch()
    assert options.keys() == SBATCH
    assert options["ntasks-per-node"] == "1" and int(options["nodes"]) >= 2 and int(options["cpus-per-task"]) > 0
    assert re.fullmatch(r"(\d+-)?\d\d:\d\d:\d\d", options["time"]) and re.fullmatch(r"\d+[KMGT]", options["mem"])
    # A second try adds to the log of the first.
    assert options["open-mode"] == "append" and "%j" in options["output"]


def test_the_slurm_job_that_the_comment_shows_fits_its_nodes() -> None:
    options, text = sbatch()
    (shown,) = re.findall(r"#   sbatch cluster/slurm/train\.sbatch (.*?)\n# [A-Z]", text, re.DOTALL)
    config = named(shlex.split(shown.replace("\\\n#", "")))
    nodes, asked = int(options["nodes"]), actors(config)
    assert sum(bundle["CPU"] for bundle in asked) <= nodes * int(options["cpus-per-task"])
    assert sum(bundle.get("GPU", 0) for bundle in asked) <= nodes * int(options["gpus-per-node"])


def test_the_image() -> None:
    text = (CLUSTER / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert steps[0] == ["FROM", "python:3.11-slim"] and project()["requires-python"] == ">=3.11"
    users = [value for name, value in steps if name == "USER"]
    assert users == ["1000"]  # a number, by which Kubernetes knows that it is not root
    assert ["ENV", "RAY_AUTH_MODE=token"] in steps
    runs = " ".join(value for name, value in steps if name == "RUN")
    assert "pip install --no-cache-dir -c constraints.txt ." in runs and "wget" in runs and "--uid 1000" in runs
    # A user of another number and group 0, as of OpenShift, has the home of this one.
    assert "--gid 0 --create-home ray" in runs and "chmod g=u /home/ray" in runs
    assert ["ENV", "HOME=/home/ray USER=ray"] in steps
    copied = {source for name, value in steps if name == "COPY" for source in value.split()[:-1]}
    assert {"pyproject.toml", "constraints.txt", "omatg_ray", "configs"} <= copied
    assert {project()["readme"], *project()["license-files"]} <= copied

    everything, *rest = [
        line for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")
    ]
    assert everything == "*" and {line.removeprefix("!") for line in rest if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.processes
def test_shell_scripts_are_well_formed() -> None:
    for script in (CLUSTER / "slurm" / "train.sbatch", CLUSTER / "slurm" / "until.sh"):
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_file_is_in_the_index_and_in_the_documentation() -> None:
    index, documentation = (CLUSTER / "README.md").read_text(), (ROOT / "docs" / "clusters.md").read_text()
    for path in sorted(CLUSTER.rglob("*.*")):
        name = path.relative_to(CLUSTER).as_posix()
        if path.is_file() and not fnmatch(name, "*.md"):
            assert name in index and f"cluster/{name}" in documentation, name
