"""Compares the default recipe with two peers on one catalog.

    python benchmarks/accuracy.py --catalog=emoji --workdir=runs/peers
    python benchmarks/accuracy.py --catalog=shop/manifest.csv \
        --workdir=runs/peers --pml_python=torch-env/bin/python

The peers are TensorFlow Similarity (its model, compiled and fitted) and
PyTorch Metric Learning (in an environment of its own, made with
`pip install torch==2.13.0 pytorch-metric-learning`), each with its default
multi-similarity loss, and PyTorch Metric Learning with its default miner.
Everybody has the same backbone, pretrained weights, pooling, number of
images, validation products and minibatches. The learning rate of a peer is
the best of three on the validation products, by the first seed. The test
images are scored once, by the chosen encoders alone.

Where the default recipe pools an inner layer of the backbone (`model.layer`),
the peers pool the last, as they do by themselves, and TensorFlow Similarity
is also trained with the inner layer (--peers=similarity,similarity_layer).

Every finished training is kept in the folder, so the same command goes on
where it stopped. A table that is not complete says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tf_triplet  # noqa: F401  isort: skip  Before TensorFlow.

import ml_collections
import numpy as np
import tensorflow as tf

from tf_triplet import builders, evaluation, workflows
from tf_triplet import config as configs
from tf_triplet.data import Catalog, pipeline
from tf_triplet.models import mirroring
from tf_triplet.workflows.options import EvaluateOptions
from tf_triplet.workflows.train_batches import build_batches

RATES = (1e-4, 3e-4, 1e-3)
TORCH_PROGRAM = Path(__file__).with_name("accuracy_torch.py")
DEFAULT, PLAIN = "default recipe", "default recipe, without the mirror image"
START = "pretrained features"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What everybody trains on, and how long."""

    config: ml_collections.ConfigDict
    split: builders.TrainingSplit
    test: Catalog

    @classmethod
    def read(cls, catalog: str, seed: int, steps: int | None) -> Setup:
        """Reads a catalog, and chooses the default recipe for it."""
        open_config = default_config(catalog, seed, steps)
        images = builders.build_catalog(open_config)
        training = builders.training_catalog(open_config, images)
        config, _ = builders.resolve(open_config, training.products)
        config = builders.with_fields(
            config, {field: False for field in builders.open_fields(config)}
        )
        return cls(
            config,
            builders.split_for_training(config, images),
            images.split(config.evaluation.split),
        )

    @property
    def peers_steps(self) -> int:
        """Steps of the same number of images, those of the whitening too."""
        config = self.config
        whitening = 0
        if config.model.whitening:
            whitening = min(
                config.model.whitening_images, len(self.split.training)
            )
        batch = builders.batch_size(config)
        return config.training.steps + whitening // batch

    def score(self, encoder: tf.keras.Model, images) -> float:
        """Returns Recall@1 of an encoder."""
        embeddings = builders.compute_embeddings(
            self.config, encoder, images, progress=False
        )
        return self.score_vectors(embeddings.vectors, embeddings.rows, images)

    def score_vectors(self, vectors, rows, images) -> float:
        """Returns Recall@1 of embeddings."""
        options = EvaluateOptions(ks=(1,)).resolve(self.config)
        return evaluation.evaluate(
            evaluation.Embeddings(vectors, rows, ()),
            images,
            options.ks,
            options.protocol_spec,
            options.ties,
        ).overall.recall[1]

    def build_encoder(self) -> tf.keras.Model:
        """Returns the pretrained encoder with a random head, by the seed."""
        tf.keras.utils.set_random_seed(self.config.seed)
        plain = builders.with_fields(self.config, {"model.whitening": 0})
        return builders.build_encoder(plain)

    def batches(self) -> tf.data.Dataset:
        """Returns the minibatches of the default recipe."""
        training = self.split.training
        return build_batches(
            self.config,
            training,
            builders.build_sampler(self.config, training),
            None,
            pipeline.BadImages("skip"),
        )(0)


def default_config(
    catalog: str, seed: int, steps: int | None
) -> ml_collections.ConfigDict:
    """Returns the default recipe with the registry's weights, still open."""
    config = configs.base_config()
    if Path(catalog).exists():
        config.data.path = str(Path(catalog).resolve())
    else:
        config.data.source = catalog
    config.model.weights = "registry"
    config.seed = seed
    if steps is not None:
        config.training.steps = steps
    return config


