"""Product visual search: a shopper's photo in, the same product out.

The public names are imported when first used, so `import tf_triplet` does
not import TensorFlow.
"""

from __future__ import annotations

import importlib

from tf_triplet.version import __version__

_PUBLIC = {
    "Catalog": "tf_triplet.data.catalog",
    "EnsembleLoss": "tf_triplet.losses.ensemble",
    "GroupedSampler": "tf_triplet.data.sampling",
    "Learner": "tf_triplet.training.learner",
    "TripletLoss": "tf_triplet.losses.triplet",
    "triplet_loss": "tf_triplet.losses.triplet",
    "build_branched_encoder": "tf_triplet.models.branches",
    "build_encoder": "tf_triplet.models.embedding",
    "import_backbone": "tf_triplet.models.keras_import",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tf_triplet' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__():
    return sorted(__all__)
