"""No file names this machine, a package registry's host, or another folder."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each is written so that it does not match itself.
FORBIDDEN = {
    "a path of one machine": r"[/](work|root|home|Users)/\w",
    "a temporary folder": r"(?<!\w)[/]tmp/\w",
    "a package registry's host": (
        r"(?i)\b(pypi|pythonhosted|npmjs|yarnpkg|debian)[.](org|com)\b"
    ),
    "a file outside the repository": (
        r"[.][.]/shared/|(?<!\w)shared/(design|trials)/\w"
    ),
}


def tracked_files():
    """The text files that git knows; in a copy without git, none."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("This copy has no git folder.")
    for name in sorted(filter(None, listed.stdout.split("\0"))):
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:8000]:
            yield name, path.read_text()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what):
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_files()
        for match in re.finditer(FORBIDDEN[what], text)
    ]
    assert not found


def test_readme_lines_fit_a_window():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if len(line) > 120] == []
