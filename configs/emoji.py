"""The quick start: emoji as four vendors draw them.

An emoji is a product and each vendor's drawing is an image of it. Half of the
products are held out.

Command:  tf-triplet-train --config=configs/emoji.py --workdir=runs/emoji
Needs:    Two CPU cores. The images and the weights of ResNet50 are fetched from
          package registries once.
Smoke:    Add --config.training.steps=2
"""

from tf_triplet.config import paper_config


def get_config():
    """Returns 16 products x 4 drawings, soft batch-hard triplets and Adam."""
    config = paper_config()
    config.data.source = "emoji"
    config.data.image_size = 64
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
    config.loss.margin = 0.0
    config.loss.soft = True
    config.loss.distance = "euclidean"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 20
    config.training.steps = 300
    config.training.checkpoint_every = 50
    config.evaluation.every = 100
    return config
