"""cluster/slurm/train.sbatch on one node, where Slurm is a stand-in that runs what it is given; Ray is one at first.

Further down it is the real one, behind Linux namespaces: `ray symmetric-run` refuses to start where there is another
Ray on the machine, and ends every Ray that it finds.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from omatg_ray.run.metrics import read_metrics
from tests.cluster.conftest import Workshop
from tests.cluster.test_launch_files import CLUSTER, assert_ray_start_takes
from tests.conftest import ROOT

pytestmark = pytest.mark.processes

# Options are those of the real ones; what is left is the command.
STAND_INS = {
    "scontrol": 'echo "scontrol $*" >>calls; [[ "$1" != show ]] || for i in {0..999}; do echo "node-$i"; done',
    "srun": 'echo "srun $*" >>calls; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "ray": 'echo "ray $*" >>calls; echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >>tokens\n'
    'while [[ "$1" != -- ]]; do shift; done; shift; exec "$@"',
}


def project(folder: Path) -> Path:
    """A folder that a user submits from, with an environment whose commands are stand-ins."""
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'export PATH="{binaries}:$PATH"\n')
    for name, text in STAND_INS.items():
        stand_in(folder, name, text)
    stand_in(folder, "python", f'exec {sys.executable} "$@"')
    (folder / "cluster").symlink_to(CLUSTER)
    return folder


def stand_in(folder: Path, name: str, text: str) -> None:
    file = folder / ".venv" / "bin" / name
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)


def submit(
    folder: Path, seconds: int, *words: str, before: Sequence[str] = ("bash",), patience: int = 280, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs the script as Slurm would, with so many seconds before the run has to stop.

    Args:
        folder: Where it is submitted.
        seconds: Until the run has to stop.
        words: Of the script.
        before: What runs it.
        patience: Seconds after which it counts as hanging.
        variables: Of the environment; an empty one is not there.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node-[0-999]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 300 + seconds),
        **variables,
    }
    script = shutil.copy(CLUSTER / "slurm" / "train.sbatch", folder / "slurm_script")  # as Slurm does
    done = subprocess.run(
        [*before, script, *words],
        cwd=folder, env={key: value for key, value in environment.items() if value}, capture_output=True, text=True,
        timeout=patience, check=False,
    )  # fmt: skip
    assert not list(folder.glob(".omatg-ray*"))
    return done


# The real one, whose time is up (its own SIGALRM) as soon as there are two iterations.
TIMEOUT = """
"$REAL" "$@" &
timeout=$!
until [[ "$(grep -c '"kind": "train"' METRICS 2>/dev/null)" -ge 2 ]]; do
    kill -0 $timeout || break
    sleep 0.2
done
kill -ALRM $timeout
wait $timeout
"""


@pytest.mark.long
def test_a_run_stops_before_the_time_is_up_and_queues_again(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    folder, words = project(tmp_path), [str(workshop.config), f"base={base}", "run=runs/r", "validation.every=100000"]
    words += ["checkpoint.every=100000"]
    real = shutil.which("timeout")
    assert real is not None
    stand_in(folder, "timeout", TIMEOUT.replace("METRICS", "runs/r/metrics.jsonl"))
    first = submit(folder, 1000, *words, "iterations=100000", REAL=real)
    assert first.returncode == 124, first.stderr
    said = re.search(r"stopped after iteration (\d+) of 100000", first.stderr)
    assert said is not None, first.stderr
    done = int(said[1])
    assert os.readlink(folder / "runs" / "r" / "checkpoints" / "last") == f"iteration_{done:06d}"
    calls = (folder / "calls").read_text().splitlines()
    assert calls[-1] == "scontrol requeue 17"

    stand_in(folder, "timeout", 'exec "$REAL" "$@"')
    second = submit(folder, 1000, *words, f"iterations={done + 1}", REAL=real)
    assert second.returncode == 0, second.stderr
    steps = [line["step"] for line in read_metrics(folder / "runs" / "r" / "metrics.jsonl") if line["kind"] == "train"]
    assert steps == list(range(1, done + 2))
    assert (folder / "calls").read_text().splitlines()[len(calls) :][-1].startswith("ray ")  # and not requeued

    tokens = {line.split()[1] for line in (folder / "tokens").read_text().splitlines()}
    assert len(tokens) == 2 and all(re.fullmatch(r"[0-9a-f]{64}", token) for token in tokens)
    assert {line.split()[0] for line in (folder / "tokens").read_text().splitlines()} == {"token"}


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A project whose run does nothing, on a node at 10.0.0.1."""
    folder = project(tmp_path)
    stand_in(folder, "python", 'case "$1" in -c) echo secret ;; *.py) echo 10.0.0.1:6379 ;; esac')
    return folder


