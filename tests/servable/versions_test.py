"""Versions appear numbered and complete, or not at all."""

import shutil
import threading

import pytest

from tf_triplet.servable import versions


def publish(folder, text="x"):
    with versions.publish(folder) as partial:
        (partial / "saved_model.pb").write_text(text)


def test_an_empty_or_missing_folder_has_no_versions(tmp_path):
    assert versions.list_versions(tmp_path / "nowhere") == []
    assert versions.list_versions(tmp_path) == []


# Python counts "²" as a digit, and reads "٣" as a number.
@pytest.mark.parametrize("name", ["²", "٣", "007", "-1", "1.0", " 1", "latest"])
def test_other_names_are_ignored(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "saved_model.pb").touch()
    assert versions.list_versions(tmp_path) == []
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [1]


def test_numbers_beyond_int64_are_ignored(tmp_path):
    for name in (2**63 - 1, 2**63, "20261125030405123456"):
        (tmp_path / str(name)).mkdir()
        (tmp_path / str(name) / "saved_model.pb").touch()
    assert versions.list_versions(tmp_path) == [2**63 - 1]


def test_versions_are_sorted_as_numbers(tmp_path):
    for number in (10, 9, 0):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "saved_model.pb").touch()
    (tmp_path / "11").write_text("a file")
    assert versions.list_versions(tmp_path) == [0, 9, 10]


def test_a_reader_sees_only_complete_versions(tmp_path):
    with versions.publish(tmp_path) as partial:
        (partial / "variables").mkdir()
        (partial / "saved_model.pb").touch()
        # TensorFlow Serving would load a folder whose name is a number.
        assert not [p for p in tmp_path.iterdir() if p.name.isdigit()]
        (partial / "variables" / "data").touch()
    assert (tmp_path / "1" / "variables" / "data").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    # With the mode of mkdtemp, 0o700, another user's server could not read it.
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755


def test_the_next_number_follows_the_highest_version(tmp_path):
    for name in ("notes", "7x", ".partial-old", "12"):
        (tmp_path / name).mkdir()
    (tmp_path / "12" / "half").touch()  # It holds no SavedModel.
    publish(tmp_path)
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "saved_model.pb").touch()
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [1, 9, 10]


def test_a_number_taken_by_another_folder_is_skipped(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "mine").write_text("keep")
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [2]
    assert (tmp_path / "1" / "mine").read_text() == "keep"


def test_a_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError, match="no parity"):
        with versions.publish(tmp_path) as partial:
            (partial / "saved_model.pb").touch()
            assert versions.list_versions(tmp_path) == []
            raise RuntimeError("no parity")
    assert list(tmp_path.iterdir()) == []


def test_simultaneous_exports_get_different_numbers(tmp_path):
    barrier = threading.Barrier(8)

    def run(i):
        with versions.publish(tmp_path) as partial:
            (partial / "saved_model.pb").write_text(str(i))
            barrier.wait()

    threads = [threading.Thread(target=run, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions.list_versions(tmp_path) == list(range(1, 9))
    texts = {p.read_text() for p in tmp_path.glob("*/saved_model.pb")}
    assert texts == set(map(str, range(8)))


def test_pruning_keeps_the_newest(tmp_path):
    for _ in range(4):
        publish(tmp_path)
    (tmp_path / "notes").mkdir()
    assert versions.prune(tmp_path, keep=5) == ([], {})
    assert versions.prune(tmp_path, keep=2) == ([1, 2], {})
    assert versions.prune(tmp_path, keep=1) == ([3], {})
    assert versions.prune(tmp_path, keep=1) == ([], {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "notes"]
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [4, 5]
    with pytest.raises(ValueError, match="at least 1. Received: 0"):
        versions.prune(tmp_path, keep=0)


def test_a_version_that_is_held_is_not_pruned(tmp_path):
    for _ in range(3):
        publish(tmp_path)
    with versions.hold(tmp_path / "1"), versions.hold(tmp_path / "1"):
        left = {1: "a program has it loaded"}
        assert versions.prune(tmp_path, keep=1) == ([2], left)
    assert versions.prune(tmp_path, keep=1) == ([1], {})


def test_a_version_that_cannot_be_removed_is_told(tmp_path, monkeypatch):
    for _ in range(3):
        publish(tmp_path)
    remove = shutil.rmtree

    def fail(path):
        raise PermissionError(f"not allowed: {path}")

    monkeypatch.setattr(shutil, "rmtree", fail)
    removed, left = versions.prune(tmp_path, keep=1)
    assert removed == [] and sorted(left) == [1, 2]
    assert left[1].startswith("it cannot be removed (not allowed: ")
    monkeypatch.setattr(shutil, "rmtree", remove)
    # No server sees what is left of them, and the next export removes it.
    assert versions.list_versions(tmp_path) == [3]
    versions.remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["3"]
