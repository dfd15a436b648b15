"""Which images make up every batch."""

from tf_triplet.data.sampling.sampler import GroupedSampler, Sampler

__all__ = ["GroupedSampler", "Sampler"]
