"""The checks of a configuration: what each field may hold, and beside which.

Every error names the field, what was received and the way out.
"""

from __future__ import annotations

from typing import Any

import ml_collections

CHOICES = {
    "data.source": (
        *("manifest", "folder", "emoji", "rendered"),
        *("sop", "inshop", "consumer2shop", "street2shop"),
        *("cub200", "cars196"),
    ),
    "data.on_bad_image": ("skip", "stop"),
    "data.resize": ("area", "bilinear"),
    "sampling.units": ("products", "pairs"),
    "sampling.small_category": ("fill", "exclude"),
    "sampling.singletons": ("drop", "keep"),
    "model.backbone": ("resnet50v2", "resnet50", "imported"),
    "model.input_scaling": ("0_1", "-1_1", "0_255", "caffe"),
    "model.pooling": ("average", "max", "average_max", "gem", "rmac"),
    "model.batch_norm": ("train", "frozen", "sync"),
    "model.branch_by": ("", "domain", "category"),
    "model.branches": ("heads", "networks", "weights"),
    "loss.name": (
        *("triplet", "contrastive", "lifted", "margin_loss", "npairs"),
        *("multi_similarity", "proxy_nca", "proxy_anchor", "norm_softmax"),
        # Other libraries' own, for comparison; losses/foreign.py tells what
        # is wrong with each.
        *("tfa_hard", "tfa_semihard", "tfa_lifted", "tfa_npairs"),
        *("tfsim_triplet", "tfsim_triplet_hard", "tfsim_multisim"),
        *("tfsim_circle", "tfsim_pn", "tfsim_soft_nn"),
    ),
    "loss.contrastive.reduction": ("mean", "balanced"),
    "loss.contrastive.distance": ("cosine", "euclidean", "squared_euclidean"),
    "loss.lifted.variant": ("original", "generalized"),
    "loss.lifted.distance": ("cosine", "euclidean", "squared_euclidean"),
    "loss.margin_loss.beta_per": ("all", "product"),
    "loss.margin_loss.sampling": ("distance_weighted", "all"),
    "loss.mining": ("paper", "random", "batch_hard", "batch_all", "semi_hard"),
    "loss.distance": ("cosine", "euclidean", "squared_euclidean"),
    "loss.reduction": ("mean", "mean_active", "sum"),
    "loss.scope": ("global", "replica"),
    "optimizer.name": ("sgd", "adam", "lamb"),
    "optimizer.schedule": ("constant", "piecewise", "cosine"),
    "evaluation.protocol": (
        *("auto", "leave_one_out", "query_gallery"),
        *("per_pair", "within_category"),
    ),
    "evaluation.ties": ("against", "expected"),
    "export.index": ("scann", "exact"),
    "export.storage": ("float32", "int8"),
    "export.precision": ("float32", "bfloat16", "int8"),
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError for a value that no run could use."""
    for field, choices in CHOICES.items():
        value = _get(config, field)
        if value not in choices:
            raise ValueError(
                f"`{field}` must be one of "
                f"{', '.join(choice or 'empty' for choice in choices)}. "
                f"Received: {value!r}"
            )
    for field in (
        "data.image_size",
        "sampling.units_per_batch",
        "sampling.mixed_draws",
        "training.checkpoint_every",
        "training.log_every",
        "evaluation.batch_size",
        "export.k",
    ):
        _require(config, field, lambda v: v >= 1, "at least 1")
    for field in (
        "sampling.categories_per_batch",
        "model.embedding_size",
        "model.whitening",
        "model.learners",
        "loss.divergence_margin",
        "loss.divergence_weight",
        "training.steps",
        "model.landmark_features",
        "loss.attribute_weight",
        "loss.landmark_weight",
        "optimizer.clip_norm",
        "optimizer.weight_decay",
        "optimizer.warmup_steps",
        "training.replicas",
        "training.micro_batch",
        "loss.memory_size",
        "loss.memory_warmup",
        "loss.memory_weight",
        "optimizer.loss_learning_rate",
        "training.collapse_every",
        "evaluation.every",
        "export.leaves",
        "export.leaves_to_search",
        "export.reorder",
        "augment.noise",
        "augment.rotation",
        "augment.blur",
    ):
        _require(config, field, lambda v: v >= 0, "at least 0")
    for field in (
        "sampling.single_category_probability",
        "augment.probability",
        "augment.cutout",
        "export.min_recall",
    ):
        _require(config, field, lambda v: 0 <= v <= 1, "in [0, 1]")
    for field in ("augment.min_crop", "augment.min_box_covered"):
        _require(config, field, lambda v: 0 < v <= 1, "in (0, 1]")
    _require(config, "data.test_fraction", lambda v: 0 < v < 1, "in (0, 1)")
    _require(
        config,
        "loss.attribute_positive_weight",
        lambda v: v > 0,
        "more than 0",
    )
    _require(config, "optimizer.learning_rate", lambda v: v > 0, "more than 0")
    _require(
        config,
        "sampling.images_per_product",
        lambda v: v >= 2,
        "at least 2, or no anchor has a positive",
    )
    _validate_together(config)


def _validate_together(config: ml_collections.ConfigDict) -> None:
    """Checks the fields that only make sense beside one another."""
    _validate_loss(config)
    if config.data.source not in ("emoji", "rendered") and not config.data.path:
        raise ValueError(
            f"`data.source={config.data.source}` needs `data.path`: pass "
            "--config.data.path=<manifest.csv or folder>, or try "
            "--config.data.source=rendered, which needs no files."
        )
    if config.model.backbone == "imported" and not config.model.path:
        raise ValueError(
            "`model.backbone=imported` needs `model.path`: a .keras or .h5 "
            "file or a SavedModel folder. Received: ''"
        )
    _validate_model(config)
    _validate_tasks(config)
    boundaries = tuple(config.optimizer.boundaries)
    if list(boundaries) != sorted(set(boundaries)) or any(
        b < 1 for b in boundaries
    ):
        raise ValueError(
            "`optimizer.boundaries` must be rising positive steps. "
            f"Received: {boundaries}"
        )
    ks = tuple(config.evaluation.ks)
    if not ks or any(k < 1 for k in ks):
        raise ValueError(
            f"`evaluation.ks` must hold positive ranks. Received: {ks}"
        )
    for section in ("sampling", "evaluation"):
        query = config[section].query_domain
        gallery = config[section].gallery_domain
        if bool(query) != bool(gallery):
            raise ValueError(
                f"`{section}.query_domain` and `{section}.gallery_domain` go "
                f"together. Received: {query!r} and {gallery!r}"
            )
    _validate_sampling(config.sampling)
    _validate_branches(config)
    if config.export.storage != "float32" and config.export.index != "scann":
        raise ValueError(
            f"`export.storage={config.export.storage}` is how ScaNN keeps "
            "vectors, so it needs `export.index=scann`. Received: "
            f"{config.export.index!r}"
        )
    protocol = config.evaluation.protocol
    domains = bool(config.evaluation.query_domain)
    if protocol in ("query_gallery", "per_pair") and not domains:
        raise ValueError(
            f"`evaluation.protocol={protocol}` needs "
            "`evaluation.query_domain` and `evaluation.gallery_domain`."
        )
    if protocol == "leave_one_out" and domains:
        raise ValueError(
            "`evaluation.protocol=leave_one_out` has no domains. Leave "
            "`evaluation.query_domain` empty, or take query_gallery."
        )


def _validate_loss(config: ml_collections.ConfigDict) -> None:
    loss, units = config.loss, config.sampling.units
    paired = loss.name in ("npairs", "tfa_npairs")
    if paired and units != "pairs":
        raise ValueError(
            f"`loss.name={loss.name}` compares queries with positives, so it "
            f"needs `sampling.units=pairs`. Received: {units!r}"
        )
    if (
        loss.name == "triplet"
        and loss.mining in ("paper", "random")
        and units != "pairs"
    ):
        raise ValueError(
            f"`loss.mining={loss.mining}` takes each pair's own positive, so "
            "it needs `sampling.units=pairs`. Received: "
            f"sampling.units={units!r}. Set it, or mine "
            "with `loss.mining=batch_hard`."
        )
    over_proxies = loss.name.startswith("proxy") or loss.name == "norm_softmax"
    has_own = over_proxies or (
        loss.name == "margin_loss" and loss.margin_loss.learn_beta
    )
    if config.optimizer.loss_learning_rate and not has_own:
        raise ValueError(
            "`optimizer.loss_learning_rate` is of a loss's own variables, and "
            f"loss.name={loss.name} has none. Leave it at 0. Received: "
            f"{config.optimizer.loss_learning_rate}"
        )
    foreign = loss.name.startswith("tf")
    if loss.memory_size and (foreign or over_proxies):
        raise ValueError(
            "`loss.memory_size` needs a loss over pairs of our own. Received: "
            f"loss.name={loss.name}"
        )
    sampling = config.sampling
    together = 2 if units == "pairs" else sampling.images_per_product
    batch = sampling.units_per_batch * together
    if 0 < loss.memory_size < batch:
        raise ValueError(
            "`loss.memory_size` must hold a minibatch at least, "
            f"{batch} images. Received: {loss.memory_size}"
        )
    if foreign and sampling.query_domain and not sampling.pool_domains:
        raise ValueError(
            f"`loss.name={loss.name}` knows no two domains. Set "
            "sampling.pool_domains=true, or leave sampling.query_domain and "
            "gallery_domain empty."
        )
    if loss.memory_size and loss.scope != "global":
        raise ValueError(
            "`loss.memory_size` needs `loss.scope=global`: the memory must be "
            f"the same on every replica. Received: {loss.scope!r}"
        )


def _validate_tasks(config: ml_collections.ConfigDict) -> None:
    model, loss = config.model, config.loss
    if model.landmark_features and not loss.landmark_weight:
        raise ValueError(
            "`model.landmark_features` looks around landmarks that the "
            "network has learned, so it needs `loss.landmark_weight` of more "
            f"than 0. Received: {model.landmark_features} and 0"
        )
    if not (loss.attribute_weight or loss.landmark_weight):
        return
    weights = f"{loss.attribute_weight} and {loss.landmark_weight}"
    for field, off, reason in (
        ("model.branch_by", "", "their heads are of one encoder"),
        ("model.learners", 0, "their heads are of one encoder"),
        (
            "training.micro_batch",
            0,
            "it carries the embeddings' gradients alone",
        ),
    ):
        value = _get(config, field)
        if value in ("", 0) or (field == "model.learners" and value == 1):
            continue
        raise ValueError(
            "`loss.attribute_weight` and `loss.landmark_weight` do not go "
            f"with `{field}`: {reason}. Received: {weights}, and "
            f"{field}={value!r}. Set {field}={off!r}, or both weights to 0."
        )
    if not config.training.steps:
        raise ValueError(
            "`training.steps=0` learns nothing: set `loss.attribute_weight` "
            f"and `loss.landmark_weight` to 0. Received: {weights}"
        )


def _validate_model(config: ml_collections.ConfigDict) -> None:
    model = config.model
    size, learners = model.embedding_size, model.learners
    if model.layer and model.backbone != "imported":
        raise ValueError(
            "`model.layer` cuts an imported model, so it needs "
            f"`model.backbone=imported`. Received: {model.backbone!r}"
        )
    if learners > 1 and size % learners:
        raise ValueError(
            "`model.learners` must divide `model.embedding_size`. "
            f"Received: {learners} and {size}"
        )
    imported = model.backbone == "imported"
    if learners > 1 and imported and not model.attention_at:
        raise ValueError(
            "`model.learners` of an imported model needs "
            "`model.attention_at`, the layer whose map the masks are laid "
            "on. Received: ''"
        )
    if model.attention_at and learners < 2:
        raise ValueError(
            "`model.attention_at` is where the ensemble's masks are laid on, "
            "so it needs `model.learners` of at least 2. "
            f"Received: {learners}"
        )
    if model.whitening and model.whitening != size:
        raise ValueError(
            "`model.whitening` fills the linear head, so "
            "`model.embedding_size` must be the same. Received: "
            f"{model.whitening} and {size}"
        )
    if model.whitening and learners > 1:
        raise ValueError(
            "`model.whitening` and `model.learners` do not go together: the "
            f"ensemble has no single head. Received: {model.whitening} and "
            f"{learners}"
        )
    if config.training.steps:
        return
    if learners > 1 or (size and not model.whitening):
        raise ValueError(
            "`training.steps=0` learns nothing, and the head (or the "
            "ensemble) would stay random. Set `model.embedding_size=0` for "
            "the features themselves, or `model.whitening` to that size. "
            f"Received: model.embedding_size={size}, "
            f"model.learners={learners}"
        )


def _validate_sampling(sampling: ml_collections.ConfigDict) -> None:
    categories = sampling.categories_per_batch
    if sampling.query_domain and (
        sampling.query_domain == sampling.gallery_domain
    ):
        raise ValueError(
            "`sampling.query_domain` and `sampling.gallery_domain` must be "
            f"two domains. Received: {sampling.query_domain!r} twice. Leave "
            "both empty to train on images of all domains."
        )
    if categories and sampling.units_per_batch % categories:
        raise ValueError(
            "`sampling.categories_per_batch` must divide "
            "`sampling.units_per_batch`. Received: "
            f"{categories} and {sampling.units_per_batch}"
        )
    if categories > 1 and sampling.mixed_draws > 1:
        raise ValueError(
            "`sampling.mixed_draws` mixes draws of one category, so it needs "
            "`sampling.categories_per_batch` of 0 or 1. Received: "
            f"{sampling.mixed_draws} and {categories}"
        )


def _validate_branches(config: ml_collections.ConfigDict) -> None:
    model, sampling = config.model, config.sampling
    kind = model.branches
    if not model.branch_by:
        if kind != "heads":
            raise ValueError(
                f"`model.branches={kind}` needs `model.branch_by`, domain or "
                "category. Received: ''"
            )
        return
    for field in ("learners", "whitening"):
        if model[field]:
            raise ValueError(
                f"`model.branch_by` does not go with `model.{field}`: each "
                "makes the encoder's last part. Received: "
                f"{model.branch_by!r} and {model[field]}"
            )
    if not config.training.steps:
        raise ValueError(
            "`training.steps=0` leaves all branches alike. Leave "
            f"`model.branch_by` empty. Received: {model.branch_by!r}"
        )
    if model.branch_by == "domain" and (
        not sampling.query_domain or sampling.pool_domains
    ):
        raise ValueError(
            "`model.branch_by=domain` needs two domains that are not pooled. "
            f"Received: sampling.query_domain={sampling.query_domain!r}, "
            f"sampling.gallery_domain={sampling.gallery_domain!r}, "
            f"sampling.pool_domains={sampling.pool_domains}. Name both, and "
            "set sampling.pool_domains=false."
        )
    if kind == "networks" and model.branch_by != "domain":
        raise ValueError(
            "`model.branches=networks` is a whole backbone a branch, so it "
            f"needs `model.branch_by=domain`. Received: {model.branch_by!r}. "
            "Set model.branches=heads, or weights."
        )
    if kind == "heads" and not model.embedding_size:
        raise ValueError(
            "`model.branches=heads` needs `model.embedding_size` of at least "
            "1. Received: 0"
        )
    if kind == "weights" and (
        model.embedding_size or model.batch_norm != "frozen"
    ):
        raise ValueError(
            "`model.branches=weights` trains neither head nor backbone, so it "
            "needs `model.embedding_size=0` and `model.batch_norm=frozen`. "
            f"Received: {model.embedding_size} and {model.batch_norm!r}"
        )


def _get(config: ml_collections.ConfigDict, field: str) -> Any:
    value = config
    for part in field.split("."):
        value = value[part]
    return value


def _require(config, field, accepts, wanted: str) -> None:
    value = _get(config, field)
    if not accepts(value):
        raise ValueError(f"`{field}` must be {wanted}. Received: {value!r}")
