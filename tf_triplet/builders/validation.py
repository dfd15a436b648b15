"""Checks a config before anything is loaded.

Rules about several fields are asked of the code that they configure, where
that code has them, and written here otherwise. Every error names the field,
the value and how to fix it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from tf_triplet.builders import extensions, recipe
from tf_triplet.builders.chosen_fields import batch_size, open_fields
from tf_triplet.builders.fields import check_fields
from tf_triplet.retrieval import protocols


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks that a run could use every value of a config.

    TensorFlow is imported where a rule needs it. Code of your own that the
    config names is imported, and a loss of your own is constructed.

    Args:
        config: The config of a run. Fields that are left to be chosen are
            taken to have likely values.

    Raises:
        ValueError: If a field holds a value that no run can use, or if two
            fields exclude each other.
    """
    if open_fields(config):
        config = recipe.nominal(config)
    check_fields(config)
    _check_data(config.data)
    _check_sampling(config.sampling)
    _check_model(config)
    _check_untrained(config)
    _check_branches(config)
    _check_loss(config)
    _check_tasks(config)
    _check_optimizer(config.optimizer)
    _check_evaluation(config.evaluation)
    _check_export(config.export)


def _check_data(data: ml_collections.ConfigDict) -> None:
    # A function of your own may need no path.
    own = extensions.is_extension(data.source)
    if data.source not in ("emoji", "rendered") and not (own or data.path):
        raise ValueError(
            f"`data.source={data.source}` needs `data.path`: pass "
            "--config.data.path=<manifest.csv or folder>, or try "
            "--config.data.source=rendered, which needs no files."
        )


def _check_sampling(sampling: ml_collections.ConfigDict) -> None:
    from tf_triplet.data.sampling import sampler

    query, gallery = sampling.query_domain, sampling.gallery_domain
    if bool(query) != bool(gallery):
        raise ValueError(
            "`sampling.query_domain` and `sampling.gallery_domain` go "
            f"together. Received: {query!r} and {gallery!r}"
        )
    if query and query == gallery:
        raise ValueError(
            "`sampling.query_domain` and `sampling.gallery_domain` must be "
            f"two domains. Received: {query!r} twice. Leave both empty to "
            "train on images of all domains."
        )
    names = ("units_per_batch", "categories_per_batch", "mixed_draws")
    with _as_fields({name: f"sampling.{name}" for name in names}):
        sampler.check_draws(*(sampling[name] for name in names))


def _check_model(config: ml_collections.ConfigDict) -> None:
    from tf_triplet.models import batch_norm, encoder

    model = config.model
    with _as_fields({"batch_norm": "model.batch_norm"}):
        batch_norm.check_kind(model.backbone, model.batch_norm)
    imported = model.backbone == "imported"
    if imported and not model.path:
        raise ValueError(
            "`model.backbone=imported` needs `model.path`: a .keras or .h5 "
            "file or a SavedModel folder. Received: ''"
        )
    size, learners = model.embedding_size, model.learners
    with _as_fields(
        {"embedding_size": "model.embedding_size", "learners": "model.learners"}
    ):
        encoder.check_sizes(size, learners)
    known = model.backbone in ("resnet50", "resnet50v2")
    if learners > 1 and not known and not model.attention_at:
        raise ValueError(
            f"`model.learners` with model.backbone={model.backbone} needs "
            "`model.attention_at`: the name of the layer whose output the "
            "learners mask. Received: ''"
        )
    if model.attention_at and learners < 2:
        raise ValueError(
            "`model.attention_at` is the layer that the learners of an "
            "ensemble mask, so it needs `model.learners` of at least 2. "
            f"Received: {learners}"
        )
    if model.whitening and model.whitening != size:
        raise ValueError(
            "`model.whitening` fills the linear head, so "
            "`model.embedding_size` must be the same. Received: "
            f"{model.whitening} and {size}"
        )
    if model.head_norm and (model.branch_by or not size):
        raise ValueError(
            "`model.head_norm` normalizes the features before the one head of "
            "an encoder, so it needs model.embedding_size of more than 0 and "
            f"no model.branch_by. Received: {size} and {model.branch_by!r}. "
            "Set model.head_norm=false."
        )
    if model.whitening and learners > 1:
        raise ValueError(
            "`model.whitening` and `model.learners` do not go together: the "
            f"ensemble has no single head. Received: {model.whitening} and "
            f"{learners}"
        )


