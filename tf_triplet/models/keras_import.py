"""Any Keras model that maps images to features, made a backbone."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import tensorflow as tf

from tf_triplet.models import (
    backbones,
    layer_outputs,
    mirroring,
    model_files,
    pooling,  # noqa: F401  Registers the layers of saved encoders.
    safe_loading,
    saved_graph,
)


def import_backbone(
    source: str | Path | tf.keras.Model,
    image_size: int,
    scaling: str = "0_1",
    layer: str = "",
    modules: Collection[str] = (),
    safe_mode: bool = True,
) -> tf.keras.Model:
    """Wraps any Keras model so that it takes pixels in [0, 1].

    Args:
        source: A `.keras` or `.h5` file, the folder of a SavedModel, or a
            model. The serving signature of a SavedModel that Keras has not
            written is run with weights that are not trained.
        image_size: Pixels on each side of the images that it will be given.
        scaling: The pixel values that the model expects: "0_1", "-1_1",
            "0_255", "caffe" or "torch" (see `backbones.scale_pixels`).
        layer: Name of a layer whose output replaces the model's output, for
            instance "pool" of an encoder of this package, to train a new
            head on it. Of a SavedModel that Keras has not written, the name
            of an output of its signature. Empty: the model's output.
        modules: Names of Python modules whose layers a saved model may use
            (see `safe_loading.load_model`).
        safe_mode: Whether to refuse a saved model that runs code of its own
            when it is loaded, such as a `Lambda` layer.

    Returns:
        A model for `build_encoder(backbone=...)`.

    Raises:
        ValueError: If the file does not exist, is refused, or is not a Keras
            model; if the model does not take `[batch, image_size,
            image_size, 3]` or has several outputs; or if it has no such
            layer.

    Example:

    >>> pixels = tf.keras.Input([8, 8, 3])
    >>> features = tf.keras.layers.GlobalMaxPooling2D()(pixels)
    >>> network = tf.keras.Model(pixels, features)
    >>> backbone = import_backbone(network, image_size=8, scaling="0_255")
    >>> backbone(tf.ones([1, 8, 8, 3])).numpy().tolist()
    [[255.0, 255.0, 255.0]]
    """
    model, plain = source, False
    if not isinstance(source, tf.keras.Model):
        plain = model_files.is_plain_saved_model(Path(source))
        model = _load(Path(source), modules, safe_mode, layer)
    name = model.name if model is source else source
    # The layer of a plain SavedModel is an output of its signature.
    if layer and not plain:
        model = mirroring.without_mirror_image(model)
        model = layer_outputs.up_to_layer(model, layer)
    _check_input(model, name, image_size)
    pixels = tf.keras.Input((image_size, image_size, 3), name="pixels")
    scaled = backbones.scale_pixels(pixels, scaling)
    try:
        features = model(scaled)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"{name} does not take [batch, {image_size}, {image_size}, 3] "
            f"images: {model_files.plain_error(error)}"
        ) from error
    if not tf.is_tensor(features) and not hasattr(features, "shape"):
        raise ValueError(
            f"{name} must have one output. Received: {type(features)}"
        )
    return tf.keras.Model(pixels, features, name="imported")


def _check_input(
    model: tf.keras.Model, name: str | Path, image_size: int
) -> None:
    """Refuses a model that takes something else than such images."""
    try:
        shape = model.input_shape
    except AttributeError:  # A model without a fixed input.
        return
    if isinstance(shape, (list, dict)):
        count = len(shape)
        raise ValueError(
            f"{name} takes {count} inputs, but a backbone takes images alone. "
            f"Save a part of it that takes images. Received: {shape}"
        )
    if shape is None or len(shape) != 4:
        raise ValueError(
            f"{name} takes an input of shape {shape}, but a backbone takes "
            "[batch, height, width, 3] images."
        )
    height, width, channels = shape[1:]
    if channels not in (3, None):
        order = " (channels first)" if height == 3 else ""
        raise ValueError(
            f"{name} takes images of shape {shape}{order}, but a backbone "
            "takes [batch, height, width, 3] images, RGB with channels last."
        )
    if height != width and height is not None and width is not None:
        raise ValueError(
            f"{name} takes images of {height} x {width} pixels, but all "
            "images are made square here. Save it with a square input."
        )
    size = height or width
    if size not in (image_size, None):
        raise ValueError(
            f"{name} does not take [batch, {image_size}, {image_size}, 3] "
            f"images, but {size} x {size} pixels: pass "
            f"--config.data.image_size={size}."
        )


def _load(
    path: Path, modules: Collection[str], safe_mode: bool, layer: str
) -> tf.keras.Model:
    if not path.exists():
        raise ValueError(
            "`model.path` must be a .keras or .h5 file or a SavedModel "
            f"folder. Received: {str(path)!r}, which does not exist."
        )
    if model_files.is_plain_saved_model(path):
        return saved_graph.load_signature(path, layer)
    return safe_loading.load_model(path, modules, safe_mode)
