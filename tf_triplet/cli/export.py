"""Exports a run as a model to serve: tf-triplet-export --workdir=runs/emoji

Writes <workdir>/models/product_search/<version>/, a SavedModel that takes the
bytes of an image file and answers the nearest products. It is published only
if it answers what evaluation has measured. An option that is not given is
taken from the run's config. To index another catalog for the same encoder, use
tf-triplet-index.

--layer=pool serves a layer before the embedding. Measure it first with
tf-triplet-evaluate --layer=pool.

--precision=bfloat16 multiplies convolutions and dense layers in bfloat16.
--precision=int8 stores their weights in a quarter of the bytes. What this
costs is measured and printed.

In Python: tf_triplet.workflows.export(workdir, options).
"""

from __future__ import annotations

from absl import flags

from tf_triplet import builders, workflows
from tf_triplet.cli import export_flags, program

flags.adopt_module_key_flags(export_flags)

_LAYER = flags.DEFINE_string(
    "layer",
    "",
    "Serve this layer of the encoder in place of its embedding. A feature map "
    "is averaged, and vectors get unit length. A wrong name lists the layers.",
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    None,
    builders.CHOICES["export.precision"],
    "Arithmetic of the encoder. bfloat16 multiplies in it, which is faster on "
    "hardware that has it; int8 stores the weights in a quarter of the bytes. "
    "Default: export.precision of the config.",
)


@program.friendly
def main(argv: list[str]) -> None:
    """Embeds, builds, checks and publishes."""
    program.refuse_arguments(argv)
    workdir, options = export_flags.parse(
        layer=_LAYER.value or None, precision=_PRECISION.value
    )
    print(workflows.export(workdir, options).describe())


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
