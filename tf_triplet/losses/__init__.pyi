from .arcface import (
    ArcFaceLoss,
    arcface_loss,
)
from .batch_loss import (
    BatchLoss,
    BatchValue,
    Keys,
)
from .contrastive import (
    ContrastiveLoss,
    contrastive_loss,
)
from .ensemble import (
    EnsembleLoss,
)
from .lifted import (
    LiftedStructureLoss,
    lifted_structure_loss,
)
from .margin import (
    MarginLoss,
    margin_loss,
)
from .multi_similarity import (
    MultiSimilarityLoss,
    multi_similarity_loss,
)
from .npairs import (
    NPairsLoss,
    n_pairs_loss,
)
from .proxies import (
    NormSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
    norm_softmax_loss,
    proxy_anchor_loss,
    proxy_nca_loss,
)
from .smooth_ap import (
    SmoothAPLoss,
    smooth_ap_loss,
)
from .supervised_contrastive import (
    SupervisedContrastiveLoss,
    supervised_contrastive_loss,
)
from .third_party import (
    ThirdPartyLoss,
)
from .triplet import (
    TripletLoss,
    triplet_loss,
)

__all__ = [
    "ArcFaceLoss",
    "BatchLoss",
    "BatchValue",
    "ContrastiveLoss",
    "EnsembleLoss",
    "Keys",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NPairsLoss",
    "NormSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SmoothAPLoss",
    "SupervisedContrastiveLoss",
    "ThirdPartyLoss",
    "TripletLoss",
    "arcface_loss",
    "contrastive_loss",
    "lifted_structure_loss",
    "margin_loss",
    "multi_similarity_loss",
    "n_pairs_loss",
    "norm_softmax_loss",
    "proxy_anchor_loss",
    "proxy_nca_loss",
    "smooth_ap_loss",
    "supervised_contrastive_loss",
    "triplet_loss",
]
