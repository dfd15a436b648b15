"""Chooses the fields that a config leaves open, by the table and the machine.

`config.base_config` leaves the fields of `config.CHOSEN_FIELDS` at `None`.
`resolve` gives each of them a value, with its reason. A value of the user's
own always stays. `docs/own_catalog.md` describes the recipe.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import ml_collections
import numpy as np

from tf_triplet.builders import extensions
from tf_triplet.builders.chosen_fields import (
    Choice,
    batch_size,
    get_field,
    open_fields,
    with_fields,
)
from tf_triplet.builders.machine import Machine, image_size_for

# The budget on a processor: images that the network sees in a whole training,
# those that the whitening is fitted to included.
_CPU_IMAGES = 12_800
# Without more images than this, the whitening fits noise.
_WHITENING_IMAGES = 512
_EMBEDDING_SIZE = 128
# The layer of a backbone whose output is pooled for images of at most so many
# pixels. The stages after it see such images as too few places.
_SMALL_IMAGE = 96
_SMALL_IMAGE_LAYERS = {"resnet50": "conv4_block6_out"}
# Of Adam. 1e-4 was worse after as many images.
_LEARNING_RATE = 3e-4
# More epochs than this bring no more gain, and the products by heart.
_CPU_EPOCHS, _GPU_EPOCHS = 30, 20
# More validation products than this only take time.
_VALIDATION_PRODUCTS = 1_000


def nominal(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a config with likely values in its open fields.

    It serves to check the others before a catalog is read.

    Args:
        config: The config of a run, which stays as it is.

    Returns:
        A copy.
    """
    table = Table(images=10_000, products=2_500, images_per_product=4)
    chosen = _resolve(config, table, Machine(), load=False).config
    return with_fields(chosen, {f: False for f in open_fields(chosen)})


@dataclasses.dataclass(frozen=True)
class Table:
    """What of a table decides about a recipe.

    Attributes:
        images: Number of images to train on, validation images included.
        products: Number of their products with at least two images.
        images_per_product: Median number of images of these products.

    Example:

    >>> from tf_triplet.builders import Table
    >>> Table(images=80, products=20, images_per_product=4).products
    20
    """

    images: int
    products: int
    images_per_product: int

    @classmethod
    def of(cls, products: np.ndarray) -> Table:
        """Counts the images of each product.

        Args:
            products: `[rows]` product of each training image.

        Returns:
            The table.
        """
        _, counts = np.unique(products, return_counts=True)
        several = counts[counts > 1]
        median = int(np.median(several)) if len(several) else 1
        return cls(int(counts.sum()), len(several), median)


def resolve(
    config: ml_collections.ConfigDict,
    products: np.ndarray,
    machine: Machine | None = None,
) -> tuple[ml_collections.ConfigDict, list[Choice]]:
    """Chooses the fields that a config leaves open.

    `augment.flip` and `data.mirrored_is_same` are left to `decide_mirroring`,
    which needs the network.

    Args:
        config: The config of a run, which stays as it is.
        products: `[rows]` product of each training image.
        machine: By default, the one that the program runs on.

    Returns:
        A copy of the config with every other field chosen, and what was
        chosen, with reasons.

    Raises:
        ValueError: If `model.path` cannot be loaded.

    Example:

    >>> import numpy as np
    >>> from tf_triplet import builders, config as configs
    >>> config = configs.base_config()
    >>> config.model.weights = "registry"
    >>> products = np.repeat(np.arange(864), 4)
    >>> config, choices = builders.resolve(
    ...     config, products, builders.Machine()
    ... )
    >>> config.data.image_size, config.training.steps
    (64, 184)
    """
    if not open_fields(config):
        return config, []
    machine = machine or Machine.detect()
    recipe = _resolve(config, Table.of(products), machine)
    return recipe.config, recipe.choices


def _resolve(
    config: ml_collections.ConfigDict,
    table: Table,
    machine: Machine,
    load: bool = True,
) -> _Recipe:
    recipe = _Recipe(config, table, machine)
    recipe.choose_network()
    recipe.choose_batch()
    recipe.choose_head(load)
    recipe.choose_length()
    return recipe


