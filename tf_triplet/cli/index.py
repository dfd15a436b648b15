"""Indexes another catalog: tf-triplet-index --workdir=runs/shop \\
    --catalog=new.csv

Writes the next <workdir>/models/product_search/<version>/: the same encoder,
another index, no training. Embeddings are kept in <workdir>/index_cache by
the content of the image, so a nightly run embeds only what is new, and one
that is stopped goes on where it was. What is not given is as in the version
before, but all of --catalog is indexed unless --split says otherwise. Nothing
is published if that version is another encoder's, or if too few of the exact
nearest are found.
"""

from __future__ import annotations

from absl import flags

from tf_triplet.cli import errors, export_flags

flags.adopt_module_key_flags(export_flags)

_CATALOG = flags.DEFINE_string(
    "catalog",
    "",
    "A manifest, .csv or .parquet: path,product_id[,category,domain,...]. "
    "Default: the run's own catalog.",
)


@errors.friendly
def main(argv) -> None:
    """Embeds what is new, builds, checks and publishes."""
    errors.refuse_arguments(argv)
    arguments = export_flags.arguments()
    from tf_triplet.workflows import export as version

    published = version.publish(**arguments, catalog_path=_CATALOG.value)
    print(version.describe(published))


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
