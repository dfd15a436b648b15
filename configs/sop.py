"""Stanford Online Products by the paper's recipe (Dodds et al., 2018).

Command:  tf-triplet-train --config=configs/sop.py --workdir=runs/sop \\
              --config.data.path=Stanford_Online_Products
All categories in every minibatch:
          --config.sampling.single_category_probability=0
Needs:    a GPU; ImageNet weights of ResNet50V2, which Keras downloads. 250,000
          steps of 128 pictures were never run where this was written.
Smoke:    --config.training.steps=2 --config.sampling.units_per_batch=2
"""

from tf_triplet.config import base_config


def get_config():
    """The defaults are the paper's; the protocol is the data set's."""
    config = base_config()
    config.data.source = "sop"
    config.evaluation.protocol = "leave_one_out"
    config.evaluation.ks = (1, 10, 100, 1000)
    config.export.split = "test"
    return config
