"""The stand-in without network: procedural products, random weights.

Command:  tf-triplet-train --config=configs/rendered.py --workdir=runs/rendered
Smoke:    add --config.training.steps=2
"""

from tf_triplet.config import base_config


def get_config():
    """Small pictures, batch hard, a network from random weights."""
    config = base_config()
    config.data.source = "rendered"
    config.data.image_size = 64
    config.sampling.units = "products"
    config.sampling.units_per_batch = 16
    config.sampling.images_per_product = 4
    config.model.backbone = "resnet50"
    config.model.weights = "random"
    config.model.embedding_size = 64
    config.loss.mining = "batch_hard"
    config.loss.margin = 0.0
    config.loss.soft = True
    config.loss.distance = "euclidean"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.training.steps = 200
    config.training.checkpoint_every = 50
    config.evaluation.every = 100
    return config
