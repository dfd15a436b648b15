from .clustering import (
    evaluate_clusters,
)
from .exact import (
    top_k,
)
from .metrics import (
    QueryMetrics,
    RetrievalMetrics,
    evaluate,
    evaluate_queries,
    summarize,
)
from .protocols import (
    Protocol,
    ProtocolSpec,
    build_protocols,
    cross_domain,
    leave_one_out,
    within_category,
)

__all__ = [
    "Protocol",
    "ProtocolSpec",
    "QueryMetrics",
    "RetrievalMetrics",
    "build_protocols",
    "cross_domain",
    "evaluate",
    "evaluate_clusters",
    "evaluate_queries",
    "leave_one_out",
    "summarize",
    "top_k",
    "within_category",
]