def launch(folder: Path) -> list[str]:
    """The words of `ray symmetric-run`, which was called once."""
    calls = [line.split() for line in (folder / "calls").read_text().splitlines()]
    (words,) = [call[2:] for call in calls if call[:2] == ["ray", "symmetric-run"]]
    return words


def test_what_ray_is_asked_for(asked: Path) -> None:
    """By Ray's own reading of the command line."""
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    before = int(time.time())
    assert submit(asked, 100, "tiny.yaml", "run=runs/r").returncode == 0
    words = launch(asked)
    options, command = words[: words.index("--")], words[words.index("--") + 1 :]
    context = symmetric_run.make_context("_", list(options))
    assert (context.params["address"], context.params["min_nodes"]) == ("10.0.0.1:6379", 2)
    start = curate_and_validate_ray_start_args(options)
    assert start == ["--num-cpus=8", "--num-gpus=1"]
    assert_ray_start_takes(start)
    assert command[:2] == ["bash", "cluster/slurm/until.sh"] and before + 90 < int(command[2]) <= before + 110
    assert command[4:] == [
        *("python", "-m", "omatg_ray", "train", "tiny.yaml", "run=runs/r", "--continue"),
        *("ray.address=10.0.0.1:6379", "ray.wait=60"),
    ]
    calls = [line.split() for line in (asked / "calls").read_text().splitlines()]
    assert calls[1][:4] == ["srun", "--nodes=1", "--ntasks=1", "--nodelist=node-0"]
    (started,) = [call for call in calls if call[0] == "srun" and "ray" in call]
    assert started[1:4] == ["--nodes=2", "--ntasks=2", "--cpus-per-task=8"]


def test_time_that_is_too_short_to_stop_in(asked: Path) -> None:
    done = submit(asked, -60, "tiny.yaml", "run=runs/r")
    assert done.returncode == 2
    assert re.fullmatch(r"omatg-ray: of this job's time 2(40|39|38) s are left, and a run stops 300 .*\n", done.stderr)
    assert not (asked / "calls").exists()


def test_the_end_of_a_job_where_slurm_does_not_set_it(asked: Path) -> None:
    """Before 22.05."""
    stand_in(asked, "squeue", "date --date='900 seconds' +%Y-%m-%dT%H:%M:%S")
    now = int(time.time())
    assert submit(asked, 0, "tiny.yaml", "run=runs/r", SLURM_JOB_END_TIME="").returncode == 0
    words = launch(asked)
    assert now + 600 <= int(words[words.index("cluster/slurm/until.sh") + 1]) <= now + 630


def test_a_job_without_an_end(asked: Path) -> None:
    stand_in(asked, "squeue", "echo NONE")
    stand_in(asked, "timeout", 'echo "timeout $*" >>calls')
    assert submit(asked, 0, "tiny.yaml", "run=runs/r", SLURM_JOB_END_TIME="").returncode == 0
    (words,) = [line for line in (asked / "calls").read_text().splitlines() if line.startswith("timeout")]
    assert words.startswith("timeout --foreground 0 python -m omatg_ray")  # 0 is none


@pytest.mark.parametrize("said", ["", "soon"])
def test_an_end_that_is_no_time(asked: Path, said: str) -> None:
    stand_in(asked, "squeue", f"echo {said}")
    done = submit(asked, 0, "tiny.yaml", "run=runs/r", SLURM_JOB_END_TIME="")
    assert done.returncode == 2
    assert f"omatg-ray: squeue says that this job ends at '{said}', which is no time" in done.stderr


def test_a_ray_that_does_not_start_fails_the_job(asked: Path) -> None:
    """`ray symmetric-run` ends with 0 then."""
    stand_in(asked, "ray", "echo Failed to start Ray")
    done = submit(asked, 100, "tiny.yaml", "run=runs/r")
    assert (done.returncode, done.stdout) == (1, "Failed to start Ray\n")
    assert done.stderr.startswith("omatg-ray: the run did not start, or was killed")


def test_a_ray_that_starts_too_late(tmp_path: Path) -> None:
    late = [
        str(CLUSTER / "slurm" / "until.sh"),
        str(int(time.time()) - 1),
        *(f"{tmp_path}/result", "touch", f"{tmp_path}/ran"),
    ]
    done = subprocess.run(["bash", *late], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "omatg-ray: Ray was there only when it was time to stop\n")
    assert not list(tmp_path.iterdir())