class Results:
    """Values by what they are of, kept in a file."""

    def __init__(self, path: Path):
        self._path = path
        self.values = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], dict]) -> dict:
        """Returns a value, which is computed where there is none yet."""
        if key not in self.values:
            start = time.monotonic()
            value = compute()
            value["seconds"] = round(time.monotonic() - start)
            self.values[key] = value
            partial = self._path.with_suffix(".partial")
            partial.write_text(json.dumps(self.values, indent=1) + "\n")
            partial.replace(self._path)
            print(f"{key}: {json.dumps(value)}", flush=True)
        return self.values[key]


def train_default(setup: Setup, config, workdir: Path) -> dict:
    """Trains by the default recipe, and scores the encoder that it keeps."""
    result = workflows.train(config, workdir)
    encoder = builders.load_encoder(workdir)
    return {
        "validation": result.metrics.get("recall@1"),
        "step": result.best_step,
        DEFAULT: setup.score(encoder, setup.test),
        PLAIN: setup.score(mirroring.without_mirror_image(encoder), setup.test),
    }


def train_similarity(setup: Setup, rate: float, file: Path) -> dict:
    """Trains by TensorFlow Similarity, and keeps the encoder in a file."""
    import tensorflow_similarity as tfsim

    encoder = setup.build_encoder()
    model = tfsim.models.SimilarityModel(encoder.inputs, encoder.outputs)
    model.compile(
        tf.keras.optimizers.Adam(rate),
        loss=tfsim.losses.MultiSimilarityLoss(distance="cosine"),
    )
    pairs = setup.batches().map(lambda pixels, labels, *_: (pixels, labels))
    model.fit(pairs, steps_per_epoch=setup.peers_steps, epochs=1, verbose=0)
    encoder.save_weights(file)
    return {"validation": setup.score(encoder, setup.split.validation)}


def score_similarity(setup: Setup, file: Path) -> dict:
    encoder = setup.build_encoder()
    encoder.load_weights(file)
    return {"recall@1": setup.score(encoder, setup.test)}


class TorchPeer:
    """PyTorch Metric Learning, in a process of its own."""

    def __init__(self, setup: Setup, python: str, folder: Path):
        self._setup, self._python, self._folder = setup, python, folder

    def train(self, rate: float, file: Path) -> dict:
        """Trains, and keeps the embeddings of both kinds of images."""
        self._write_inputs()
        subprocess.run(
            [
                *(self._python, TORCH_PROGRAM, self._folder, file),
                *(f"--rate={rate}", f"--steps={self._setup.peers_steps}"),
            ],
            check=True,
        )
        return self._score("validation", self._setup.split.validation, file)

    def score(self, file: Path) -> dict:
        return {"recall@1": self._score("test", self._setup.test, file)["test"]}

    def _score(self, name: str, images, file: Path) -> dict:
        with np.load(file) as arrays:
            vectors = arrays[name]
        rows = np.load(self._folder / f"{name}-rows.npy")
        return {name: self._setup.score_vectors(vectors, rows, images)}

    def _write_inputs(self) -> None:
        """Writes weights, minibatches, images and expected features."""
        if (self._folder / "complete").exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        setup, size = self._setup, self._setup.config.data.image_size
        encoder = setup.build_encoder()
        np.savez(self._folder / "weights.npz", **_weights(encoder))
        steps, batch = setup.peers_steps, builders.batch_size(setup.config)
        # Far from all would fit into the memory of a small machine.
        pixels = np.lib.format.open_memmap(
            self._folder / "batches.npy",
            "w+",
            np.float32,
            (steps, batch, size, size, 3),
        )
        labels = np.zeros((steps, batch), np.int64)
        for step, (x, y, *_) in enumerate(setup.batches().take(steps)):
            pixels[step], labels[step] = x, y
        pixels.flush()
        np.save(self._folder / "labels.npy", labels)
        for name, images in (
            ("validation", setup.split.validation),
            ("test", setup.test),
        ):
            parts = list(
                pipeline.evaluation_batches(
                    images, builders.input_spec(setup.config), batch
                )
            )
            rows, images = (np.concatenate(p) for p in zip(*parts))  # noqa: B905
            np.save(self._folder / f"{name}-rows.npy", rows)
            np.save(self._folder / f"{name}.npy", images)
        expected = encoder(images[:batch], training=False).numpy()
        np.save(self._folder / "expected.npy", expected)
        (self._folder / "complete").touch()


def _weights(encoder: tf.keras.Model) -> dict[str, np.ndarray]:
    """Returns all weights by "layer/weight"."""
    found = {}
    for layer in encoder.submodules:
        if isinstance(layer, tf.keras.layers.Layer):
            for weight in getattr(layer, "weights", []):
                name = "/".join(weight.name.split(":")[0].split("/")[-2:])
                found[name] = weight.numpy()
    return found


