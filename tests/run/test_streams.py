"""Standard streams that are closed, full, or lose their reader; in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "omatg_ray"]

# Says something on both streams before and after its reader has gone, then leaves a file as a sign that it got there.
WORK = """\
import os, sys
from pathlib import Path
from omatg_ray.cli.program import main
from omatg_ray.cli.verbs import config
from omatg_ray.run.progress import print_line

def work(arguments):
    print("first", flush=True)
    sys.stdin.readline()
    print("lost", flush=True)
    print_line("lost")
    os.write(1, b"lost, by a library that writes past Python")
    print("lost at the end")
    Path(sys.argv[2]).touch()

config.run = work
sys.exit(main(["config"]))
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(tmp_path: Path, closed: str) -> None:
    script = "import sys; from omatg_ray.cli import main; code = main(['info']); open(sys.argv[1], 'w').write('done')"
    command = f'"$0" -c "$1" "$2" {closed} && echo "$?" >"$3"'
    arguments = [sys.executable, script, str(tmp_path / "file"), str(tmp_path / "code")]
    subprocess.run(["sh", "-c", command, *arguments], check=True, capture_output=True)
    assert (tmp_path / "code").read_text() == "0\n"
    # Nothing that was printed went into what was opened next.
    assert (tmp_path / "file").read_text() == "done"


def test_processes_that_are_started_have_the_streams_too(tmp_path: Path) -> None:
    child = "import os, sys; [os.fstat(number) for number in range(3)]; open(sys.argv[1], 'w').write('done')"
    script = (
        "import subprocess, sys; from omatg_ray.run.streams import open_closed; open_closed(); "
        "subprocess.run([sys.executable, '-c', *sys.argv[1:]], check=True, close_fds=True)"
    )
    command = '"$0" -c "$1" "$2" "$3" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", command, sys.executable, script, child, str(tmp_path / "file")], check=True)
    assert (tmp_path / "file").read_text() == "done"


def test_an_error_on_a_closed_stream_has_its_exit_code() -> None:
    assert subprocess.run(["sh", "-c", '"$0" -m omatg_ray train seed=x 2>&-', sys.executable]).returncode == 2


def test_work_goes_on_when_its_reader_has_gone(tmp_path: Path) -> None:
    done = tmp_path / "done"
    ends = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, "config", str(done)],
        stdin=subprocess.PIPE,
        stdout=ends[1],
        stderr=ends[1],
    )
    os.close(ends[1])
    assert os.read(ends[0], 100) == b"first\n"
    os.close(ends[0])
    process.communicate(b"\n")
    assert done.exists()
    assert process.returncode == 141


def test_output_that_finds_no_room_is_an_error(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = subprocess.run([*COMMAND, "config"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    assert process.stderr == "omatg-ray: the output could not be written: No space left on device\n"


def test_names_that_are_no_text_can_be_said() -> None:
    command = [*map(os.fsencode, COMMAND), b"train", b"r\xe9.yaml"]
    process = subprocess.run(command, capture_output=True)
    assert process.returncode == 2
    assert rb"cannot read config r\udce9.yaml" in process.stderr
