from .embedding_files import (
    SavedEmbeddings,
    load_embeddings,
    save_embeddings,
)
from .embeddings import (
    Embeddings,
    branch_names,
    branch_of_rows,
    check_finite,
    compute_embeddings,
    embed_batches,
)
from .gain import (
    Gain,
    measure_gain,
)
from .scoring import (
    Evaluation,
    build_protocols,
    check_protocol,
    evaluate,
    evaluate_domains,
    named_domains,
)

__all__ = [
    "Embeddings",
    "Evaluation",
    "Gain",
    "SavedEmbeddings",
    "branch_names",
    "branch_of_rows",
    "build_protocols",
    "check_finite",
    "check_protocol",
    "compute_embeddings",
    "embed_batches",
    "evaluate",
    "evaluate_domains",
    "load_embeddings",
    "measure_gain",
    "named_domains",
    "save_embeddings",
]