# A machine of one node: processes and network of its own, where $TAKEN are ports that somebody else listens on. Its
# name stands for 127.0.0.1 or for nothing at all, as on many machines.
MACHINE = """
ip link set lo up && ip address add 10.71.0.1/32 dev lo && ip route add default dev lo || exit 99
python=$1 && shift
for port in $TAKEN; do "$python" -m http.server "$port" >/dev/null 2>&1 & done
for port in $TAKEN; do until (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.1; done; done
exec bash "$@"
"""


@pytest.fixture(scope="module")
def machine() -> list[str]:
    """What runs a script on a machine of one node."""
    words = ["unshare", *(["--user", "--map-root-user"] if os.getuid() else [])]
    words += ["--pid", "--fork", "--kill-child", "--mount-proc", "--net", "bash", "-c", MACHINE, "machine"]
    words += [sys.executable]
    try:
        done = subprocess.run([*words, "-c", "exit 17"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not there")
    if done.returncode != 17:
        pytest.skip(f"no namespaces of Linux here: {done.stderr}")
    return words


NODE = {"SLURM_JOB_NODELIST": "node-0", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
NODE |= {"SLURM_GPUS_ON_NODE": ""}
# Sends it to all but the script itself, once there are two iterations.
SIGNALLING = """
while [[ "$1" == --* ]]; do shift; done
[[ "$*" == *symmetric-run* ]] && (
    until [[ "$(grep -c '"kind": "train"' METRICS 2>/dev/null)" -ge 2 ]]; do sleep 0.2; done
    for process in /proc/[0-9]*; do
        [[ "${process#/proc/}" == 1 || "${process#/proc/}" == "$BASHPID" ]] || kill -USR1 "${process#/proc/}"
    done
) &
exec "$@"
"""
SHARES = [f"ray.{role}.cpus=0.5" for role in ("rollout", "reward", "learner")]


def with_real_ray(folder: Path) -> Path:
    """A project whose `ray` is that of this environment."""
    stand_in(project(folder), "ray", f'exec {Path(sys.executable).parent}/ray "$@"')
    return folder


@pytest.mark.long
@pytest.mark.timeout(600)  # as of all clusters that start as users' do: five actors import everything, on any machine
def test_the_real_ray_runs_to_the_end(workshop: Workshop, base: Path, tmp_path: Path, machine: list[str]) -> None:
    """With all that is in its way: ports that are taken, a long TMPDIR, the address of another cluster."""
    folder, long = with_real_ray(tmp_path), tmp_path / ("long_" * 20)
    long.mkdir()
    words = [str(workshop.config), f"base={base}", "run=runs/r", "iterations=2", "ray.rollout.workers=1", *SHARES]
    awkward = {"TAKEN": "6379 8265 10001 52365", "TMPDIR": str(long), "RAY_ADDRESS": "10.71.0.9:6379", **NODE}
    done = submit(folder, 3000, *words, before=machine, patience=580, **awkward)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "omatg-ray: Ray's files go to /tmp/ray, since" in done.stderr
    assert "ray.address=10.71.0.1:20100" in (folder / "calls").read_text()
    assert os.readlink(folder / "runs" / "r" / "checkpoints" / "last") == "iteration_000002", said
    assert not list(long.iterdir())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_signal_to_all_processes_of_the_real_ray(
    workshop: Workshop, base: Path, tmp_path: Path, machine: list[str]
) -> None:
    """SIGUSR1, which Slurm sends to the whole step: the run stops at its boundary, and has the actors to get there."""
    folder = with_real_ray(tmp_path)
    metrics = folder / "runs" / "r" / "metrics.jsonl"
    stand_in(folder, "srun", SIGNALLING.replace("METRICS", str(metrics)))
    words = [str(workshop.config), f"base={base}", "run=runs/r", "iterations=100000", "ray.rollout.workers=1", *SHARES]
    words += ["validation.every=100000", "checkpoint.every=100000"]
    done = submit(folder, 3000, *words, before=machine, patience=580, **NODE)
    said = done.stdout + done.stderr
    assert done.returncode == 130, said
    reached = re.search(r"stopped after iteration (\d+) of 100000", said)
    assert reached is not None, said
    assert os.readlink(folder / "runs" / "r" / "checkpoints" / "last") == f"iteration_{int(reached[1]):06d}"


@pytest.mark.long
def test_the_real_ray_that_does_not_start(tmp_path: Path, machine: list[str]) -> None:
    done = submit(with_real_ray(tmp_path), 3000, "run=r", before=machine, RAY_TMPDIR="/proc/none", **NODE)
    assert done.returncode == 1
    assert "Failed to start Ray" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("omatg-ray: the run did not start, or was killed")
