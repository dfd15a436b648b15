"""Trains an encoder: tf-triplet-train --config=... --workdir=...

Your own images need no config file, only a manifest:

  tf-triplet-train --workdir=runs/shop --config.data.path=shop/manifest.csv

A folder with one subfolder per product:

  --config.data.source=folder --config.data.path=images

Drawn products, if you have no images yet:

  --config.data.source=rendered

A new head on a trained encoder, from the layer before its embedding:

  --config.model.backbone=imported --config.model.layer=pool \\
      --config.model.path=runs/shop/encoder.keras

Neural codes (pretrained features, whitened by PCA), without any training:

  --config.training.steps=0 --config.model.whitening=128 \\
      --config.model.embedding_size=128

Ctrl-C saves a checkpoint and ends the run with exit code 130, and SIGTERM with
143. The same command again continues it; --config.training.steps may then be
higher.

Without a config file, batch, steps, learning rate and others are chosen for
the table and the machine, and told with their reasons. Give the training more
or less time, or choose a field yourself:

  --minutes=30
  --config.optimizer.learning_rate=1e-4

A tenth of the training products are set aside as validation products, and the
step that is best on them is kept. Train again on all of them, for as many
steps:

  --refit

New products have arrived, and a new run begins from the encoder of an old one:

  tf-triplet-train --workdir=runs/june --init_from=runs/may \\
      --config.data.path=shop/june.csv

In Python: tf_triplet.workflows.train(config, workdir).
"""

from __future__ import annotations

import sys
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from tf_triplet import config as configs
from tf_triplet import workflows
from tf_triplet.cli import program

with program.unknown_fields():
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        configs.__file__,
        "Python file with get_config(). Text behind a colon is passed to that "
        "function, as in configs/sop.py:smoke. Override a field with "
        "--config.<field>, for instance --config.loss.margin=0.2. Default: "
        "the recipe of the paper.",
    )
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. The config, checkpoints, metrics and encoders are "
    "written there.",
)
_RESUME = flags.DEFINE_bool(
    "resume",
    True,
    "Continue the run in the folder from its last checkpoint. With "
    "--noresume, that run is deleted and a new one begins.",
)
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    "",
    "Folder of another run, from whose encoder a new run begins. What that "
    "run was trained on does not become a validation product.",
)
_ACCEPT_NEW_CATALOG = flags.DEFINE_bool(
    "accept_new_catalog",
    False,
    "Continue a run although its table has changed. Each product keeps its "
    "label and its variables, and new products are trained on.",
)
_REFIT = flags.DEFINE_bool(
    "refit",
    False,
    "Then train again on all training products, validation products included, "
    "up to the step that they have chosen. That encoder replaces the first.",
)
_MINUTES = flags.DEFINE_float(
    "minutes",
    None,
    "Time for the training, in minutes. The number of steps, and without a GPU "
    "the size of the images, are chosen to fit, after the speed of a few steps "
    "was measured. Evaluation and reading the images come on top.",
    lower_bound=0.1,
)
_REQUIRE_GAIN = flags.DEFINE_bool(
    "require_gain",
    False,
    "End with an error if the encoder is no better on the validation products "
    "than before training, so that a script does not publish it.",
)
_CHECK = flags.DEFINE_bool(
    "check",
    False,
    "Do not train. Open every image once, and report what is wrong.",
)
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Do not train. Compare the numbers of images and products of a benchmark "
    "with the published ones, without opening an image.",
)


@program.friendly
def main(argv: list[str]) -> None:
    """Trains, or checks the data."""
    program.refuse_arguments(argv)
    config = _read_config()
    if _VERIFY.value:
        for line in workflows.verify_counts(config):
            print(line)
        return
    if _CHECK.value:
        check = workflows.check_data(config)
        check.show()
        if check.refusal:
            raise ValueError(check.refusal)
        if check.report.problems:
            sys.exit(2)
        return
    workdir = program.require("workdir", _WORKDIR.value, "folder of the run")
    result = workflows.train(
        config,
        workdir,
        _RESUME.value,
        init_from=_INIT_FROM.value,
        accept_new_catalog=_ACCEPT_NEW_CATALOG.value,
        refit=_REFIT.value,
        minutes=_MINUTES.value,
        require_gain=_REQUIRE_GAIN.value,
    )
    if result.signal:
        which = " of the second training (--refit)" if result.in_refit else ""
        print(
            f"Stopped at step {result.step} of {result.steps}{which}. The "
            "same command continues the run."
        )
        sys.exit(128 + result.signal)
    done = "Trained" if result.step else "Built without training"
    print(f"{result.how}\n{done}: {result.encoder}\n{result.describe_gain()}")


def _read_config() -> ml_collections.ConfigDict:
    given = flags.FLAGS["config"].config_filename.partition(":")[0]
    if not Path(given).is_file():
        raise FileNotFoundError(
            "--config must be a Python file with get_config(), such as "
            f"configs/sop.py or configs/sop.py:smoke. Received: {given!r}, "
            "which does not exist. Without --config, a recipe is chosen for "
            "the table."
        )
    return _CONFIG.value


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