def compare(args: argparse.Namespace) -> dict[str, dict[int, float]]:
    """Trains everybody with every seed.

    Returns:
        Recall@1 on the test images, by who and by seed.
    """
    results = Results(args.workdir / "results.json")
    table: dict[str, dict[int, float]] = {}
    rates: dict[str, float] = {}
    for seed in args.seeds:
        setup = Setup.read(args.catalog, seed, args.steps)
        folder = args.workdir / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        start = results.get(
            f"{START}, seed {seed}", lambda setup=setup: _score_start(setup)
        )
        table.setdefault(START, {})[seed] = start["recall@1"]
        config = default_config(args.catalog, seed, args.steps)
        ours = results.get(
            f"{DEFAULT}, seed {seed}",
            lambda s=setup, c=config, f=folder: train_default(
                s, c, f / "default"
            ),
        )
        # Whether training mirrors images was decided by the default recipe.
        setup = dataclasses.replace(
            setup, config=builders.load_config(folder / "default")
        )
        for name in (DEFAULT, PLAIN):
            table.setdefault(name, {})[seed] = ours[name]
        for who, train, score in _peers(setup, args, folder):
            value = _run_peer(results, who, seed, folder, rates, train, score)
            table.setdefault(who, {})[seed] = value
    return table


def _score_start(setup: Setup) -> dict:
    return {
        "recall@1": setup.score(
            builders.build_baseline(setup.config), setup.test
        )
    }


def _peers(setup: Setup, args: argparse.Namespace, folder: Path):
    """Yields name, training and scoring of each peer that can run."""
    whole = dataclasses.replace(
        setup, config=builders.with_fields(setup.config, {"model.layer": ""})
    )
    layer = setup.config.model.layer
    similarity = {"similarity": ("TensorFlow Similarity", whole)}
    if layer:
        name = f"TensorFlow Similarity, {layer}"
        similarity["similarity_layer"] = (name, setup)
    for key, (name, its_setup) in similarity.items():
        if key in args.peers:
            yield (
                name,
                lambda rate, file, s=its_setup: train_similarity(s, rate, file),
                lambda file, s=its_setup: score_similarity(s, file),
            )
    if args.pml_python:
        peer = TorchPeer(whole, args.pml_python, folder / "torch")
        yield "PyTorch Metric Learning", peer.train, peer.score


def _run_peer(results, who, seed, folder, rates, train, score) -> float:
    """Trains a peer, with every rate if none is chosen yet.

    Returns:
        Recall@1 on the test images.
    """
    slug = who.lower().replace(",", "").replace(" ", "-")
    suffix = ".h5" if slug.startswith("tensorflow") else ".npz"

    def file_of(rate: float) -> Path:
        return folder / f"{slug}-{rate:g}{suffix}"

    found = {
        rate: results.get(
            f"{who}, seed {seed}, rate {rate:g}",
            lambda rate=rate: train(rate, file_of(rate)),
        )["validation"]
        for rate in ([rates[who]] if who in rates else RATES)
    }
    rate = rates.setdefault(who, max(found, key=found.get))
    return results.get(
        f"{who}, seed {seed}, test", lambda: score(file_of(rate))
    )["recall@1"]


def describe(table: dict[str, dict[int, float]], seeds) -> str:
    """Returns a Markdown table."""
    lines = ["| who | Recall@1 | each seed |", "|---|---|---|"]
    for who, values in table.items():
        found = np.array(list(values.values()))
        spread = f" ± {found.std(ddof=1):.3f}" if len(found) > 1 else ""
        each = ", ".join(f"{value:.4f}" for value in found)
        lines.append(f"| {who} | {found.mean():.4f}{spread} | {each} |")
    if any(set(values) != set(seeds) for values in table.values()):
        lines.append("\nThis table is not complete.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--catalog", default="emoji", help="emoji, or the path of a table"
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[0, 1, 2],
        help="separated by commas",
    )
    parser.add_argument("--steps", type=int, help="steps of the default recipe")
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=["similarity", "similarity_layer"],
        help="separated by commas: similarity, similarity_layer",
    )
    parser.add_argument(
        "--pml_python", help="a Python with PyTorch Metric Learning"
    )
    args = parser.parse_args()
    print(describe(compare(args), args.seeds))
    if not args.pml_python:
        print("\nPyTorch Metric Learning was left out: no --pml_python.")


if __name__ == "__main__":
    main()
