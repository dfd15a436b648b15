"""Exact Street2Shop, by the recipe of the paper (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/street2shop.py \\
              --workdir=runs/street2shop --config.data.path=Street2Shop
Needs:    A GPU, and the ImageNet weights of ResNet50V2, which Keras downloads.
          The benchmark is a list of web addresses. Images that no longer exist
          are left out, so metrics of two downloads are not comparable.
Pairs:    Every street photo is paired with every shop photo of its product.
          Negatives are shop photos. In the in-domain variant of the paper,
          images of both domains are paired without telling them apart:
          --config.sampling.pool_domains=true
Protocol: Top-20 accuracy within a category (Kiapour et al., 2015), which is
          Recall@20. The gallery holds all shop photos, also of products to
          train on, so --check reports products in two splits.
Expect:   We found no published metric of this protocol that we could cite.
Smoke:    --config=configs/street2shop.py:smoke
"""

from tf_triplet.config import paper_config, sized


def get_config(size="full"):
    """Returns the paper's recipe, where street photos query shop photos."""
    config = paper_config()
    config.data.source = "street2shop"
    # As in published results: train on the whole training split, and keep the
    # last step.
    config.data.validation_fraction = 0.0
    config.sampling.query_domain = "street"
    config.sampling.gallery_domain = "shop"
    config.evaluation.protocol = "within_category"
    config.evaluation.query_domain = "street"
    config.evaluation.gallery_domain = "shop"
    config.evaluation.ks = (1, 5, 10, 20, 50)
    config.export.split = "test"
    config.export.domains = ("shop",)
    return sized(config, size)
