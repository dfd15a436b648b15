"""A stop reaches the program that a workflow runs, which may save first."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tf_triplet.workflows import child_programs

# Saves at the first signal, as training does; a second one would be too early.
SAVES = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    with open(folder / "signals", "a") as file:
        print(number, file=file, flush=True)
    time.sleep(0.5)
    (folder / "saved").touch()
    sys.exit(128 + number)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
(folder / "ready").touch()
time.sleep(60)
"""


def signal_when_ready(folder, number):
    def send():
        while not (folder / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_the_program_saves(tmp_path, number):
    before = signal.getsignal(number)
    thread = signal_when_ready(tmp_path, number)
    with pytest.raises(KeyboardInterrupt) as caught:
        child_programs.run([sys.executable, "-c", SAVES, str(tmp_path)])
    thread.join()
    assert caught.value.args == (number,)
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "signals").read_text() == f"{int(number)}\n"
    assert signal.getsignal(number) is before


def test_the_code_of_a_program_comes_back(tmp_path):
    code = "import sys; print('told'); sys.exit(3)"
    with open(tmp_path / "log", "w") as log:
        command = [sys.executable, "-c", code]
        assert child_programs.run(command, stdout=log) == 3
    assert (tmp_path / "log").read_text() == "told\n"


def test_in_another_thread_signals_are_left_alone():
    codes = []
    command = [sys.executable, "-c", "pass"]
    run = lambda: codes.append(child_programs.run(command))  # noqa: E731
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [0]


def test_sigterm_lets_a_workflow_end_what_it_has_started():
    ended = []
    with pytest.raises(KeyboardInterrupt) as caught:
        with child_programs.interrupted_by_sigterm():
            server = child_programs.start(
                [sys.executable, "-c", "import time; time.sleep(60)"],
                stdout=subprocess.DEVNULL,
            )
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            finally:
                server.terminate()
                ended.append(server.wait(10))
    assert caught.value.args == (signal.SIGTERM,)
    assert ended == [-signal.SIGTERM]