class _Recipe:
    """A config that is filled in, field by field."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        table: Table,
        machine: Machine,
    ):
        self.config = with_fields(config, {})
        self.choices: list[Choice] = []
        self._table, self._machine = table, machine
        self._on = "a GPU" if machine.gpus else "a processor"

    def _choose(self, field: str, value: Any, reason: str) -> None:
        if get_field(self.config, field) is None:
            self.config = with_fields(self.config, {field: value})
            self.choices.append(Choice(field, value, reason))

    def choose_network(self) -> None:
        model = self.config.model
        if model.path:
            self._choose("model.backbone", "imported", "model.path is given")
        elif model.weights == "registry":
            self._choose(
                "model.backbone", "resnet50", "the registry has its weights"
            )
        self._choose("model.backbone", "resnet50v2", "it serves most catalogs")
        model = self.config.model
        if model.backbone.startswith("convnext"):
            self._choose(
                "model.batch_norm", "none", f"{model.backbone} has none"
            )
        self._choose(
            "data.image_size",
            image_size_for(self._machine),
            f"what {self._on} computes in good time",
        )
        size = self.config.data.image_size
        small = (
            size <= _SMALL_IMAGE
            and extensions.is_pretrained(self.config)
            # An ensemble has its own layers, which may come later.
            and model.learners < 2
        )
        layer = _SMALL_IMAGE_LAYERS.get(model.backbone, "") if small else ""
        self._choose(
            "model.layer",
            layer,
            f"later stages see too little of {size} pixels"
            if layer
            else "the last one",
        )
        if not extensions.is_pretrained(self.config):
            self._choose(
                "model.batch_norm", "train", "random weights have no statistics"
            )
        self._choose(
            "model.batch_norm",
            "frozen",
            "the pretrained statistics suit small minibatches",
        )
        half = self._machine.half_precision
        worth = half and self.config.data.image_size >= 160
        self._choose(
            "training.mixed_precision",
            worth,
            f"{self._on} with fast 16-bit floats"
            if worth
            else "it brings nothing at this size or on this machine",
        )

    def choose_batch(self) -> None:
        table = self._table
        each = min(max(table.images_per_product, 2), 4)
        self._choose(
            "sampling.images_per_product",
            each,
            f"the median product has {table.images_per_product}, of which "
            "2 to 4 are used",
        )
        batch = 128 if self._machine.gpus else 64
        if self.config.sampling.units == "products":
            each = self.config.sampling.images_per_product
        else:
            each = 2
        # A quarter of the products may become validation products.
        most = table.products - table.products // 4
        units = max(2, min(batch // each, most))
        units -= units % max(self.config.sampling.categories_per_batch, 1)
        units = units or self.config.sampling.categories_per_batch
        self._choose(
            "sampling.units_per_batch",
            units,
            f"{units * each} images a minibatch on {self._on}",
        )
        validation = min(0.1, _VALIDATION_PRODUCTS / max(table.products, 1))
        self._choose(
            "data.validation_fraction",
            validation,
            "a tenth"
            if validation == 0.1
            else f"{_VALIDATION_PRODUCTS:,} products suffice",
        )

    def choose_head(self, load: bool) -> None:
        model, table = self.config.model, self._table
        features, is_map = 2_048, True
        is_open = None in (model.embedding_size, model.pooling)
        if load and is_open and extensions.is_own_network(model.backbone):
            features, is_map = _own_features(self.config)
        self._choose(
            "model.pooling",
            "average_max" if is_map else "average",
            "both see more than either"
            if is_map
            else "the network returns vectors",
        )
        pretrained = extensions.is_pretrained(self.config)
        one_head = not model.branch_by and model.learners < 2
        whitens = (
            pretrained
            and one_head
            and table.images >= _WHITENING_IMAGES
            and model.embedding_size != 0
        )
        keeps = pretrained and one_head and not (whitens or model.whitening)
        size = model.whitening or min(_EMBEDDING_SIZE, features)
        self._choose(
            "model.embedding_size",
            0 if keeps else size,
            f"fewer than {_WHITENING_IMAGES} images are too few for a new head"
            if keeps
            else "small, and as good as more",
        )
        size = self.config.model.embedding_size
        self._choose(
            "model.whitening",
            size if whitens and size <= features else 0,
            "the head begins as the PCA-whitening of the features"
            if whitens
            else "there is no head to begin, or too little to begin it with",
        )

    def choose_length(self) -> None:
        config, gpus = self.config, self._machine.gpus
        batch = batch_size(config)
        epochs = _GPU_EPOCHS if gpus else _CPU_EPOCHS
        steps = math.ceil(epochs * self._table.images / batch)
        reason = f"{epochs} times each image"
        if gpus:
            steps = min(max(steps, 500), 20_000)
        else:
            fitted = 0
            if config.model.whitening:
                most = config.model.whitening_images or self._table.images
                fitted = min(most, self._table.images)
            budget = max(_CPU_IMAGES - fitted, 0) // batch
            if budget <= steps:
                steps = budget
                reason = (
                    f"{_CPU_IMAGES:,} images in all, as {self._on} takes a "
                    "few minutes for; more steps may help"
                )
        steps = max(steps, 20)
        self._choose("training.steps", steps, reason)
        steps = self.config.training.steps
        self._choose(
            "optimizer.learning_rate",
            _LEARNING_RATE,
            "the best on two catalogs' validation products",
        )
        self._choose(
            "optimizer.warmup_steps",
            min(steps // 10, 500),
            "a tenth of the steps",
        )
        # The rate falls to 0, so the last step is nearly always the best. A
        # choice among many steps would follow the noise of few products.
        self._choose(
            "evaluation.every",
            max(1, math.ceil(steps / (4 if gpus else 2))),
            "few steps to choose from, as the rate falls to 0",
        )
        every = max(1, math.ceil(steps / (10 if gpus else 4)))
        for field in ("training.checkpoint_every", "training.collapse_every"):
            self._choose(field, every, "some times in a training")


def _own_features(config: ml_collections.ConfigDict) -> tuple[int, bool]:
    """Returns the number of features of a network, and if it gives maps."""
    from tf_triplet.builders import model

    shape = model.build_backbone(config).output_shape
    return int(shape[-1] or _EMBEDDING_SIZE), len(shape) == 4
