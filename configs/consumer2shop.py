"""DeepFashion Consumer-to-Shop, by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/consumer2shop.py \\
              --workdir=runs/consumer2shop --config.data.path=ConsumerToShop
Needs:    A GPU, and the ImageNet weights of ResNet50V2, which Keras downloads.
          The recipe takes 250,000 steps of 128 images. We have not run it.
Expect:   We could not read the tables of the paper. Accuracy at 1, 20 and 50
          that others have published: 25.7, 64.4 and 75.0 % (GRNet: Kuang et
          al., 2019, arXiv 1908.11754).
Pairs:    Every consumer photo is paired with every shop photo of its item.
          Negatives are shop photos. In the in-domain variant of the paper,
          images of both domains are paired without telling them apart:
          --config.sampling.pool_domains=true
Protocol: Recall@K is the retrieval accuracy of the benchmark: is the item among
          the K nearest of all test shop photos? Each consumer photo queries
          once, even if it forms several pairs. To count it once for each pair:
          tf-triplet-evaluate --protocol=per_pair. The metrics of every category
          are reported too.
Split:    The split `val` is neither trained on nor tested. To compare with
          published code that tests on both: tf-triplet-evaluate
          --split=val+test
Smoke:    --config=configs/consumer2shop.py:smoke
"""

from tf_triplet.config import paper_config, sized


def get_config(size="full"):
    """Returns the paper's recipe, where consumer photos query shop photos."""
    config = paper_config()
    config.data.source = "consumer2shop"
    # As in published results: train on the whole training split, and keep the
    # last step.
    config.data.validation_fraction = 0.0
    config.sampling.query_domain = "consumer"
    config.sampling.gallery_domain = "shop"
    config.evaluation.protocol = "query_gallery"
    config.evaluation.query_domain = "consumer"
    config.evaluation.gallery_domain = "shop"
    config.evaluation.ks = (1, 5, 10, 20, 50)
    config.export.split = "test"
    config.export.domains = ("shop",)
    return sized(config, size)
