"""Exports a run: tf-triplet-export --workdir=runs/emoji

Writes <workdir>/models/product_search/<version>/, a SavedModel that takes a
image file's bytes and answers the nearest products. It is published only
if it answers what evaluation measured. What is not given is as in the run's
config.export. For the same encoder and another catalog: tf-triplet-index.

--layer=pool serves a layer before the embedding in place of it; measure it
first with tf-triplet-evaluate --layer=pool.

--precision=bfloat16 serves an encoder whose convolutions and dense layers
multiply in bfloat16, --precision=int8 one that keeps their weights in a quarter
of the bytes; what this costs is measured and told.
"""

from __future__ import annotations

from absl import flags

from tf_triplet import builders
from tf_triplet.cli import errors, export_flags

flags.adopt_module_key_flags(export_flags)

_LAYER = flags.DEFINE_string(
    "layer",
    "",
    "Serve this layer of the encoder, averaged over a map and of unit length, "
    "in place of its embedding; a wrong name lists them.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    builders.CHOICES["export.precision"],
    "Of the encoder: bfloat16 multiplies in it, int8 keeps its weights in a "
    "quarter of the file. Default: the config's export.precision.",
)


@errors.friendly
def main(argv) -> None:
    """Embeds, builds, checks and publishes."""
    errors.refuse_arguments(argv)
    arguments = export_flags.arguments()
    from tf_triplet.workflows import export as version

    published = version.publish(
        **arguments,
        layer=_LAYER.value,
        precision=_PRECISION.value or "",
        new_encoder=True,
    )
    print(version.describe(published))


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
