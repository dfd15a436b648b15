"""A module imports only lower layers or its own package."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "tf_triplet"
LEVELS = {
    "version": -1,
    "config": 0,
    "data": 1,
    "losses": 1,
    "models": 1,
    "retrieval": 1,
    "training": 2,
    "evaluation": 2,
    "servable": 2,
    "reporting": 2,
    "client": 2,
    "serving": 3,
    "builders": 3,
    "workflows": 4,
    "progress": 0,
    "cli": 5,
}
# Who may know ConfigDict, and where an outside package has its room.
ROOMS = {
    "ml_collections": {
        *(
            "config.py",
            "builders/validation.py",
            "builders/data.py",
            "builders/run_folder.py",
        ),
        *("builders/objective.py", "builders/model.py"),
        *("workflows/compare.py", "workflows/train.py"),
        "cli/train.py",
    },
    "scann": {"servable/scann_index.py"},
    "tensorflow_addons": {
        *("data/augmentation.py", "losses/third_party.py"),
        "training/schedules.py",
    },
    # projector.py imports it by its name as text.
    "tensorflow_similarity": {
        "losses/third_party.py",
        "reporting/projector.py",
    },
}
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{a.name}" for a in node.names)


def part(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_point_down(path):
    own = part(path)
    for name in imports(path):
        pieces = name.split(".")
        if pieces[0] == "tf_triplet" and len(pieces) > 1:
            other = pieces[1]
            assert other == own or LEVELS[other] < LEVELS[own], name
        rooms = ROOMS.get(pieces[0])
        if rooms is not None:
            assert str(path.relative_to(ROOT)) in rooms, name


def test_every_part_has_a_level():
    assert {part(path) for path in FILES} == set(LEVELS)
