"""The layers of the package: what may import what, and how large a part is.

A module imports only lower layers or its own package. A program only reads its
flags and calls a function that works without them.
"""

import ast
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tf_triplet import workflows

ROOT = Path(__file__).parent.parent / "tf_triplet"
LEVELS = {
    "version": -1,
    "config": 0,
    "progress": 0,
    "data": 1,
    "losses": 1,
    "models": 1,
    "retrieval": 1,
    "training": 2,
    "evaluation": 2,
    "servable": 2,
    "reporting": 2,
    "client": 2,
    "grpc_channel": 0,
    "serving": 3,
    "builders": 3,
    "workflows": 4,
    "cli": 5,
}
# Files and folders that may import an outside package or module.
ROOMS = {
    "absl.app": ("cli/program.py",),
    "absl.flags": ("cli/",),
    "ml_collections": ("config.py", "builders/", "workflows/", "cli/train.py"),
    "scann": ("servable/scann_index.py",),
    "tensorflow_addons": (
        "data/augmentation.py",
        "losses/third_party.py",
        "training/schedules.py",
    ),
    # reporting/projector.py imports it by a string.
    "tensorflow_similarity": ("losses/third_party.py",),
}
# Pairs (a, b) of packages or root modules of which a imports b. There were 56
# before the packages were cut by their jobs.
MOST_PAIRS = 41
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
# Of `import tf_triplet.workflows`: slow, and not needed for --help.
SLOW = ("tensorflow", "pandas", "matplotlib", "sklearn", "grpc", "rich")
FILES = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
PROGRAMS = [path for path in FILES if path.parent == ROOT / "cli"]
each_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: str(path.relative_to(ROOT))
)
each_program = pytest.mark.parametrize(
    "path", PROGRAMS, ids=lambda path: path.stem
)


def imports(path):
    """Yields the dotted names of all that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{a.name}" for a in node.names)


def part(path):
    """Returns the package or root module of a file."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_parts(path):
    """Returns the other packages and root modules that a file imports."""
    names = [name.split(".") for name in imports(path)]
    parts = {n[1] for n in names if n[0] == "tf_triplet" and len(n) > 1}
    return parts - {part(path)}


def test_every_part_has_a_level():
    assert {part(path) for path in FILES} == set(LEVELS)


@each_file
def test_imports_point_down(path):
    for other in imported_parts(path):
        assert LEVELS[other] < LEVELS[part(path)], other


@each_file
def test_outside_packages_stay_in_their_rooms(path):
    here = str(path.relative_to(ROOT))
    for name in imports(path):
        for package, rooms in ROOMS.items():
            if f"{name}.".startswith(f"{package}."):
                assert here.startswith(rooms), name


def test_few_pairs_import_each_other():
    pairs = {
        (part(path), other) for path in FILES for other in imported_parts(path)
    }
    print(f"{len(pairs)} pairs")
    assert len(pairs) <= MOST_PAIRS, sorted(pairs)


@each_file
def test_modules_are_short(path):
    if path == ROOT / "config.py":
        return
    assert len(path.read_text().splitlines()) <= MOST_LINES


@each_file
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                lines -= text.end_lineno - text.lineno + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{node.name}: {lines}"


@each_program
def test_a_program_only_calls_what_works_without_flags(path):
    assert imported_parts(path) <= {
        *("workflows", "client", "serving", "config", "builders")
    }
    for name in imports(path):
        package = name.split(".")[0]
        assert package in ("tf_triplet", "absl", "ml_collections", "rich") or (
            package in sys.stdlib_module_names or package == "__future__"
        ), name
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.ClassDef), node.name
        # `builders` is for the choices of a flag, and for trusting a run.
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "builders":
                assert node.attr == "CHOICES"


def flag_names(program):
    """Returns the flags that a program defines, by their names."""
    tree = ast.parse((ROOT / "cli" / f"{program}.py").read_text())
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "").startswith("DEFINE_")
        and node.func.attr != "DEFINE_alias"
    }


def fields(options):
    return {field.name for field in dataclasses.fields(options)}


def arguments(function):
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    "programs,known,other",
    [
        (
            ["train"],
            arguments(workflows.train),
            # Functions of their own: check_data and verify_counts.
            {"check", "verify"},
        ),
        (
            ["evaluate"],
            arguments(workflows.evaluate) | fields(workflows.EvaluateOptions),
            # Methods of the report: draw_neighbors and write_projector.
            {"neighbors", "projector"},
        ),
        (
            ["export", "index", "export_flags"],
            arguments(workflows.export) | fields(workflows.ExportOptions),
            set(),
        ),
        (
            ["compare"],
            arguments(workflows.compare),
            # Functions of their own: read_configs and choose_methods; the
            # folder is called output.
            {"configs", "methods", "output"},
        ),
    ],
)
def test_every_flag_is_an_argument_too(programs, known, other):
    flags = set().union(*map(flag_names, programs))
    assert other <= flags
    assert flags - known == other


def test_workflows_are_functions_and_cheap_to_import():
    code = (
        "import sys, types, tf_triplet.workflows as workflows\n"
        f"slow = set({SLOW!r}) & set(sys.modules)\n"
        "assert not slow, slow\n"
        "for name in ('train', 'evaluate', 'export', 'embed_catalog', "
        "'compare', 'demo', 'check_data'):\n"
        "    assert isinstance(getattr(workflows, name), types.FunctionType)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
