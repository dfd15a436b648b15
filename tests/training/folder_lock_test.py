"""One process at a time writes to a run's folder."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest

from tf_triplet import config as configs
from tf_triplet import workflows
from tf_triplet.training import folder_lock

HOLD = """
import sys, time
from tf_triplet.training import folder_lock
with folder_lock.locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_the_error_names_the_process(tmp_path, other):
    told = f"{tmp_path} is in use by process {other.pid}. Wait until"
    with pytest.raises(folder_lock.FolderInUseError, match=told):
        with folder_lock.locked(tmp_path):
            pass
    # Every workflow that writes to the folder says so, before it changes it.
    config = configs.paper_config()
    config.data.source = "rendered"
    with pytest.raises(OSError, match=told):
        workflows.train(config, tmp_path, resume=False)
    with pytest.raises(OSError, match=told):
        workflows.compare({"a": workflows.Method(config)}, [0], tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match=told):
        workflows.demo(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".lock", "config.json"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_lock(tmp_path, other, number):
    other.send_signal(number)
    other.wait()
    with folder_lock.locked(tmp_path):
        holder = json.loads((tmp_path / ".lock").read_text())
        assert holder["pid"] == os.getpid()


def test_a_mistake_leaves_no_new_folder(tmp_path):
    with pytest.raises(ValueError), folder_lock.locked(tmp_path / "a"):
        raise ValueError
    assert not (tmp_path / "a").exists()
    with folder_lock.locked(tmp_path / "a"):
        (tmp_path / "a" / "config.json").touch()
    assert (tmp_path / "a" / "config.json").exists()


@pytest.mark.parametrize("text", ["", "7", '{"pid": 7', "\x00\x00"])
def test_a_damaged_file_still_locks(tmp_path, text):
    with folder_lock.locked(tmp_path):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(OSError, match="in use by another process"):
            with folder_lock.locked(tmp_path):
                pass


def test_a_holder_on_another_machine(tmp_path):
    with folder_lock.locked(tmp_path):
        text = json.dumps({"pid": 7, "host": "gpu-3"})
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(OSError, match="in use by process 7 on gpu-3"):
            with folder_lock.locked(tmp_path):
                pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def fail(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with folder_lock.locked(tmp_path):
        assert "has no locks" in caplog.text


@pytest.mark.parametrize(
    "cluster,task,holds",
    [
        (["chief", "worker"], ("chief", 0), True),
        (["chief", "worker"], ("worker", 0), False),
        (["worker"], ("worker", 0), True),
        (["worker"], ("worker", 1), False),
        (["worker"], ("evaluator", 0), False),
    ],
)
def test_of_several_workers_the_chief_holds_it(
    tmp_path, monkeypatch, cluster, task, holds
):
    described = {
        "cluster": {name: ["localhost:1"] for name in cluster},
        "task": dict(zip(("type", "index"), task)),
    }
    monkeypatch.setenv("TF_CONFIG", json.dumps(described))
    with folder_lock.locked(tmp_path):
        assert (tmp_path / ".lock").exists() == holds
