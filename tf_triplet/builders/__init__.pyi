from .chosen_fields import (
    Choice,
    batch_size,
    check_resolved,
    fill,
    get_field,
    open_fields,
    with_fields,
)
from .data import (
    BENCHMARKS,
    build_augmentation,
    build_catalog,
    build_sampler,
    sampling_domains,
    sampling_sides,
    training_catalog,
    verify_counts,
)
from .extensions import (
    is_pretrained,
    program_flags,
    trust,
)
from .features import (
    build_baseline,
    build_neural_codes,
    compute_embeddings,
    embed_batches,
    input_spec,
    whiten,
)
from .fields import (
    CHOICES,
)
from .first_weights import (
    copy_weights,
    earlier_products,
    start_proxies,
)
from .machine import (
    Machine,
    image_size_for,
)
from .model import (
    build_backbone,
    build_branches,
    build_encoder,
    build_learner,
    build_network,
    fetch_registry_weights,
)
from .objective import (
    LOSSES,
    build_loss,
    build_optimizer,
    build_tasks,
)
from .recipe import (
    Table,
    resolve,
)
from .run_folder import (
    CHECKPOINTS,
    encoder_path,
    encoder_sha256,
    load_config,
    load_encoder,
)
from .run_products import (
    RunProducts,
    TableDifference,
    compare_digests,
    digest_products,
    digest_rows,
    table_fingerprint,
)
from .saved_config import (
    config_changes,
    read_config,
    resolve_paths,
)
from .training_split import (
    TrainingSplit,
    split_again,
    split_for_training,
    split_unrecorded,
)
from .validation import (
    validate,
)

__all__ = [
    "BENCHMARKS",
    "CHECKPOINTS",
    "CHOICES",
    "Choice",
    "LOSSES",
    "Machine",
    "RunProducts",
    "Table",
    "TableDifference",
    "TrainingSplit",
    "batch_size",
    "build_augmentation",
    "build_backbone",
    "build_baseline",
    "build_branches",
    "build_catalog",
    "build_encoder",
    "build_learner",
    "build_loss",
    "build_network",
    "build_neural_codes",
    "build_optimizer",
    "build_sampler",
    "build_tasks",
    "check_resolved",
    "compare_digests",
    "compute_embeddings",
    "config_changes",
    "copy_weights",
    "digest_products",
    "digest_rows",
    "earlier_products",
    "embed_batches",
    "encoder_path",
    "encoder_sha256",
    "fill",
    "fetch_registry_weights",
    "get_field",
    "image_size_for",
    "is_pretrained",
    "input_spec",
    "load_config",
    "load_encoder",
    "open_fields",
    "program_flags",
    "read_config",
    "resolve",
    "resolve_paths",
    "sampling_domains",
    "sampling_sides",
    "split_again",
    "split_for_training",
    "split_unrecorded",
    "start_proxies",
    "table_fingerprint",
    "training_catalog",
    "trust",
    "validate",
    "verify_counts",
    "whiten",
    "with_fields",
]
