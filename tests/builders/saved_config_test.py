"""Paths of a config, and the config in a run's folder."""

import os

import pytest

from tf_triplet import builders
from tf_triplet import config as configs


def config(**changes):
    made = configs.paper_config()
    made.update_from_flattened_dict(changes)
    return made


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder that relative paths are relative to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("field", ["data.path", "model.path", "model.weights"])
@pytest.mark.parametrize(
    "given,expected",
    [
        ("shop/may.csv", "{here}/shop/may.csv"),
        ("../shop//may.csv", "{parent}/shop/may.csv"),
        ("./shop/", "{here}/shop"),
        ("~/may.csv", "{home}/may.csv"),
        ("/shop/may.csv", "/shop/may.csv"),
        ("gs://bucket/may.csv", "gs://bucket/may.csv"),
    ],
)
def test_paths_become_absolute(here, field, given, expected):
    resolved = builders.resolve_paths(config(**{field: given}))
    got = configs.flatten(resolved.to_dict())[field]
    assert got == expected.format(
        here=here, parent=here.parent, home=here / "home"
    )


def test_a_link_stays_a_link(here):
    (here / "may").mkdir()
    (here / "latest").symlink_to(here / "may")
    resolved = builders.resolve_paths(config(**{"data.path": "latest"}))
    assert resolved.data.path == str(here / "latest")


def test_what_is_no_path_stays(here):
    for changes in (
        {"data.path": "", "model.weights": "imagenet"},
        {"model.weights": "registry"},
        # A source of your own may read from a database.
        {"data.source": "mine:read", "data.path": "orders"},
    ):
        made = config(**changes)
        assert builders.resolve_paths(made) == made
    (here / "orders").mkdir()
    assert os.path.isabs(builders.resolve_paths(made).data.path)


@pytest.mark.parametrize(
    "saved,given,same",
    [
        ("{here}/a.csv", "{here}/a.csv", True),
        ("{here}/link/a.csv", "{here}/real/a.csv", True),
        ("{here}/a.csv", "{here}/b.csv", False),
        # Earlier versions wrote what was given.
        ("shop/a.csv", "/elsewhere/shop/a.csv", True),
        ("../shop/a.csv", "/elsewhere/shop/a.csv", True),
        ("shop/a.csv", "/elsewhere/stop/a.csv", False),
        ("..", "/elsewhere", False),
    ],
)
def test_two_paths_of_one_file_are_no_change(here, saved, given, same):
    (here / "real").mkdir()
    (here / "link").symlink_to(here / "real")
    before, after = (
        config(**{"data.path": path.format(here=here)})
        for path in (saved, given)
    )
    changes = builders.config_changes(before, after)
    assert bool(changes) != same
    after.loss.margin = 0.3
    assert "loss.margin: 0.1 -> 0.3" in builders.config_changes(before, after)


@pytest.mark.parametrize("text", ["", "[]", '{"data": {"pa', "\x00\x00", "7"])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for read in (builders.read_config, builders.load_config):
        with pytest.raises(ValueError) as caught:
            read(tmp_path)
        told = str(caught.value)
        assert told.startswith(f"{tmp_path / 'config.json'} is damaged: ")
        assert "delete the file and pass that config" in told


@pytest.mark.parametrize(
    "text", ['{"datum": {"path": ""}}', '{"data": 5}', '{"seed": "x"}']
)
def test_a_file_of_another_version_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json: The saved config"):
        builders.read_config(tmp_path)
