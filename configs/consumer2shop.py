"""DeepFashion Consumer-to-Shop by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/consumer2shop.py \\
              --workdir=runs/consumer2shop --config.data.path=ConsumerToShop
Needs:    a GPU; ImageNet weights of ResNet50V2, which Keras downloads. 250,000
          steps of 128 images were never run where this was written.
Expect:   no figure of the paper could be read. Accuracy at 1, 20 and 50 that
          others published: 25.7, 64.4 and 75.0 % (GRNet: Kuang et al., 2019,
          arXiv 1908.11754).
Pairs:    each consumer photo with each shop photo of its item; negatives are
          the shop's. The paper's in-domain variant, where images of both
          are paired as they come: --config.sampling.pool_domains=true
Protocol: Recall@K is the retrieval accuracy: is the item among the K nearest
          of all test shop photos? Each consumer photo queries once, however
          many pairs it is in; tf-triplet-evaluate --protocol=per_pair counts
          it once for each. Figures of every category come along.
Split:    val is neither trained on nor tested. Published code that tests on
          both: tf-triplet-evaluate --split=val+test
Smoke:    --config=configs/consumer2shop.py:smoke
"""

from tf_triplet.config import base_config, sized


def get_config(size="full"):
    """The defaults are the paper's; consumers' photos ask the shops'."""
    config = base_config()
    config.data.source = "consumer2shop"
    config.sampling.query_domain = "consumer"
    config.sampling.gallery_domain = "shop"
    config.evaluation.protocol = "query_gallery"
    config.evaluation.query_domain = "consumer"
    config.evaluation.gallery_domain = "shop"
    config.evaluation.ks = (1, 5, 10, 20, 50)
    config.export.split = "test"
    config.export.domains = ("shop",)
    return sized(config, size)
