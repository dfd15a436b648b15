from . import (
    data,
    evaluation,
    losses,
    models,
    retrieval,
    training,
    workflows,
)
from .data.catalog import Catalog
from .data.sampling import GroupedSampler
from .losses.ensemble import EnsembleLoss
from .losses.triplet import TripletLoss, triplet_loss
from .models.branched_encoder import build_branched_encoder
from .models.encoder import build_encoder
from .models.keras_import import import_backbone
from .training.learner import Learner

__all__ = [
    "Catalog",
    "EnsembleLoss",
    "GroupedSampler",
    "Learner",
    "TripletLoss",
    "build_branched_encoder",
    "build_encoder",
    "data",
    "evaluation",
    "import_backbone",
    "losses",
    "models",
    "retrieval",
    "training",
    "triplet_loss",
    "workflows",
]
