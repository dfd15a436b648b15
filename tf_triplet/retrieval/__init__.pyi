from .clustering import (
    evaluate_clusters,
)
from .exact import (
    top_k,
)
from .metrics import (
    RetrievalMetrics,
    evaluate,
    summarize,
)
from .protocols import (
    Protocol,
    ProtocolSpec,
    cross_domain,
    leave_one_out,
    within_category,
)
from .query_metrics import (
    QueryMetrics,
    evaluate_queries,
)
from .reranking import (
    Reranking,
    expand_queries,
    k_reciprocal,
    rerank,
)

__all__ = [
    "Protocol",
    "ProtocolSpec",
    "QueryMetrics",
    "Reranking",
    "RetrievalMetrics",
    "cross_domain",
    "evaluate",
    "evaluate_clusters",
    "evaluate_queries",
    "expand_queries",
    "k_reciprocal",
    "leave_one_out",
    "rerank",
    "summarize",
    "top_k",
    "within_category",
]
