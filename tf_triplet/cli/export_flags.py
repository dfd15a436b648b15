"""Flags that tf-triplet-export and tf-triplet-index share.

A flag that is not given takes its value from the version before
(tf-triplet-index), or from the run's config (tf-triplet-export). The last
three are about this publication alone.
"""

from __future__ import annotations

from absl import flags

from tf_triplet import builders, workflows
from tf_triplet.cli import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run of tf-triplet-train."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    None,
    ["best", "last"],
    "Which encoder to serve: that of the best evaluation (best) or that of "
    "the last step (last). Default of tf-triplet-export: best.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Split of the catalog to index, several (val+test), or all.",
)
_DOMAINS = flags.DEFINE_list(
    "domains",
    None,
    "Domains to index, separated by commas. --domains= indexes all.",
)
_INDEX = flags.DEFINE_enum(
    "index",
    None,
    builders.CHOICES["export.index"],
    "How the catalog is searched: by ScaNN (scann), which is approximate and "
    "fast, or by all dot products (exact). An exact model has no custom op, so "
    "any server can load it.",
)
_K = flags.DEFINE_integer(
    "k", None, "Number of neighbors in an answer.", lower_bound=1
)
_COLUMNS = flags.DEFINE_list(
    "columns",
    None,
    "Extra columns of the manifest to answer, as in --columns=price,title. "
    "--columns= answers none.",
)
_STORAGE = flags.DEFINE_enum(
    "storage",
    None,
    builders.CHOICES["export.storage"],
    "How ScaNN stores the vectors. int8 takes a quarter of the memory of "
    "float32 and costs some recall, which is measured.",
)
_GROUP_BY_PRODUCT = flags.DEFINE_bool(
    "group_by_product",
    None,
    "Answer each product only once, by its nearest image.",
)
_MIN_RECALL = flags.DEFINE_float(
    "min_recall",
    None,
    "Share of the exact nearest neighbors that ScaNN must find, from 0 to 1. "
    "Nothing is published if it finds fewer.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_KEEP_VERSIONS = flags.DEFINE_integer(
    "keep_versions",
    None,
    "Keep this many of the newest versions, and remove older ones after "
    "publishing. A version that a tf-triplet-serve on this machine has loaded "
    "stays. Default: keep all.",
    lower_bound=1,
)
_ALLOW_UNREADABLE = flags.DEFINE_bool(
    "allow_unreadable",
    False,
    "Publish although more than 5 % of the images cannot be read.",
)
_ALLOW_SMALLER_CATALOG = flags.DEFINE_bool(
    "allow_smaller_catalog",
    False,
    "Publish although there are fewer than half of the images of the version "
    "before.",
)


def parse(**more: object) -> tuple[str, workflows.ExportOptions]:
    """Returns the run's folder and the options that the flags give.

    Args:
        **more: Options from flags that only one of the programs has.

    Returns:
        The folder and the options.

    Raises:
        ValueError: If --workdir is not given.
    """
    workdir = program.require("workdir", _WORKDIR.value, "folder of the run")
    program.log_progress()
    return workdir, workflows.ExportOptions(
        checkpoint=_CHECKPOINT.value,
        split=_SPLIT.value or None,
        domains=_DOMAINS.value,
        index=_INDEX.value,
        k=_K.value,
        columns=_COLUMNS.value,
        storage=_STORAGE.value,
        group_by_product=_GROUP_BY_PRODUCT.value,
        min_recall=_MIN_RECALL.value,
        keep_versions=_KEEP_VERSIONS.value,
        allow_unreadable=_ALLOW_UNREADABLE.value,
        allow_smaller_catalog=_ALLOW_SMALLER_CATALOG.value,
        **more,
    )
