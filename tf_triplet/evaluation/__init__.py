"""An encoder and a catalog to metrics: embed once, then score."""

from tf_triplet.evaluation.scoring import *  # noqa: F403
