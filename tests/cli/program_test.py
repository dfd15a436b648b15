"""What a mistake looks like, and what stays a defect with its traceback."""

import signal
import subprocess
import sys

import pytest

from tf_triplet.cli import end_at_once, program


def raising(error):
    def main(argv):
        raise error

    return program.friendly(main)


@pytest.mark.parametrize(
    "error,text",
    [
        (ValueError("`a` must be b"), "error: `a` must be b"),
        (FileNotFoundError(2, "No such file", "x"), "error: [Errno 2] No such"),
        # TensorFlow's own kind of error.
        (RuntimeError("x/1; No space left on device"), "The disk is full."),
    ],
)
def test_a_mistake_is_one_message(error, text, capsys):
    with pytest.raises(SystemExit) as caught:
        raising(error)([])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told


def test_a_defect_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="a defect"):
        raising(RuntimeError("a defect"))([])


def test_a_mistake_keeps_it_too_where_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("TF_TRIPLET_DEBUG", "1")
    with pytest.raises(ValueError, match="a mistake"):
        raising(ValueError("a mistake"))([])


@pytest.mark.parametrize(
    "arguments,code,text",
    [
        ((), 130, "Interrupted."),
        # A second signal during training.
        ((signal.SIGTERM,), 143, "Interrupted."),
        ((signal.SIGINT, "Stopped."), 130, "Stopped."),
    ],
)
def test_a_stop_is_one_line(arguments, code, text, capsys):
    with pytest.raises(SystemExit) as caught:
        raising(KeyboardInterrupt(*arguments))([])
    assert caught.value.code == code
    assert capsys.readouterr().err == f"{text}\n"


@pytest.mark.parametrize("script", ["-m", "/usr/bin/tf-triplet-train"])
def test_ctrl_c_during_the_imports_is_one_line(script):
    code = (
        f"import sys, time; sys.argv = [{script!r}]; import tf_triplet.cli; "
        "print('imports', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with SIGINT ignored.
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "Interrupted.\n"
    assert process.returncode == 130


def test_ctrl_c_raises_an_error_in_main_only():
    seen = []
    main = program.friendly(
        lambda argv: seen.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.signal(signal.SIGINT, end_at_once)
    try:
        with pytest.raises(SystemExit):
            main([])
        assert seen == [signal.default_int_handler]
        assert signal.getsignal(signal.SIGINT) is end_at_once
    finally:
        signal.signal(signal.SIGINT, before)
    # In a test or in a program of somebody's own, nothing is changed.
    with pytest.raises(SystemExit):
        main([])
    assert seen[1] is before


def test_the_exit_code_of_a_program_stays(capsys):
    with pytest.raises(SystemExit) as caught:
        raising(SystemExit(143))([])
    assert caught.value.code == 143
    assert not capsys.readouterr().err
