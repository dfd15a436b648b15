"""CUB-200-2011, by the recipe of the paper (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/cub200.py --workdir=runs/cub200 \\
              --config.data.path=CUB_200_2011
Needs:    A GPU, and the ImageNet weights of ResNet50V2, which Keras downloads.
          There are 100 classes to train on, enough for 64 pairs, and no
          categories.
Expect:   We have not run this recipe, and found no published metric of it.
          Recall@1 that others have published, with other losses and batches:
          Proxy-Anchor with 512 dimensions, 69.1 % with BN-Inception and 69.9 %
          with ResNet50 (Kim et al., 2020, arXiv 2003.13911; the README of
          their code, Proxy-Anchor-CVPR2020).
Smoke:    --config=configs/cub200.py:smoke
"""

from tf_triplet.config import paper_config, sized


def get_config(size="full"):
    """Returns the paper's recipe with fewer steps, for whole images."""
    config = paper_config()
    config.data.source = "cub200"
    # As in published results: train on the whole training split, and keep the
    # last step.
    config.data.validation_fraction = 0.0
    # The usual protocol of metric learning does not crop.
    config.data.use_boxes = False
    config.sampling.single_category_probability = 0.0
    config.training.steps = 10_000
    config.optimizer.boundaries = (5_000,)
    config.evaluation.protocol = "leave_one_out"
    config.evaluation.ks = (1, 2, 4, 8)
    config.export.split = "test"
    return sized(config, size)
