"""Flags that tf-triplet-export and tf-triplet-index share.

What is not given is as in the version before for tf-triplet-index, and as in
the run's config.export for tf-triplet-export.
"""

from __future__ import annotations

from typing import Any

from absl import flags, logging

from tf_triplet import builders

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    None,
    ["best", "last"],
    "Which encoder. Default of an export: best.",
)
_SPLIT = flags.DEFINE_string("split", None, "Images to index: a split, or all.")
_DOMAINS = flags.DEFINE_list(
    "domains", None, "Index these domains only; --domains= indexes all."
)
_INDEX = flags.DEFINE_enum(
    "index",
    None,
    builders.CHOICES["export.index"],
    "scann, or exact (no custom op: any server loads it).",
)
_K = flags.DEFINE_integer(
    "k", None, "Neighbors that an answer holds.", lower_bound=1
)
_COLUMNS = flags.DEFINE_list(
    "columns",
    None,
    "Extra columns of the manifest to answer: --columns=price,title; "
    "--columns= answers none.",
)
_STORAGE = flags.DEFINE_enum(
    "storage",
    None,
    builders.CHOICES["export.storage"],
    "Of the vectors in ScaNN; int8 takes a quarter and costs some recall, "
    "which is measured.",
)
_GROUP_BY_PRODUCT = flags.DEFINE_bool(
    "group_by_product", None, "Answer each product once, by its best image."
)
_MIN_RECALL = flags.DEFINE_float(
    "min_recall",
    None,
    "Share of the exact nearest that ScaNN must find; less publishes nothing.",
    lower_bound=0.0,
    upper_bound=1.0,
)


def arguments() -> dict[str, Any]:
    """What `workflows.export.publish` takes of them.

    Raises:
        ValueError: no --workdir.
    """
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of a run>.")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)  # How far the embedding is.
    return {
        "workdir": _WORKDIR.value,
        "checkpoint": _CHECKPOINT.value or "",
        "split": _SPLIT.value or "",
        "domains": _DOMAINS.value,
        "index": _INDEX.value or "",
        "k": _K.value or 0,
        "columns": _COLUMNS.value,
        "storage": _STORAGE.value or "",
        "group_by_product": _GROUP_BY_PRODUCT.value,
        "min_recall": _MIN_RECALL.value,
    }
