"""The paper's recipe on a catalog of your own.

Dodds et al., 2018: 64 pairs with their hardest negatives, 80 % of the
minibatches of one category, and SGD. It learns slowly and is meant for 250,000
steps. For a catalog of your own, the recipe without a config file is better.

Command:  tf-triplet-train --config=configs/paper.py --workdir=runs/paper \\
              --config.data.path=shop/manifest.csv
Needs:    A GPU for days.
Smoke:    --config=configs/paper.py:smoke
"""

from tf_triplet.config import paper_config, sized


def get_config(size="full"):
    """Returns the paper's recipe, in full or as a smoke test."""
    return sized(paper_config(), size)
