"""Any Keras model that maps images to features, made a backbone of ours."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from tf_triplet.models import (
    backbones,
    cutting,
    pooling,  # noqa: F401  Registers the layers of saved encoders.
)


def import_backbone(
    source: str | Path | tf.keras.Model,
    image_size: int,
    scaling: str = "0_1",
    layer: str = "",
) -> tf.keras.Model:
    """Wraps a foreign model so that it takes pixels in [0, 1].

    Args:
        source: a `.keras` or `.h5` file, a SavedModel folder, or a model.
        image_size: pixels a side that it will be fed.
        scaling: of the pixels that it expects, see `scale_pixels`.
        layer: take what this layer gives in place of the model's end, for
            instance "pool" of an encoder of ours, to train a new head.

    Returns:
        A model for `build_encoder(backbone=...)`.

    Raises:
        ValueError: no such file, not a Keras model, it does not take
            `[batch, image_size, image_size, 3]`, or there is no such layer.
    """
    model = source
    if not isinstance(source, tf.keras.Model):
        model = _load(Path(source))
    if layer:
        model = cutting.cut(model, layer)
    pixels = tf.keras.Input((image_size, image_size, 3), name="pixels")
    try:
        features = model(backbones.scale_pixels(pixels, scaling))
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{source} does not take [batch, {image_size}, {image_size}, 3] "
            f"images; set --config.data.image_size to its size. {error}"
        ) from error
    if not tf.is_tensor(features) and not hasattr(features, "shape"):
        raise ValueError(
            f"{source} must have one output. Received: {type(features)}"
        )
    return tf.keras.Model(pixels, features, name="imported")


def _load(path: Path) -> tf.keras.Model:
    if not path.exists():
        raise ValueError(
            f"`model.path` must be a .keras or .h5 file or a SavedModel "
            f"folder. Received: {str(path)!r}, which does not exist."
        )
    try:
        return tf.keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises many kinds here.
        raise ValueError(
            f"Keras could not load a model from {path}: {error}. A model "
            "with layers of its own must be loaded by your code, and given "
            "to `build_encoder(backbone=model)`."
        ) from error
