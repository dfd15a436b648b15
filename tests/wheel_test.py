"""The wheel holds all that its programs need: `make test-wheel`.

The wheel is built from a copy of the sources and installed into a fresh
environment, which finds the packages that it requires in this one.
"""

import configparser
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def programs():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    scripts = config["options.entry_points"]["console_scripts"]
    return [line.split("=")[0].strip() for line in scripts.split("\n") if line]


def files(package):
    return {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.suffix in (".py", ".pyi", ".typed")
    }


def run(*command, **more):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )
    # absl ends with 1 after --help.
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The `bin` folder of an environment with the wheel installed."""
    folder = tmp_path_factory.mktemp("wheel")
    # A `build` folder of the work tree would add files that are gone.
    source = folder / "source"
    shutil.copytree(ROOT / "tf_triplet", source / "tf_triplet")
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "-w", folder, source)
    (wheel,) = folder.glob("*.whl")
    fresh = folder / "fresh"
    venv.create(fresh)
    run(
        *(*pip, "--python", fresh / "bin/python", "install", "--quiet"),
        *("--no-deps", "--no-index", wheel),
    )
    (packages,) = fresh.glob("lib/python*/site-packages")
    (packages / "required.pth").write_text("\n".join(site.getsitepackages()))
    return fresh / "bin"


def test_the_package_is_whole(environment):
    code = "import tf_triplet; print(tf_triplet.TripletLoss.__module__)"
    code += "; print(tf_triplet.__file__)"
    text = run(environment / "python", "-c", code, cwd=environment)
    module, installed = text.split()
    assert module == "tf_triplet.losses.triplet"
    assert installed.startswith(str(environment.parent))
    built_from = environment.parent.parent / "source" / "tf_triplet"
    assert files(Path(installed).parent) == files(built_from)


@pytest.mark.parametrize("program", programs())
def test_help_of_every_program(program, environment):
    # Without PYTHONPATH and outside the repository, so that the package can
    # only come from the wheel.
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    text = run(environment / program, "--help", cwd=environment, env=clean)
    assert "flags:" in text
    assert f"{program} --" in text
