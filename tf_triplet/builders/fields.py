"""What each field of a config may hold, whatever the others hold.

`CHOICES` is known without TensorFlow, because programs list it in --help.
Tests compare it with the code that each field selects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_collections

from tf_triplet.builders import extensions
from tf_triplet.data import validation_split
from tf_triplet.retrieval import protocols

_DISTANCES = ("cosine", "euclidean", "squared_euclidean")
CHOICES = {
    "data.source": (
        *("manifest", "folder", "emoji", "rendered"),
        *("sop", "inshop", "consumer2shop", "street2shop"),
        *("cub200", "cars196"),
    ),
    "data.split_draw": ("hash", "permutation"),
    "data.on_bad_image": ("skip", "stop"),
    "data.resize": ("area", "bilinear"),
    "sampling.units": ("products", "pairs"),
    "sampling.small_category": ("fill", "exclude"),
    "sampling.category_draw": ("square_root", "proportional", "uniform"),
    "sampling.singletons": ("drop", "keep"),
    "model.backbone": (
        *("resnet50v2", "resnet50", "efficientnetv2b0", "efficientnetv2b1"),
        *("efficientnetv2b2", "efficientnetv2b3", "efficientnetv2s"),
        *("convnexttiny", "convnextsmall", "mobilenetv3large"),
        *("mobilenetv3small", "imported"),
    ),
    "model.input_scaling": ("0_1", "-1_1", "0_255", "caffe", "torch"),
    "model.pooling": ("average", "max", "average_max", "gem", "rmac"),
    "model.batch_norm": ("train", "frozen", "sync", "none"),
    "model.branch_by": ("", "domain", "category"),
    "model.branches": ("heads", "networks", "weights"),
    "loss.name": (
        *("triplet", "contrastive", "lifted", "margin_loss", "npairs"),
        *("multi_similarity", "supcon", "smooth_ap", "proxy_nca"),
        *("proxy_anchor", "norm_softmax", "arcface"),
        # The losses of other libraries; losses/third_party.py lists the
        # faults of each.
        *("tfa_hard", "tfa_semihard", "tfa_lifted", "tfa_npairs"),
        *("tfsim_triplet", "tfsim_triplet_hard", "tfsim_multisim"),
        *("tfsim_circle", "tfsim_pn", "tfsim_soft_nn"),
    ),
    "loss.contrastive.reduction": ("mean", "balanced"),
    "loss.contrastive.distance": _DISTANCES,
    "loss.lifted.variant": ("original", "generalized"),
    "loss.lifted.distance": _DISTANCES,
    "loss.margin_loss.beta_per": ("all", "product"),
    "loss.margin_loss.sampling": ("distance_weighted", "all"),
    "loss.supcon.variant": ("supcon", "infonce"),
    "loss.proxy_start": ("random", "means"),
    "loss.mining": ("paper", "random", "batch_hard", "batch_all", "semi_hard"),
    "loss.distance": _DISTANCES,
    "loss.reduction": ("mean", "mean_active", "sum"),
    "loss.scope": ("global", "replica"),
    "optimizer.name": ("sgd", "adam", "lamb"),
    "optimizer.schedule": ("constant", "piecewise", "cosine"),
    "evaluation.protocol": protocols.PROTOCOLS,
    "evaluation.ties": ("against", "expected"),
    "export.index": ("scann", "exact"),
    "export.storage": ("float32", "int8"),
    "export.precision": ("float32", "bfloat16", "int8"),
}
_AT_LEAST_ONE = (
    *("data.image_size", "sampling.units_per_batch", "evaluation.batch_size"),
    *("training.checkpoint_every", "training.log_every", "export.k"),
)
_AT_LEAST_ZERO = (
    *("model.embedding_size", "model.whitening", "model.learners"),
    "model.whitening_images",
    *("model.landmark_features", "loss.attribute_weight"),
    *("loss.landmark_weight", "loss.memory_size", "loss.memory_warmup"),
    *("loss.memory_weight", "loss.divergence_margin"),
    *("loss.divergence_weight", "optimizer.loss_learning_rate"),
    *("optimizer.clip_norm", "optimizer.weight_decay"),
    *("optimizer.warmup_steps", "training.steps", "training.replicas"),
    "optimizer.head_warmup_steps",
    *("training.micro_batch", "training.collapse_every", "evaluation.every"),
    *("export.leaves", "export.leaves_to_search", "export.reorder"),
    *("augment.noise", "augment.rotation", "augment.blur"),
)
_SHARES = (
    *("sampling.single_category_probability", "augment.probability"),
    *("augment.cutout", "export.min_recall", "data.max_bad_share"),
)


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Checks every field that has choices or a range.

    Code of your own that a field names is imported.

    Args:
        config: The config of a run.

    Raises:
        ValueError: If a field holds a value that no run can use.
    """
    for field, choices in CHOICES.items():
        _check_choice(field, _get(config, field), choices)
    _require(config, "data.max_megapixels", lambda v: v > 0, "more than 0")
    for field in _AT_LEAST_ONE:
        _require(config, field, lambda v: v >= 1, "at least 1")
    for field in _AT_LEAST_ZERO:
        _require(config, field, lambda v: v >= 0, "at least 0")
    for field in _SHARES:
        _require(config, field, lambda v: 0 <= v <= 1, "in [0, 1]")
    for field in ("augment.min_crop", "augment.min_box_covered"):
        _require(config, field, lambda v: 0 < v <= 1, "in (0, 1]")
    for field in (
        *("loss.attribute_positive_weight", "optimizer.learning_rate"),
        "optimizer.head_rate",
    ):
        _require(config, field, lambda v: v > 0, "more than 0")
    _require(
        config, "optimizer.ema_momentum", lambda v: 0 <= v < 1, "in [0, 1)"
    )
    _require(config, "data.test_fraction", lambda v: 0 < v < 1, "in (0, 1)")
    _require(
        config,
        "data.validation_fraction",
        lambda v: 0 <= v <= 1 / validation_split.SHARE,
        f"in [0, {1 / validation_split.SHARE}]",
    )
    _require(
        config,
        "sampling.images_per_product",
        lambda v: v >= 2,
        "at least 2, or no anchor has a positive",
    )


def _check_choice(field: str, value: Any, choices: tuple[str, ...]) -> None:
    if field in extensions.FIELDS and extensions.is_extension(value):
        extensions.resolve(field, value)
    elif value not in choices:
        names = [choice or "empty" for choice in choices]
        if field in extensions.FIELDS:
            names.append("module:Name (code of your own)")
        raise ValueError(
            f"`{field}` must be one of {', '.join(names)}. Received: {value!r}"
        )


def _get(config: ml_collections.ConfigDict, field: str) -> Any:
    value = config
    for part in field.split("."):
        value = value[part]
    return value


def _require(
    config: ml_collections.ConfigDict,
    field: str,
    accepts: Callable[[Any], bool],
    wanted: str,
) -> None:
    value = _get(config, field)
    if not accepts(value):
        raise ValueError(f"`{field}` must be {wanted}. Received: {value!r}")
