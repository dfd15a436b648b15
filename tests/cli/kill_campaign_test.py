"""Programs that are killed again and again, and then finish their work.

Each kill hits a program at a random moment between its start and its usual
end, in turn by SIGKILL and by SIGTERM. The same command is then given again.
TF_TRIPLET_KILLS=6 makes a quick trial of it.
"""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tiny_networks
import tiny_runs

from tf_triplet.builders import load_config
from tf_triplet.evaluation import load_embeddings
from tf_triplet.servable import fingerprint, scann_index, versions

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TF_TRIPLET_KILLS", "50"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# The program that each of five kills in a row hits.
VERBS = ("train", "export", "train", "index", "evaluate")
# A machine that does much else still ends a program within these seconds.
PATIENCE = 300
FIELDS = {
    "data.image_size": tiny_networks.SIZE,
    "model.backbone": "imported",
    "model.embedding_size": 8,
    "sampling.units": "products",
    "sampling.units_per_batch": 6,
    "sampling.images_per_product": 2,
    "loss.mining": "semi_hard",
    "optimizer.name": "adam",
    "training.steps": 24,
    # Evaluations and checkpoints sometimes fall on the same step.
    "training.checkpoint_every": 4,
    "training.log_every": 1,
    "training.collapse_every": 0,
    "evaluation.every": 6,
    "evaluation.ks": "(1,5)",
}


@dataclasses.dataclass(frozen=True)
class Kill:
    """A kill of a program, at a share of the program's usual duration."""

    verb: str
    signal: int
    moment: float


def plan(kills, seed=0):
    rng = random.Random(seed)
    return [
        Kill(
            VERBS[i % len(VERBS)],
            SIGNALS[i % len(SIGNALS)],
            # A program only imports at first, so late moments are likelier.
            rng.triangular(0, 1, 1),
        )
        for i in range(kills)
    ]


class Programs:
    """Starts the programs of one shop."""

    def __init__(self, folder):
        self.log = folder / "log.txt"
        tiny_runs.make_run(folder / "shop", images=192)
        tiny_networks.two_convolutions().save(folder / "net.keras")
        fields = {
            **FIELDS,
            "data.path": folder / "shop" / "shop.csv",
            "model.path": folder / "net.keras",
        }
        config = [f"--config.{name}={value}" for name, value in fields.items()]
        self.options = {
            "train": config,
            "evaluate": [],
            "export": ["--k=3"],
            "index": ["--k=2"],
        }

    def start(self, verb, workdir):
        with open(self.log, "w") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", f"tf_triplet.cli.{verb}"),
                    *(f"--workdir={workdir}", *self.options[verb]),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self, verb, workdir):
        """Runs a program to its end, and returns how long that takes."""
        start = time.monotonic()
        code = self.start(verb, workdir).wait(PATIENCE)
        assert code == 0, f"{verb} ends with {code}:\n{self.log.read_text()}"
        return time.monotonic() - start

    def kill(self, kill, workdir, usual):
        """Kills a program; if it ends before that, returns its duration."""
        start = time.monotonic()
        process = self.start(kill.verb, workdir)
        try:
            code = process.wait(kill.moment * usual)
        except subprocess.TimeoutExpired:
            # As a container does, which ends all processes of a program.
            os.killpg(process.pid, kill.signal)
            code = process.wait(PATIENCE)
            # A program that has just ended its work still ends with 0.
            expected = (-kill.signal, 128 + kill.signal, 0)
            duration = None
        else:
            expected, duration = (0,), time.monotonic() - start
        text = self.log.read_text()
        assert code in expected, f"{kill} ends with {code}:\n{text}"
        assert "Traceback" not in text, f"{kill}:\n{text}"
        return duration


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def undisturbed(programs, tmp_path_factory):
    """A run whose programs are never killed, and their durations."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    usual = {verb: programs.finish(verb, workdir) for verb in programs.options}
    assert json.loads((workdir / "best.json").read_text())["step"] > 0
    return workdir, usual


@pytest.fixture(scope="module")
def trained(undisturbed, tmp_path_factory):
    """A copy of the run that was trained, and nothing else yet."""
    workdir = tmp_path_factory.mktemp("disturbed") / "run"
    others = shutil.ignore_patterns("report", "embeddings", "models", "*cache")
    shutil.copytree(undisturbed[0], workdir, ignore=others)
    return workdir


def disturb(programs, verb, usual, workdirs, ended=lambda: None):
    """Kills a program as often as planned, in the last of the folders.

    `ended` is called when the program has ended before a kill.
    """
    for kill in plan(KILLS):
        if kill.verb != verb:
            continue
        while duration := programs.kill(kill, workdirs[-1], usual):
            # It was slower when its duration was measured.
            usual = 0.9 * duration
            ended()
    programs.finish(verb, workdirs[-1])


def leftovers(workdir):
    """Files and folders that a program writes before they get their name."""
    found = [
        str(path.relative_to(workdir))
        for path in workdir.rglob("*")
        if re.search(r"partial|tmp|temp|^\.(?!.*lock$)", path.name)
    ]
    state = tf.train.get_checkpoint_state(str(workdir / "checkpoints"))
    kept = [os.path.basename(p) for p in state.all_model_checkpoint_paths]
    names = {"checkpoint", *(f"{name}.index" for name in kept)}
    names |= {f"{name}.data-00000-of-00001" for name in kept}
    present = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert not names - present
    return found + sorted(present - names)


def encoders(workdir):
    return {
        name: tf.keras.models.load_model(workdir / name).get_weights()
        for name in ("encoder.keras", "encoder_last.keras")
    }


def variables(workdir):
    """All variables of the last checkpoint."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        # These tell how often a checkpoint was saved, and from what objects.
        if not name.startswith(("save_counter", "_CHECKPOINTABLE"))
    }


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def report(workdir):
    values = json.loads((workdir / "report/evaluation-test.json").read_text())
    return {name: value for name, value in values.items() if name != "seconds"}


