from __future__ import annotations

import os
import signal
import threading

import pytest

from omatg_ray.run.interrupt import StopRequest


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
