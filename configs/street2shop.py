"""Exact Street2Shop by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/street2shop.py \\
              --workdir=runs/street2shop --config.data.path=Street2Shop
Needs:    a GPU; ImageNet weights of ResNet50V2, which Keras downloads. The
          benchmark is a list of addresses: images that are gone are left
          out, so metrics of two downloads are not of one data set.
Pairs:    each street photo with each shop photo of its product; negatives are
          the shop's. The paper's in-domain variant, where images of both
          are paired as they come: --config.sampling.pool_domains=true
Protocol: top-20 accuracy within a category (Kiapour et al., 2015), which is
          Recall@20. The gallery is the whole shop, products of the training
          split among it, so --check tells of products in two splits.
Expect:   no figure of this protocol could be read from a source to name.
Smoke:    --config=configs/street2shop.py:smoke
"""

from tf_triplet.config import base_config, sized


def get_config(size="full"):
    """The defaults are the paper's; the street asks the shop."""
    config = base_config()
    config.data.source = "street2shop"
    config.sampling.query_domain = "street"
    config.sampling.gallery_domain = "shop"
    config.evaluation.protocol = "within_category"
    config.evaluation.query_domain = "street"
    config.evaluation.gallery_domain = "shop"
    config.evaluation.ks = (1, 5, 10, 20, 50)
    config.export.split = "test"
    config.export.domains = ("shop",)
    return sized(config, size)
