"""DeepFashion In-Shop, by the recipe of the paper (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/inshop.py --workdir=runs/inshop \\
              --config.data.path=InShop
Needs:    A GPU, and the ImageNet weights of ResNet50V2, which Keras downloads.
          The recipe takes 250,000 steps of 128 images. We have not run it.
Expect:   We could not read the tables of the paper. Recall@1 that others have
          published: 89.4 % with NormSoftmax (Zhai and Wu, 2019, arXiv
          1811.12649), 91.9 % with Proxy-Anchor (Kim et al., 2020, arXiv
          2003.13911).
Smoke:    --config=configs/inshop.py:smoke
"""

from tf_triplet.config import paper_config, sized


def get_config(size="full"):
    """Returns the paper's recipe, with the benchmark's queries and gallery."""
    config = paper_config()
    config.data.source = "inshop"
    # As in published results: train on the whole training split, and keep the
    # last step.
    config.data.validation_fraction = 0.0
    config.evaluation.protocol = "query_gallery"
    config.evaluation.query_domain = "query"
    config.evaluation.gallery_domain = "gallery"
    config.evaluation.ks = (1, 10, 20, 30, 40, 50)
    config.export.split = "test"
    config.export.domains = ("gallery",)
    return sized(config, size)