def _check_untrained(config: ml_collections.ConfigDict) -> None:
    if config.training.steps:
        return
    model = config.model
    size, learners = model.embedding_size, model.learners
    if learners > 1 or (size and not model.whitening):
        raise ValueError(
            "`training.steps=0` learns nothing, so the head (or the ensemble) "
            "would stay random. Set `model.embedding_size=0` to use the "
            "features themselves, or `model.whitening` to the embedding size. "
            f"Received: model.embedding_size={size}, "
            f"model.learners={learners}"
        )
    if model.branch_by:
        raise ValueError(
            "`training.steps=0` leaves all branches alike. Leave "
            f"`model.branch_by` empty. Received: {model.branch_by!r}"
        )
    weights = config.loss.attribute_weight, config.loss.landmark_weight
    if any(weights):
        raise ValueError(
            "`training.steps=0` learns nothing: set `loss.attribute_weight` "
            f"and `loss.landmark_weight` to 0. Received: {weights[0]} and "
            f"{weights[1]}"
        )


def _check_branches(config: ml_collections.ConfigDict) -> None:
    from tf_triplet.models import branched_encoder

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
                f"`model.branch_by` does not go with `model.{field}`: both "
                "replace the head of the encoder. Received: "
                f"{model.branch_by!r} and {model[field]}"
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
            "`model.branches=networks` gives each branch a whole backbone, so "
            f"it needs `model.branch_by=domain`. Received: "
            f"{model.branch_by!r}. Set model.branches=heads, or weights."
        )
    with _as_fields(
        {"kind": "model.branches", "embedding_size": "model.embedding_size"}
    ):
        branched_encoder.check_kind(kind, model.embedding_size)
    if kind == "weights" and model.batch_norm not in ("frozen", "none"):
        raise ValueError(
            "`model.branches=weights` does not train the backbone, so it needs "
            f"`model.batch_norm=frozen`. Received: {model.batch_norm!r}"
        )


def _check_loss(config: ml_collections.ConfigDict) -> None:
    from tf_triplet.builders import objective
    from tf_triplet.training import learner_checks

    loss, sampling = config.loss, config.sampling
    _check_arguments(loss)
    with _as_fields(_argument_fields(loss, objective.LOSSES)):
        needs = objective.loss_for_validation(config)
    if needs.in_pairs and sampling.units != "pairs":
        is_triplet = loss.name == "triplet"
        name = f"mining={loss.mining}" if is_triplet else f"name={loss.name}"
        instead = "loss.mining=batch_hard" if is_triplet else "another loss"
        raise ValueError(
            f"`loss.{name}` compares each query with its own positive, so it "
            f"needs `sampling.units=pairs`. Received: {sampling.units!r}. Set "
            f"it, or take {instead}."
        )
    if needs.needs_negatives and sampling.units_per_batch < 2:
        raise ValueError(
            "`sampling.units_per_batch` must be at least 2, or no image of a "
            f"minibatch has a negative. Received: {sampling.units_per_batch}"
        )
    _check_proxy_start(config, needs)
    rate = config.optimizer.loss_learning_rate
    if rate and not needs.has_variables:
        raise ValueError(
            "`optimizer.loss_learning_rate` is for the variables of a loss, "
            f"and loss.name={loss.name} has none. Set it to 0. Received: {rate}"
        )
    two_domains = sampling.query_domain and not sampling.pool_domains
    if two_domains and not needs.takes_sides:
        raise ValueError(
            f"`loss.name={loss.name}` cannot tell two domains apart. Set "
            "sampling.pool_domains=true, or leave sampling.query_domain and "
            "gallery_domain empty."
        )
    with _as_fields(
        {
            "memory": "loss.memory_size",
            "scope": "loss.scope",
            "micro_batch": "training.micro_batch",
            "tasks": "loss.attribute_weight` or `loss.landmark_weight",
        }
    ):
        learner_checks.check_scope(loss.scope, bool(loss.memory_size), needs)
        learner_checks.check_micro_batch(
            config.training.micro_batch,
            bool(loss.attribute_weight or loss.landmark_weight),
        )
    batch = batch_size(config)
    if 0 < loss.memory_size < batch:
        raise ValueError(
            "`loss.memory_size` must be at least the size of a minibatch, "
            f"{batch} images. Received: {loss.memory_size}"
        )


