"""Trains an encoder: tf-triplet-train --config=... --workdir=...

Your own images need no config file:

  tf-triplet-train --workdir=runs/shop --config.data.path=shop/manifest.csv

A folder per product: --config.data.source=folder --config.data.path=images
Without any files:    --config.data.source=rendered

A new head on what a run has learned, from the layer before its embedding:

  --config.model.backbone=imported --config.model.layer=pool \\
      --config.model.path=runs/shop/encoder.keras

Neural codes, pretrained features whitened by PCA, without any training:

  --config.training.steps=0 --config.model.whitening=128 \\
      --config.model.embedding_size=128

The same command again goes on where the run stopped. Ctrl-C saves and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.cli import errors

with errors.unknown_fields():
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        configs.__file__,
        "File with get_config(); override a field by --config.loss.margin=0.2. "
        "Default: the paper's recipe.",
    )
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: config, checkpoints, metrics."
)
_RESUME = flags.DEFINE_bool(
    "resume", True, "Go on from the workdir's last checkpoint."
)
_CHECK = flags.DEFINE_bool(
    "check", False, "Only inspect the images, and report what is wrong."
)
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Only hold a benchmark's counts against the published ones; opens no "
    "image.",
)


@errors.friendly
def main(argv) -> None:
    """Trains, or checks the data."""
    errors.refuse_arguments(argv)
    given = flags.FLAGS["config"].config_filename.partition(":")[0]
    if not Path(given).is_file():
        raise FileNotFoundError(
            f"--config must be a Python file with get_config(), such as "
            f"configs/sop.py or configs/sop.py:smoke. Received: {given!r}, "
            "which does not exist. Left out, it is the paper's recipe."
        )
    config = _CONFIG.value
    builders.validate(config)
    if _VERIFY.value:
        return _verify(config)
    if _CHECK.value:
        return _check(config)
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of the run>.")
    from tf_triplet.workflows import train as runs

    runs.train(config, Path(_WORKDIR.value), _RESUME.value)


def _verify(config) -> None:
    """A subset is no mistake: it is told, not refused."""
    from tf_triplet import builders

    if config.data.source not in builders.BENCHMARKS:
        raise ValueError(
            "--verify knows the published counts of "
            f"{', '.join(builders.BENCHMARKS)}. Received: "
            f"data.source={config.data.source}. Your own images: --check."
        )
    catalog = builders.build_catalog(config)
    print(catalog)
    for line in builders.verify_counts(config.data.source, catalog):
        print(line)


def _check(config) -> None:
    from rich.console import Console

    from tf_triplet import builders
    from tf_triplet.data import preflight

    catalog = builders.build_catalog(config)
    for line in builders.verify_counts(config.data.source, catalog):
        print(line)
    report = preflight.inspect(catalog)
    Console().print(preflight.render(report))
    # What training would say first: no such split, too few products.
    training = builders.training_catalog(config, catalog)
    catalog.split(config.evaluation.split)
    if config.training.steps:
        builders.build_sampler(config, training)
    if report.problems:
        sys.exit(2)


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
