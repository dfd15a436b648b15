"""What a mistake looks like, and what stays a defect with its traceback."""

import pytest

from tf_triplet.cli import program


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


def test_ctrl_c_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        raising(KeyboardInterrupt())([])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_the_exit_code_of_a_program_stays(capsys):
    with pytest.raises(SystemExit) as caught:
        raising(SystemExit(143))([])
    assert caught.value.code == 143
    assert not capsys.readouterr().err
