"""Worker processes of Ray that start in a tenth of a second: forks of one process that has imported everything.

A worker of this project imports PyTorch, and many import MatGL, which takes a core for two to ten seconds; tests start
hundreds of them. Their nodes therefore start `python nursery.py` in the place of Ray's own `setup_worker.py`. It asks
the nursery, a process without threads of its own, for a fork of itself, which becomes the worker in all other respects:
it has the environment, the working directory, the output and the arguments that the node gave, and from there on it
runs what Ray runs. It is registered, killed, found dead and replaced as any other.

Nodes that are to start their workers as users' nodes do are added without it (`add_node(fresh=True)`).
"""

from __future__ import annotations

import argparse
import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOCKET = "OMATG_RAY_TEST_NURSERY"
"""Environment variable of nodes: where the nursery listens."""
JOB = "01000000"
"""The first driver of a cluster, that is the tests' own process.

Ray's compiled part reads the job of a worker from the environment as it is imported, so that a fork can work for one
driver only; the workers of others start as Ray has it. It reads there, too, which process has to be alive for a worker
to go on: in place of its node, which ends its workers itself, that is the tests' own process.
"""
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_JOB_ID": JOB}
NURSERY = __file__
"""What nodes start workers with."""
MODULES = (
    "ray",
    "ray.tune",
    "ray.train.torch",
    "torch.distributed",
    "matgl.models",
    "matgl.apps.pes",
    "omatg_ray.commands.train",
    "omatg_ray.commands.tune",
    "omatg_ray.commands.pretrain",
    "omatg_ray.distributed.workers",
    "omatg_ray.distributed.evaluation_backend",
    "omatg_ray.distributed.training_backend",
    "omatg_ray.train.ray_train",
    "omatg_ray.distributed.actor_set",
    "omatg_ray.tune.ray_tune",
    "omatg_ray.tune.trainable",
    "omatg_ray.evaluate.backend",
    "omatg_ray.reward.energy",
    "omatg_ray.reward.matching",
    "omatg_ray.rl.scoring",
    "tests.distributed.conftest",
)
READY = b"ready\n"
DRAWN_AT_START = 4
"""Names of objects that a worker draws as it starts, or more."""


@contextmanager
def nursery(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A nursery that listens in a folder with a short name, and ends with the context.

    Gives the path of its socket, and what waits until it has imported everything.
    """
    path = folder / "nursery"
    log = folder / "nursery.log"
    with log.open("w") as output:
        # The length of the command is the room that workers have for their titles.
        command = [sys.executable, "-u", "-m", __name__, str(path), "-" * 200]
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
            start_new_session=True, env=os.environ | ENVIRONMENT | {"RAY_RAYLET_PID": str(os.getpid())},
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def wait() -> None:
        assert process.stdout is not None
        assert process.stdout.readline() == READY, log.read_text()

    try:
        yield str(path), wait
    finally:
        # Its input is only there to end it where this process is killed.
        process.kill()
        process.communicate()


def serve(path: str) -> dict[str, object]:
    """Forks for everybody who asks until standard input ends; returns in the children, with what was asked."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    for module in MODULES:
        importlib.import_module(module)
    import numpy as np
    import ray

    gc.freeze()  # what is not touched is not copied
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    os.write(1, READY)

    count = 0
    while True:
        readable, _, _ = select.select([server, 0], [], [])
        if 0 in readable:
            os._exit(0)
        connection, _ = server.accept()
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        count += 1
        if os.fork():
            connection.close()
            for stream in streams:
                os.close(stream)
            continue
        os.setpgid(0, 0)  # nodes end workers with all that these have started, by their group
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        server.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # As in fresh interpreters, what is drawn is another in each.
        np.random.seed()  # noqa: NPY002
        # Ray's own generator has begun by now, and two workers that name an object alike in one store do not start.
        for _ in range(DRAWN_AT_START * count):
            ray.ObjectRef.from_random()
        with connection.makefile() as message:
            asked: dict[str, object] = json.loads(message.readline())
        connection.detach()  # whoever asked sees it closed when this process ends, however it does
        return asked


def become(asked: dict[str, object]) -> None:
    """Turns a fork into the worker that was asked for."""
    environment, folder, words = asked["environment"], asked["folder"], asked["words"]
    assert isinstance(environment, dict) and isinstance(folder, str) and isinstance(words, list)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    status = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    finally:
        # To take thousands of modules apart costs a second, and is of no use.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ask(words: list[str]) -> None:
    """In the place of Ray's `setup_worker.py`: has a worker forked, and stays as long as it lives."""
    if os.environ.get("RAY_JOB_ID") != JOB:
        path = Path(find_spec("ray").origin).parent / "_private" / "workers" / "setup_worker.py"  # type: ignore[union-attr, arg-type]
        os.execv(sys.executable, [sys.executable, str(path), *words])
    parser = argparse.ArgumentParser()
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    known, rest = parser.parse_known_args(words)
    context = json.loads(known.serialized_runtime_env_context)
    # A worker that is to run in some other way is none that can be forked here.
    assert context.get("py_executable", sys.executable) == sys.executable and not context.get("command_prefix"), context
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        asked = {
            "environment": {**os.environ, **context.get("env_vars", {})},
            "folder": os.getcwd(),
            "words": rest,
        }
        socket.send_fds(connection, [b"-"], [0, 1, 2])
        connection.sendall(json.dumps(asked).encode() + b"\n")
        with suppress(OSError):
            connection.recv(1)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        become(serve(sys.argv[1]))
    else:
        ask(sys.argv[1:])