def check_training(workdir, whole):
    assert leftovers(workdir) == []
    assert rows(workdir) == rows(whole)
    best, expected = (
        json.loads((folder / "best.json").read_text())
        for folder in (workdir, whole)
    )
    assert best == expected
    got, want = encoders(workdir), encoders(whole)
    for name, weights in want.items():
        for a, b in zip(got[name], weights):
            np.testing.assert_array_equal(a, b, err_msg=name)
    got, want = variables(workdir), variables(whole)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


def model_folder(workdir):
    return workdir / "models" / load_config(workdir).export.name


def check_versions(workdir, whole, verb):
    """All versions answer, and the last is as that of the undisturbed run."""
    folder = model_folder(workdir)
    numbers = versions.list_versions(folder)
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == set(map(str, numbers))
    table = Path(load_config(workdir).data.path)
    row = pd.read_csv(table).iloc[100]
    image = (table.parent / row["path"]).read_bytes()
    scann_index.register_op()
    for number in numbers:
        loaded = tf.saved_model.load(str(folder / str(number)))
        answer = loaded.signatures["serving_default"](
            image_bytes=tf.constant([image])
        )
        assert answer["product_ids"][0, 0].numpy() == row["product_id"].encode()
        assert answer["scores"][0, 0].numpy() == pytest.approx(1, abs=1e-4)
    got = fingerprint.read(folder / str(numbers[-1]))
    # The undisturbed run has exported version 1 and indexed version 2.
    number = {"export": 1, "index": 2}[verb]
    want = fingerprint.read(model_folder(whole) / str(number))
    for name in ("encoder", "index_sha256", "images", "export"):
        assert got[name] == want[name], name


def test_the_plan_is_the_same_each_time():
    kills = plan(50)
    assert kills == plan(50) and kills[:6] == plan(6)
    assert {kill.verb for kill in kills} == set(VERBS)
    for verb in VERBS:
        ways = {kill.signal for kill in kills if kill.verb == verb}
        assert ways == set(SIGNALS)


def test_training_ends_with_the_same_weights(programs, undisturbed, tmp_path):
    whole, usual = undisturbed
    workdirs = [tmp_path / "0"]

    def begin_anew():
        workdirs.append(tmp_path / str(len(workdirs)))

    disturb(programs, "train", usual["train"], workdirs, begin_anew)
    for workdir in workdirs:
        check_training(workdir, whole)


def test_evaluation_finds_the_same_metrics(programs, undisturbed, trained):
    whole, usual = undisturbed
    disturb(programs, "evaluate", usual["evaluate"], [trained])
    assert report(trained) == report(whole)
    got, want = (
        load_embeddings(folder / "embeddings" / "test-best.npz")
        for folder in (trained, whole)
    )
    np.testing.assert_array_equal(got.vectors, want.vectors)
    assert leftovers(trained) == []


@pytest.mark.parametrize("verb", ["export", "index"])
def test_every_version_answers(programs, undisturbed, trained, verb):
    whole, usual = undisturbed
    if not model_folder(trained).exists():  # The export was not selected.
        programs.finish("export", trained)

    def embed_anew():
        shutil.rmtree(trained / "index_cache", ignore_errors=True)

    # Kills hit the embedding too, and later runs find what is cached by then.
    embed_anew()
    disturb(programs, verb, usual[verb], [trained], embed_anew)
    check_versions(trained, whole, verb)
    assert leftovers(trained) == []
