from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from omatg_ray.run.interrupt import AHEAD, StopRequest, deaf_children


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    previous = signal.getsignal(number)
    with StopRequest("this epoch") as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert "stopping after this epoch" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is previous


@pytest.mark.parametrize("number", AHEAD)
def test_what_announces_an_end_asks_however_often_it_comes(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """A terminal that is closed sends SIGHUP twice or more; then somebody may send SIGTERM too."""
    previous = signal.getsignal(number)
    with StopRequest("this epoch") as stop:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)
        said = capfd.readouterr().err
        assert said.count("stopping after this epoch") == 2 and f"({number.name})" in said
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is previous


def test_what_nohup_has_made_deaf_stays_so() -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest("this epoch") as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.processes
def test_a_terminal_that_has_gone_is_no_reason_to_end() -> None:
    """Its last message has no reader."""
    code = (
        "import os, signal; from omatg_ray.run.interrupt import StopRequest\n"
        "with StopRequest('this epoch') as stop:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(stop.requested)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as gone:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=gone, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.mark.processes
def test_processes_that_are_started_deaf_live_on() -> None:
    """And the signals that come meanwhile are not lost."""
    listens, child = "import sys; print('ready', flush=True); sys.stdin.read()", None
    with StopRequest("this epoch") as stop:
        with deaf_children():
            child = subprocess.Popen([sys.executable, "-c", listens], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            # To this thread: of a whole process's signals, another thread may take one, at its own time.
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            assert not stop.requested
        assert stop.requested
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    for number in AHEAD:
        child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 0


def test_handlers_return_after_an_error() -> None:
    previous = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="inside"), StopRequest("this epoch"):
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is previous


def test_other_threads_keep_the_handlers_of_the_process() -> None:
    previous, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StopRequest("this epoch") as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(previous, False)]
