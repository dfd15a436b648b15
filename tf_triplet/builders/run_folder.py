"""What a run's folder holds: its config and its encoders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_collections
import tensorflow as tf

from tf_triplet import config as configs
from tf_triplet.builders import validation
from tf_triplet.data import preprocessing, transcode
from tf_triplet.models import encoder as encoders
from tf_triplet.models import precisions

CHECKPOINTS = {"best": "encoder.keras", "last": "encoder_last.keras"}


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """Reads the config that training wrote into `workdir`."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: `--workdir` must be the folder of a "
            f"run of tf-triplet-train. Received: {str(workdir)!r}"
        )
    config = configs.from_json(path.read_text())
    validation.validate(config)
    return config


def encoder_sha256(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    checkpoint: str = "best",
    layer: str = "",
    precision: str = "float32",
) -> str:
    """Hash of a run's encoder and of how images reach it.

    The code that decodes and resizes is a part: another pixel is another
    embedding.
    """
    encoder = encoder_path(workdir, checkpoint).read_bytes()
    code = [
        Path(module.__file__).read_bytes()
        for module in (preprocessing, transcode)
    ]
    parts = {
        "encoder": hashlib.sha256(encoder).hexdigest(),
        "layer": layer,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "code": [hashlib.sha256(source).hexdigest() for source in code],
    }
    if precision != "float32":
        parts["precision"] = precision
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_encoder(
    workdir: str | Path,
    checkpoint: str = "best",
    layer: str = "",
    precision: str = "float32",
) -> tf.keras.Model:
    """Loads a run's encoder.

    Plain Keras does, but for branches, learned pooling and landmark
    features, whose modules must be imported first.

    Args:
        workdir: of the run.
        checkpoint: "best" or "last".
        layer: read this layer in place of the embedding
            (`encoders.at_layer`); empty: the embedding.
        precision: of its products (`precisions.at_precision`).
    """
    # Importing `encoders` has registered the layers of gem and rmac.
    path = encoder_path(workdir, checkpoint)
    encoder = tf.keras.models.load_model(path, compile=False)
    if layer:
        encoder = encoders.at_layer(encoder, layer)
    return precisions.at_precision(encoder, precision)


def encoder_path(workdir: str | Path, checkpoint: str = "best") -> Path:
    """The file of a run's encoder.

    Raises:
        FileNotFoundError: the run has not saved it yet.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(
            f"`checkpoint` must be best or last. Received: {checkpoint!r}"
        )
    path = Path(workdir) / CHECKPOINTS[checkpoint]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: the run has not saved it yet. Let "
            "tf-triplet-train run on in this --workdir."
        )
    return path
