"""A run that needs no network: drawn products, random initial weights.

Command:  tf-triplet-train --config=configs/rendered.py --workdir=runs/rendered
Needs:    Two CPU cores.
Smoke:    Add --config.training.steps=2
"""

from tf_triplet.config import paper_config


def get_config():
    """Returns small images, semi-hard triplets and random initial weights."""
    config = paper_config()
    config.data.source = "rendered"
    config.data.image_size = 64
    config.sampling.units = "products"
    config.sampling.units_per_batch = 16
    config.sampling.images_per_product = 4
    config.model.backbone = "resnet50"
    config.model.weights = "random"
    config.model.embedding_size = 64
    # With random weights, batch_hard collapses within 50 steps.
    config.loss.mining = "semi_hard"
    config.loss.margin = 0.2
    config.loss.distance = "squared_euclidean"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 20
    config.optimizer.schedule = "cosine"
    config.training.steps = 200
    config.training.checkpoint_every = 50
    config.evaluation.every = 100
    return config
