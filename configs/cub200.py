"""CUB-200-2011 by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/cub200.py --workdir=runs/cub200 \\
              --config.data.path=CUB_200_2011
Needs:    a GPU; ImageNet weights of ResNet50V2, which Keras downloads. Few
          classes: 64 pairs of 100 birds fit, and there are no categories.
Expect:   nothing of this recipe was run or could be read. Recall@1 that others
          published, other losses and batches: Proxy-Anchor, 512-d, 69.1 %
          with BN-Inception and 69.9 % with ResNet50 (Kim et al., 2020, arXiv
          2003.13911; the README of their code, Proxy-Anchor-CVPR2020).
Smoke:    --config=configs/cub200.py:smoke
"""

from tf_triplet.config import base_config, sized


def get_config(size="full"):
    """The paper's defaults with a shorter run; whole images."""
    config = base_config()
    config.data.source = "cub200"
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
