"""Embeddings of a run's images, and encoders that need no training."""

from __future__ import annotations

from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf

from tf_triplet import evaluation
from tf_triplet.builders import data, model
from tf_triplet.data import pipeline
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.models import encoder as encoders


def input_spec(config: ml_collections.ConfigDict) -> InputSpec:
    """Returns how `config.data` turns an image file into pixels."""
    data = config.data
    return InputSpec(
        data.image_size, data.resize, data.use_boxes, data.max_megapixels
    )


def compute_embeddings(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    catalog: Catalog,
    batch_size: int | None = None,
    progress: bool = True,
) -> evaluation.Embeddings:
    """Embeds every image of a catalog.

    Args:
        config: The config of the run, which says how to read images.
        encoder: The encoder.
        catalog: The images.
        batch_size: Number of images in one forward pass. None:
            `config.evaluation.batch_size`.
        progress: Whether to show the progress.

    Returns:
        The embeddings; see `evaluation.compute_embeddings`.
    """
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
    """Embeds every image of a catalog, one batch at a time.

    Args:
        config: The config of the run, which says how to read images.
        encoder: The encoder.
        catalog: The images.
        bad: Collects the images that cannot be read.

    Yields:
        `[b]` rows and `[b, dim]` embeddings; see `evaluation.embed_batches`.
    """
    return evaluation.embed_batches(
        encoder,
        catalog,
        input_spec(config),
        config.evaluation.batch_size,
        bad,
    )


def whiten(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    catalog: Catalog,
    batch_size: int | None = None,
    progress: bool = True,
) -> None:
    """Sets the encoder's head to the PCA-whitening of its features.

    Args:
        config: The config of the run.
        encoder: An encoder whose head takes features of unit length
            (`unit_features` of `encoder.build_encoder`). It is changed in
            place.
        catalog: The training images. The whitening is fitted to them, or to
            `config.model.whitening_images` of them.
        batch_size: Number of images in one forward pass. None:
            `config.evaluation.batch_size`.
        progress: Whether to show the progress.
    """
    from tf_triplet.models import whitening  # scikit-learn takes a second.

    head = encoder.get_layer("embedding")
    most = config.model.whitening_images
    if 0 < most < len(catalog):
        rows = np.random.default_rng(config.seed).permutation(len(catalog))
        catalog = catalog.select(np.sort(rows[:most]))
    features = compute_embeddings(
        config,
        encoders.at_layer(encoder, "features"),
        catalog,
        batch_size,
        progress,
    )
    head.set_weights(whitening.fit_whitening(features.vectors, head.units))


def build_baseline(config: ml_collections.ConfigDict) -> tf.keras.Model:
    """Builds an encoder that gives the features of the untrained backbone.

    Args:
        config: The config of the run.

    Returns:
        A model from pixels to pooled features of unit length.
    """
    return encoders.build_encoder(
        model.build_backbone(config),
        0,
        batch_norm="frozen",
        pooling=model.choose_pooling(config),
    )


def build_neural_codes(
    config: ml_collections.ConfigDict,
    catalog: Catalog,
    components: int = 0,
    batch_size: int | None = None,
) -> tf.keras.Model:
    """Builds an encoder that whitens the features of the untrained backbone.

    Args:
        config: The config of the run.
        catalog: The images of all splits. The whitening is fitted to the
            training images among them.
        components: Number of principal components to keep. 0: as many as
            `config.model.embedding_size`.
        batch_size: Number of images in one forward pass. None:
            `config.evaluation.batch_size`.

    Returns:
        A model from pixels to `[batch, components]` of unit length.

    Raises:
        ValueError: If there are too few training images, or if neither the
            argument nor the config gives a number of components.

    References:
        Babenko et al., 2014, https://arxiv.org/abs/1404.1777.
    """
    components = components or config.model.embedding_size
    if not components:
        raise ValueError(
            "The run has model.embedding_size=0, which does not say how many "
            "components to keep: pass --components=<k>."
        )
    encoder = encoders.build_encoder(
        model.build_backbone(config),
        components,
        batch_norm="frozen",
        pooling=model.choose_pooling(config),
        unit_features=True,
    )
    training = data.training_catalog(config, catalog)
    whiten(config, encoder, training, batch_size)
    return encoder
