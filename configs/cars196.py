"""Cars196 by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/cars196.py --workdir=runs/cars196 \\
              --config.data.path=cars196
Needs:    a GPU; ImageNet weights of ResNet50V2, which Keras downloads. Few
          classes: 64 pairs of 98 cars fit, and there are no categories.
Expect:   nothing of this recipe was run or could be read. Recall@1 that others
          published, other losses and batches: Proxy-Anchor, 512-d, 86.4 %
          with BN-Inception and 87.7 % with ResNet50 (Kim et al., 2020, arXiv
          2003.13911; the README of their code, Proxy-Anchor-CVPR2020).
Smoke:    --config=configs/cars196.py:smoke
"""

from tf_triplet.config import base_config, sized


def get_config(size="full"):
    """The paper's defaults with a shorter run; whole images."""
    config = base_config()
    config.data.source = "cars196"
    # The usual protocol of metric learning crops nothing.
    config.data.use_boxes = False
    config.sampling.single_category_probability = 0.0
    config.training.steps = 10_000
    config.optimizer.boundaries = (5_000,)
    config.evaluation.every = 1_000
    config.evaluation.protocol = "leave_one_out"
    config.evaluation.ks = (1, 2, 4, 8)
    config.export.split = "test"
    return sized(config, size)
