"""Stanford Online Products by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/sop.py --workdir=runs/sop \\
              --config.data.path=Stanford_Online_Products
          Four of five minibatches hold one category. All categories in every
          minibatch: --config=configs/sop.py:all_categories
Needs:    a GPU; ImageNet weights of ResNet50V2, which Keras downloads. 250,000
          steps of 128 images were never run where this was written.
Expect:   the paper's own tables could not be read, so no figure is quoted for
          this recipe. Recall@1 that others published: 72.7 % margin loss with
          distance-weighted sampling (Wu et al., 2017, arXiv 1706.07567),
          79.6 % NormSoftmax with ResNet50 (Zhai and Wu, 2019, arXiv
          1811.12649), 80.6 % XBM with ResNet50 (Wang et al., 2020, arXiv
          1912.06798).
Smoke:    --config=configs/sop.py:smoke
"""

from tf_triplet.config import base_config, sized


def get_config(variant="full"):
    """The defaults are the paper's; the protocol is the data set's.

    Args:
        variant: "full", "smoke", or "all_categories".
    """
    config = base_config()
    if variant == "all_categories":
        config.sampling.single_category_probability = 0.0
        variant = "full"
    config.data.source = "sop"
    config.evaluation.protocol = "leave_one_out"
    config.evaluation.ks = (1, 10, 100, 1000)
    config.export.split = "test"
    return sized(config, variant)
