"""The encoder of another run as the start of a new one."""

from __future__ import annotations

from pathlib import Path

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet import config as configs
from tf_triplet.builders import features, run_folder
from tf_triplet.builders.run_products import RunProducts
from tf_triplet.data.catalog import Catalog
from tf_triplet.models import branches
from tf_triplet.training.learner import Learner

# Fields that decide which weights an encoder has.
_MODEL_FIELDS = ("model.", "sampling.query_domain", "sampling.gallery_domain")


def copy_weights(
    encoder: tf.keras.Model,
    config: ml_collections.ConfigDict,
    workdir: str | Path,
) -> None:
    """Copies the weights of another run's encoder (`encoder.keras`).

    Args:
        encoder: The encoder of the new run, whose weights are replaced.
        config: The config of the new run.
        workdir: The folder of the other run.

    Raises:
        FileNotFoundError: If the other run has not saved an encoder yet.
        ValueError: If its encoder has other weights or branches.
    """
    other = run_folder.load_encoder(workdir)
    ours, theirs = (
        [tuple(weight.shape) for weight in model.weights]
        for model in (encoder, other)
    )
    if ours == theirs and branches.find(encoder) == branches.find(other):
        encoder.set_weights(other.get_weights())
        return
    lines = [
        line
        for line in configs.difference(run_folder.load_config(workdir), config)
        if line.startswith(_MODEL_FIELDS)
    ]
    raise ValueError(
        "`init_from` must be the folder of a run whose encoder has the same "
        f"weights and branches. Received: {str(workdir)!r}, which differs in:"
        "\n  "
        + "\n  ".join(lines or ["the names or number of its branches"])
        + "\nUse the same model fields."
    )


def start_proxies(
    config: ml_collections.ConfigDict, learner: Learner, training: Catalog
) -> None:
    """Starts each proxy at the mean embedding of its product's images.

    Args:
        config: The config of the run.
        learner: A learner that has not been trained, whose loss has proxies.
            The proxies are changed in place.
        training: The training images. A product without an image that can be
            read keeps its random proxy.
    """
    embeddings = features.compute_embeddings(config, learner.encoder, training)
    proxies = learner.batch_loss.parameters.proxies
    sums = np.zeros(proxies.shape, np.float64)
    products = training.products[embeddings.rows]
    np.add.at(sums, products, embeddings.vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    # Embeddings that cancel out have no mean direction.
    known = lengths > 1e-6
    means = sums / np.where(known, lengths, 1.0)
    proxies.assign(np.where(known, means, proxies.numpy()))


def earlier_products(
    config: ml_collections.ConfigDict, init_from: str | Path = ""
) -> frozenset[str]:
    """Collects what earlier runs were trained on, whose weights a run gets.

    Args:
        config: The config of the new run. Its `model.path` may be an encoder
            in the folder of an earlier run.
        init_from: The folder of the run from whose encoder it begins, or "".

    Returns:
        Normalized product ids.

    Raises:
        ValueError: If `init_from` is a run of an earlier version, which did
            not record its products.
    """
    found = set()
    if init_from:
        record = RunProducts.read(init_from)
        if record is None:
            raise ValueError(
                "`init_from` must be the folder of a run that records which "
                "products it was trained on (products.json). Received: "
                f"{str(init_from)!r}, a run of an earlier version or no run. "
                "Train it again with this version."
            )
        found |= record.trained
    if config.model.backbone == "imported":
        folder = Path(config.model.path).parent
        record = RunProducts.read(folder)
        if record is not None:
            found |= record.trained
        elif (folder / "checkpoints").exists():
            logging.warning(
                "model.path: the run in %s was begun by an earlier version, "
                "which did not record its products. Some of them may become "
                "validation products of this run.",
                folder,
            )
    return frozenset(found)
