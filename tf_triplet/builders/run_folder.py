"""What the folder of a run holds: its config and its encoders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import ml_collections
import tensorflow as tf

from tf_triplet import config as configs
from tf_triplet.builders import extensions, saved_config, validation
from tf_triplet.data import preprocessing
from tf_triplet.models import encoder as encoders
from tf_triplet.models import precisions, safe_loading
from tf_triplet.training import run_files

# The files of the encoders of the best evaluation and of the last step.
CHECKPOINTS = {"best": "encoder.keras", "last": "encoder_last.keras"}


def load_config(
    workdir: str | Path, trust: bool = False
) -> ml_collections.ConfigDict:
    """Reads the config that training wrote into the folder of a run.

    Args:
        workdir: The folder of the run.
        trust: Whether to accept code that the config names (`module:Name`)
            although `extensions.trust` has not allowed its module.

    Returns:
        The config.

    Raises:
        FileNotFoundError: If the folder holds no config.
        ValueError: If the file is damaged, or if the config names code that
            is not trusted or holds values that no run can use.
    """
    path = Path(workdir) / saved_config.FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: `--workdir` must be the folder of a "
            f"run of tf-triplet-train. Received: {str(workdir)!r}"
        )
    config = saved_config.read_config(workdir)
    if not trust:
        fields = configs.flatten(config.to_dict())
        extensions.check_trusted(fields, where=str(path))
    validation.validate(config)
    return config


def encoder_sha256(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    checkpoint: str = "best",
    layer: str = "",
    precision: str = "float32",
) -> str:
    """Computes a hash of a run's encoder and of how images reach it.

    Other pixels give another embedding, so the hash includes
    `preprocessing.PIXEL_VERSION`. The text of the code does not matter: a
    changed comment leaves cached embeddings valid.

    Args:
        config: The config of the run.
        workdir: The folder of the run.
        checkpoint: "best" or "last".
        layer: The layer whose output is the embedding; empty: the last.
        precision: The precision of the encoder.

    Returns:
        64 hexadecimal digits.
    """
    encoder = encoder_path(workdir, checkpoint).read_bytes()
    parts = {
        "encoder": hashlib.sha256(encoder).hexdigest(),
        "layer": layer,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "pixels": preprocessing.PIXEL_VERSION,
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
    trust: bool = False,
) -> tf.keras.Model:
    """Loads the encoder of a run.

    Plain `tf.keras.models.load_model` also opens an encoder that has Keras's
    own layers only. For one with branches, import `tf_triplet.models.branches`
    first; with "gem" or "rmac" pooling, `tf_triplet.models.pooling`; with
    landmark features, `tf_triplet.models.multitask`.

    Args:
        workdir: The folder of the run.
        checkpoint: "best" or "last".
        layer: Name of a layer whose output replaces the embedding
            (`encoder.at_layer`); empty: the embedding.
        precision: The precision of the encoder
            (`precisions.at_precision`).
        trust: Whether to load the encoder without Keras's safe mode, which
            refuses `Lambda` layers and modules that are not trusted.

    Returns:
        The encoder.

    Raises:
        FileNotFoundError: If the run has not saved the encoder yet.
        ValueError: If the file is damaged, or if the encoder uses code that
            is not trusted or has no such layer.
    """
    path = encoder_path(workdir, checkpoint)
    damage = run_files.find_damage(path)
    if damage:
        raise ValueError(
            f"{path} is damaged: {damage}. Run tf-triplet-train in this "
            "--workdir again, which saves the encoder of the last step anew."
        )
    encoder = safe_loading.load_model(path, **extensions.model_options(trust))
    if layer:
        encoder = encoders.at_layer(encoder, layer)
    return precisions.at_precision(encoder, precision)


def encoder_path(workdir: str | Path, checkpoint: str = "best") -> Path:
    """Returns the file of a run's encoder.

    Args:
        workdir: The folder of the run.
        checkpoint: "best" or "last".

    Raises:
        FileNotFoundError: If the run has not saved it yet.
        ValueError: If there is no such checkpoint.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(
            f"`checkpoint` must be best or last. Received: {checkpoint!r}"
        )
    path = Path(workdir) / CHECKPOINTS[checkpoint]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: the run has not saved it yet. Run "
            "tf-triplet-train in this --workdir until it has."
        )
    return path
