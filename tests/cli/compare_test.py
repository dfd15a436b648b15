"""tf-triplet-compare, as it is run."""

import json
from pathlib import Path

import programs
import pytest
import tensorflow as tf

ROOT = Path(__file__).parents[2]
STUDY = """
from tf_triplet.config import paper_config
from tf_triplet.workflows.compare import Method


def recipe(**changes):
    config = paper_config()
    config.data.source = "rendered"
    config.data.image_size = 32
    config.data.rendered.products = 12
    config.data.rendered.images_per_product = 4
    config.model.backbone = "imported"
    config.model.path = {net!r}
    config.model.embedding_size = 4
    config.sampling.units_per_batch = 2
    config.training.steps = 2
    config.update_from_flattened_dict(changes)
    return config


def get_study():
    return {{
        "plain": Method(recipe(), "Baseline", trained=False),
        "paper": Method(recipe(), "Trained"),
        "too_wide": Method(
            recipe(**{{"sampling.units_per_batch": 99}}), "Trained"
        ),
    }}
"""


def compare(*arguments):
    return programs.run("compare", *arguments, cwd=ROOT, timeout=500)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    tf.keras.utils.set_random_seed(0)
    tf.keras.Sequential(
        [tf.keras.Input([32, 32, 3]), tf.keras.layers.Conv2D(4, 5, 4)]
    ).save(folder / "net.keras")
    path = folder / "study.py"
    path.write_text(STUDY.format(net=str(folder / "net.keras")))
    return path


def test_a_study_with_a_method_that_fails(study, tmp_path):
    flags = (f"--study={study}", f"--output={tmp_path / 'out'}")
    first = compare(*flags, "--seeds=0")
    assert first.returncode == 2
    assert "1 of 3 runs failed" in first.stderr
    assert "`units_per_batch` is 99" in first.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    runs = {run["method"]: run for run in results["runs"]}
    assert len(runs) == 3 and results["machine"]["cores"] >= 1
    plain = runs["plain"]["metrics"]
    assert 0 <= plain["recall@1"] <= 1 and runs["too_wide"]["metrics"] == {}
    assert runs["paper"]["config"]["data.source"] == "rendered"
    table = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert (
        table[0] == "| method | recall@1 | recall@10 | map@r | runs | seconds |"
    )
    assert table[2].startswith("| **Baseline** |")
    assert table[3].startswith("| plain | 0.") and "±" not in table[3]
    assert table[-3].startswith("| too_wide | - | - | - | 0 |")
    assert table[-1] == "This table is not complete: 2 of 3 runs."
    folder = tmp_path / "out" / "runs" / "paper" / "0"
    assert not list(folder.glob("*.keras"))
    log = (folder / "log.txt").stat().st_mtime_ns
    again = compare(*flags, "--seeds=0", "--methods=paper", "--metrics=map@r")
    assert again.returncode == 0, again.stderr[-2000:]
    assert (folder / "log.txt").stat().st_mtime_ns == log
    # The same images are held out with every seed.
    two = compare(*flags, "--seeds=0,1", "--methods=plain")
    assert two.returncode == 0, two.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [run["seed"] for run in results["runs"]] == [0, 1]
    assert [run["metrics"] for run in results["runs"]] == [plain, plain]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "±" in table and "complete" not in table


@pytest.mark.parametrize(
    "flags,message",
    [
        ([], "--output"),
        (["--output=x"], "--study or --configs"),
        (["--output=x", "--study=nowhere.py"], "nowhere.py does not exist"),
        (["--output=x", "--study=README.md"], "README.md is not a Python file"),
        (["--output=x", "--study=configs/sop.py"], "not define get_study"),
        (["--output=x", "--configs=configs/emoji.py:a"], "takes no argument"),
        (["--output=x", "--study=emoji_methods.py:9"], "emoji_methods.py does"),
        (
            ["--output=x", "--study=configs/studies/emoji_methods.py:9"],
            "at least 10. Received: '9'",
        ),
        (["--output=x", "--configs=configs/sop.py,a/sop.py"], "'sop'"),
        (["--output=x", "--study=STUDY", "--methods=a"], "plain, paper"),
        (["--output=x", "--study=STUDY", "--seeds=one"], "--seeds must be"),
    ],
)
def test_mistakes_are_told(study, flags, message):
    flags = [flag.replace("STUDY", str(study)) for flag in flags]
    got = compare(*flags)
    assert got.returncode == 2
    assert message in got.stderr and "Traceback" not in got.stderr
