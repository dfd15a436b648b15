"""Stanford Online Products, by the recipe of the paper (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/sop.py --workdir=runs/sop \\
              --config.data.path=Stanford_Online_Products
          Four of five minibatches hold products of one category. To have all
          categories in every minibatch: --config=configs/sop.py:all_categories
Needs:    A GPU, and the ImageNet weights of ResNet50V2, which Keras downloads.
          The recipe takes 250,000 steps of 128 images. We have not run it.
Expect:   We could not read the tables of the paper, so no metric of this
          recipe is quoted. Recall@1 that others have published: 72.7 % with
          margin loss and distance-weighted sampling (Wu et al., 2017, arXiv
          1706.07567), 79.6 % with NormSoftmax and ResNet50 (Zhai and Wu, 2019,
          arXiv 1811.12649), 80.6 % with XBM and ResNet50 (Wang et al., 2020,
          arXiv 1912.06798).
Smoke:    --config=configs/sop.py:smoke
"""

from tf_triplet.config import paper_config, sized


def get_config(variant="full"):
    """Returns the paper's recipe, with the protocol of the benchmark.

    Args:
        variant: "full", "smoke", or "all_categories" for minibatches of all
            categories.
    """
    config = paper_config()
    if variant == "all_categories":
        config.sampling.single_category_probability = 0.0
        variant = "full"
    config.data.source = "sop"
    # As in published results: train on the whole training split, and keep the
    # last step.
    config.data.validation_fraction = 0.0
    config.evaluation.protocol = "leave_one_out"
    config.evaluation.ks = (1, 10, 100, 1000)
    config.export.split = "test"
    return sized(config, variant)
