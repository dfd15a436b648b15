"""Indexes another catalog: tf-triplet-index --workdir=runs/shop \\
    --catalog=new.csv

Writes the next <workdir>/models/product_search/<version>/ with the same
encoder and another index, without any training. Embeddings are cached in
<workdir>/index_cache by the content of the image, so a nightly run embeds only
new images, and a run that was stopped continues where it was.

An option that is not given is the same as in the version before, except that
the whole --catalog is indexed unless --split is given. The products that are
new, gone or changed since the version before are printed.

Nothing is published if the version before has another encoder, if more than
5 % of the images cannot be read, if there are fewer than half of the images of
the version before, or if the index finds too few of the exact nearest
neighbors. --allow_unreadable and --allow_smaller_catalog publish nevertheless.

In Python: tf_triplet.workflows.export(workdir, options, same_encoder=True).
"""

from __future__ import annotations

from absl import flags

from tf_triplet import workflows
from tf_triplet.cli import export_flags, program

flags.adopt_module_key_flags(export_flags)

_CATALOG = flags.DEFINE_string(
    "catalog",
    "",
    "What to index: a manifest, a .csv or .parquet file with the columns path "
    "and product_id, and optionally category, domain and others; or a folder "
    "that has one folder of images per product. Default: the catalog of the "
    "run.",
)
_ENCODING = flags.DEFINE_string(
    "encoding",
    None,
    "Encoding of a --catalog that is neither UTF-8 nor has a byte order mark, "
    "for instance cp1252. Default: data.encoding of the run.",
)


@program.friendly
def main(argv: list[str]) -> None:
    """Embeds what is new, builds, checks and publishes."""
    program.refuse_arguments(argv)
    workdir, options = export_flags.parse(
        catalog=_CATALOG.value or None, encoding=_ENCODING.value
    )
    published = workflows.export(workdir, options, same_encoder=True)
    print(published.describe())


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
