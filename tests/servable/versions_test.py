"""Versions appear whole, numbered, or not at all."""

import threading

import pytest

from tf_triplet.servable import versions


def publish(folder, text="x"):
    with versions.publish(folder) as partial:
        (partial / "saved_model.pb").write_text(text)


def test_none_yet(tmp_path):
    assert versions.list_versions(tmp_path / "nowhere") == []
    assert versions.list_versions(tmp_path) == []


# "²" is a digit to Python, but no number; "٣" is one, to Python alone.
@pytest.mark.parametrize("name", ["²", "٣", "007", "-1", "1.0", " 1", "latest"])
def test_a_name_that_is_no_version_is_ignored(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "saved_model.pb").touch()
    assert versions.list_versions(tmp_path) == []
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [1]


def test_a_number_that_the_protocol_has_no_room_for_is_ignored(tmp_path):
    for name in (2**63 - 1, 2**63, "20261125030405123456"):
        (tmp_path / str(name)).mkdir()
        (tmp_path / str(name) / "saved_model.pb").touch()
    assert versions.list_versions(tmp_path) == [2**63 - 1]


def test_versions_rise_as_numbers_not_as_names(tmp_path):
    for number in (10, 9, 0):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "saved_model.pb").touch()
    (tmp_path / "11").write_text("a file")
    assert versions.list_versions(tmp_path) == [0, 9, 10]


def test_a_reader_sees_a_version_whole(tmp_path):
    with versions.publish(tmp_path) as partial:
        (partial / "variables").mkdir()
        (partial / "saved_model.pb").touch()
        # TensorFlow Serving takes names that are numbers.
        assert not [p for p in tmp_path.iterdir() if p.name.isdigit()]
        (partial / "variables" / "data").touch()
    assert (tmp_path / "1" / "variables" / "data").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    # mkdtemp's own 0o700 would hide it from a server of another user.
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o755


def test_numbers_go_on_after_gaps_and_ignore_what_is_no_version(tmp_path):
    for name in ("notes", "7x", ".partial-old", "12"):
        (tmp_path / name).mkdir()
    (tmp_path / "12" / "half").touch()  # No SavedModel in it.
    publish(tmp_path)
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "saved_model.pb").touch()
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [1, 9, 10]


def test_a_number_that_is_taken_by_something_else_is_left_alone(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "mine").write_text("keep")
    publish(tmp_path)
    assert versions.list_versions(tmp_path) == [2]
    assert (tmp_path / "1" / "mine").read_text() == "keep"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no parity"):
        with versions.publish(tmp_path) as partial:
            (partial / "saved_model.pb").touch()
            assert versions.list_versions(tmp_path) == []
            raise RuntimeError("no parity")
    assert list(tmp_path.iterdir()) == []


def test_exports_at_the_same_time_get_numbers_of_their_own(tmp_path):
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