def _check_proxy_start(config: ml_collections.ConfigDict, loss: Any) -> None:
    from tf_triplet.losses import proxy_base

    start, learners = config.loss.proxy_start, config.model.learners
    if start == "random":
        return
    if not isinstance(loss, proxy_base.ProxyLoss):
        raise ValueError(
            f"`loss.proxy_start={start}` is for a loss with proxies, and "
            f"loss.name={config.loss.name} has none. Set it to random."
        )
    if learners > 1:
        raise ValueError(
            f"`loss.proxy_start={start}` needs one embedding of an image, and "
            f"`model.learners` makes several. Received: {learners}. Set "
            "loss.proxy_start=random."
        )


def _check_arguments(loss: ml_collections.ConfigDict) -> None:
    from tf_triplet.losses import third_party

    takes_arguments = (
        extensions.is_extension(loss.name)
        or loss.name in third_party.THIRD_PARTY_LOSSES
    )
    if len(loss.arguments) and not takes_arguments:
        section = "mining" if loss.name == "triplet" else loss.name
        raise ValueError(
            "`loss.arguments` is for a loss of your own (module:Name) or of "
            f"another library. loss.name={loss.name} has fields of its own "
            f"(loss.{section} ...). Received: {loss.arguments.to_dict()}"
        )


def _argument_fields(
    loss: ml_collections.ConfigDict, sections: Mapping[str, Any]
) -> dict[str, str]:
    """Maps the arguments of a loss to the fields of the config."""
    if loss.name == "triplet":
        names = (
            *("mining", "margin", "soft", "distance", "reduction"),
            "selective",
        )
        return {name: f"loss.{name}" for name in names}
    section = loss.name if loss.name in sections else "arguments"
    return {name: f"loss.{section}.{name}" for name in loss[section]}


def _check_tasks(config: ml_collections.ConfigDict) -> None:
    model, loss = config.model, config.loss
    if model.landmark_features and not loss.landmark_weight:
        raise ValueError(
            "`model.landmark_features` looks around the landmarks that the "
            "network predicts, so it needs `loss.landmark_weight` of more "
            f"than 0. Received: {model.landmark_features} and 0"
        )
    if not (loss.attribute_weight or loss.landmark_weight):
        return
    for field, none in (("branch_by", ("",)), ("learners", (0, 1))):
        if model[field] not in none:
            raise ValueError(
                "`loss.attribute_weight` and `loss.landmark_weight` do not go "
                f"with `model.{field}`: their heads belong to one encoder. "
                f"Received: {loss.attribute_weight} and "
                f"{loss.landmark_weight}, and model.{field}="
                f"{model[field]!r}. Set model.{field}={none[0]!r}, or both "
                "weights to 0."
            )


def _check_optimizer(optimizer: ml_collections.ConfigDict) -> None:
    boundaries = tuple(optimizer.boundaries)
    rising = list(boundaries) == sorted(set(boundaries))
    if not rising or any(step < 1 for step in boundaries):
        raise ValueError(
            "`optimizer.boundaries` must be rising positive steps. "
            f"Received: {boundaries}"
        )
    from tf_triplet.training import schedules

    own = optimizer.head_rate != 1 or optimizer.head_warmup_steps > 0
    schedules.check_groups(optimizer.name, own)


def _check_evaluation(evaluation: ml_collections.ConfigDict) -> None:
    ks = tuple(evaluation.ks)
    if not ks or any(k < 1 for k in ks):
        raise ValueError(
            f"`evaluation.ks` must hold positive ranks. Received: {ks}"
        )
    names = ("protocol", "query_domain", "gallery_domain")
    with _as_fields({name: f"evaluation.{name}" for name in names}):
        protocols.ProtocolSpec(*(evaluation[name] for name in names))


def _check_export(export: ml_collections.ConfigDict) -> None:
    if export.storage != "float32" and export.index != "scann":
        raise ValueError(
            f"`export.storage={export.storage}` is how ScaNN stores vectors, "
            f"so it needs `export.index=scann`. Received: {export.index!r}"
        )


@contextlib.contextmanager
def _as_fields(fields: Mapping[str, str]) -> Iterator[None]:
    """Names fields of the config in an error that names arguments."""
    try:
        yield
    except ValueError as error:
        text = re.sub(
            r"`(\w+)(?=[`=])",
            lambda match: f"`{fields.get(match[1], match[1])}",
            str(error),
        )
        raise ValueError(text) from error
