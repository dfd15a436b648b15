"""Indexes another catalogue: tf-triplet-index --workdir=runs/shop \\
    --catalog=new.csv

Writes the next <workdir>/models/product_search/<version>/: the same encoder,
another index, no training. Embeddings are kept in <workdir>/index_cache by
the content of the picture, so a nightly run embeds only what is new, and one
that is stopped goes on where it was. Nothing is published if the last version
is another encoder's, or if too few of the exact nearest are found.
"""

from __future__ import annotations

from absl import app, flags, logging

from tf_triplet.cli import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CATALOG = flags.DEFINE_string(
    "catalog",
    "",
    "A manifest, .csv or .parquet: path,product_id[,category,domain,...]. "
    "Default: the run's own catalogue.",
)
_COLUMNS = flags.DEFINE_list(
    "columns",
    None,
    "Further columns of the manifest to answer: --columns=price,title. "
    "Default: as in the version before.",
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which encoder."
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Pictures to index: a split, or all. Default: all of --catalog, else the "
    "config's.",
)
_DOMAINS = flags.DEFINE_list(
    "domains",
    None,
    "Index these domains only. Default: as in the version before.",
)
_INDEX = flags.DEFINE_enum(
    "index",
    None,
    ["scann", "exact"],
    "scann, or exact (no custom op: any server loads it).",
)
_K = flags.DEFINE_integer(
    "k", None, "Neighbours that an answer holds.", lower_bound=1
)

_STORAGE = flags.DEFINE_enum(
    "storage",
    None,
    ["float32", "int8"],
    "Of the vectors in ScaNN; int8 takes a quarter and costs some recall, "
    "which is measured.",
)
_GROUP_BY_PRODUCT = flags.DEFINE_bool(
    "group_by_product", None, "Answer each product once, by its best picture."
)
_MIN_RECALL = flags.DEFINE_float(
    "min_recall",
    None,
    "Share of the exact nearest that ScaNN must find; less publishes nothing.",
    lower_bound=0.0,
    upper_bound=1.0,
)


@errors.friendly
def main(argv) -> None:
    """Embeds what is new, builds, checks and publishes."""
    errors.refuse_arguments(argv)
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of a run>.")
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)  # How far the embedding is.
    from tf_triplet.publishing import version

    published = version.publish(
        _WORKDIR.value,
        checkpoint=_CHECKPOINT.value,
        catalog_path=_CATALOG.value,
        split=_SPLIT.value or "",
        domains=_DOMAINS.value or (),
        index=_INDEX.value or "",
        k=_K.value or 0,
        columns=_COLUMNS.value or (),
        storage=_STORAGE.value or "",
        group_by_product=_GROUP_BY_PRODUCT.value,
        min_recall=_MIN_RECALL.value,
    )
    print(version.describe(published))


def run() -> None:
    """The console script."""
    app.run(main)


if __name__ == "__main__":
    run()
