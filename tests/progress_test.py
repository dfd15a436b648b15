"""How long work shows its progress: a bar, lines of log, or nothing."""

import io
import re
import sys

import pytest

from tf_triplet import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_ten_seconds(caplog, clock):
    caplog.set_level("INFO", logger="absl")
    with progress.show_progress("Embedding", 100) as advance:
        for second in range(25):
            clock[0] = 100.0 + second
            advance(2 * second)
    assert [record.getMessage() for record in caplog.records] == [
        "Embedding: 20 of 100 images, 2 per second.",
        "Embedding: 40 of 100 images, 2 per second.",
    ]


def test_bytes_are_logged_in_readable_units(caplog, clock):
    caplog.set_level("INFO", logger="absl")
    with progress.show_progress("Fetching", None, unit="bytes") as advance:
        clock[0] += 20
        advance(40_000_000)
    (record,) = caplog.records
    assert record.getMessage() == "Fetching: 40.0 MB, 2.0 MB per second."


@pytest.mark.parametrize(
    "total,unit,shown",
    [(7, "files", "3/7 files"), (None, "bytes", "3/? bytes")],
)
def test_a_terminal_gets_a_bar(monkeypatch, total, unit, shown):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.show_progress("A [b] {c}", total, unit=unit) as advance:
        advance(3)
    text = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", sys.stderr.getvalue())
    assert "A [b] {c}" in text and shown in text


def test_nothing_is_shown_when_not_wanted(caplog, capsys, clock):
    caplog.set_level("INFO", logger="absl")
    with progress.show_progress("Embedding", 7, show=False) as advance:
        clock[0] += 60
        advance(3)
    assert not caplog.records and capsys.readouterr() == ("", "")
