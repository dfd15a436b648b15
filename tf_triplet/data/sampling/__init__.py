"""Which images make a minibatch: the schedule and the choice of images."""

from tf_triplet.data.sampling.sampler import GroupedSampler

__all__ = ["GroupedSampler"]
