"""What the documentation names exists, and its Python code runs."""

import importlib
import re
from pathlib import Path

import pytest

from tf_triplet.config import paper_config

ROOT = Path(__file__).parent.parent
PAGES = [
    str(path.relative_to(ROOT))
    for path in sorted(
        [
            *(ROOT / name for name in ("README.md", "BUILD_NOTES.md")),
            ROOT / "CONTRIBUTING.md",
            ROOT / "export" / "README.md",
            *ROOT.glob("docs/**/*.md"),
        ]
    )
]
FOLDERS = {"tf_triplet", "tests", "docs", "export", "configs", "benchmarks"}
# A Python block; `title="name.py"` makes it a file that later blocks import.
PYTHON = re.compile(
    r'^```python(?: title="(?P<title>[\w.]+)")?\n(?P<code>.*?)^```',
    re.DOTALL | re.MULTILINE,
)
PROGRAM = re.compile(r"^(?:\S+=\S+ )*tf-triplet-\w+\s.*?(?<!\\)$", re.M | re.S)


def read(page):
    return (ROOT / page).read_text()


def code_spans(page):
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?s)```.*?```", "", read(page)))


PAGES_WITH_PYTHON = [
    page
    for page in PAGES
    if PYTHON.search(read(page)) and page != "docs/quick_start.md"
]


def run_python(page):
    """Runs the page's blocks in order, as one program."""
    names = {"__name__": "__main__"}
    for match in PYTHON.finditer(read(page)):
        if match["title"]:
            Path(match["title"]).write_text(match["code"])
            importlib.invalidate_caches()
        else:
            exec(compile(match["code"], page, "exec"), names)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The folder of a finished run, runs/shop of the quick start."""
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_python("docs/quick_start.md")
    return folder / "runs" / "shop"


def test_quick_start_makes_a_run(shop):
    assert (shop / "encoder.keras").is_file()
    assert list(shop.glob("report/*"))


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON)
def test_python_code_runs(page, shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shop").symlink_to(shop)
    run_python(page)


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page):
    named = [
        span.partition("::")[0]
        for span in code_spans(page)
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?(::\w+)?", span)
        and span.split("/")[0] in FOLDERS
    ]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_names_exist(page):
    for name in code_spans(page):
        if not re.fullmatch(r"tf_triplet(\.\w+)+", name):
            continue
        thing = importlib.import_module("tf_triplet")
        for part in name.split(".")[1:]:
            try:
                thing = getattr(thing, part)
            except AttributeError:
                thing = importlib.import_module(f"{thing.__name__}.{part}")


@pytest.mark.parametrize("page", PAGES)
def test_config_fields_exist(page):
    # Flags and assignments, config.a.b, and code spans that begin like them.
    named = re.findall(r"config\.([a-z_]+(?:\.[a-z_0-9]+)+)\b", read(page))
    spans = [re.match(r"[a-z_]+(\.[a-z_]+)+", s) for s in code_spans(page)]
    sections = paper_config().keys()
    named += [s[0] for s in spans if s and s[0].split(".")[0] in sections]
    assert not {name for name in named if not is_field(name)}


def is_field(name):
    section = paper_config()
    for part in name.split("."):
        # What an open section holds is up to the user.
        if section is None or part not in section:
            return name.startswith("loss.arguments.") or part in ("py", "json")
        section = section.get(part) if hasattr(section, "keys") else None
    return True


@pytest.mark.parametrize("page", PAGES)
def test_flags_exist(page):
    sources = "".join(
        path.read_text() for path in (ROOT / "tf_triplet/cli").glob("*.py")
    )
    for command in PROGRAM.findall(read(page)):
        for flag in re.findall(r"--(\w+)(?=[=\s]|$)", command):
            assert flag == "help" or f'"{flag}"' in sources, (flag, command)


def test_diagram_shows_every_package():
    diagram = (ROOT / "docs/packages.svg").read_text()
    for path in (ROOT / "tf_triplet").iterdir():
        name = path.stem
        if name.startswith("_") or name in ("version", "py"):
            continue
        assert f">{name}<" in diagram, name
