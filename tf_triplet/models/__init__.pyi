from .backbones import (
    build_backbone,
)
from .branched_encoder import (
    build_branched_encoder,
)
from .branches import (
    Branches,
)
from .encoder import (
    at_layer,
    build_encoder,
)
from .keras_import import (
    import_backbone,
)
from .pooling import (
    GeneralizedMean,
    RegionalMax,
    build_pooling,
)
from .whitening import (
    fit_whitening,
)

__all__ = [
    "Branches",
    "GeneralizedMean",
    "RegionalMax",
    "at_layer",
    "build_backbone",
    "build_branched_encoder",
    "build_encoder",
    "build_pooling",
    "fit_whitening",
    "import_backbone",
]
