"""Trains an encoder: tf-triplet-train --config=... --workdir=...

Your own pictures need no config file:

  tf-triplet-train --workdir=runs/shop --config.data.path=shop/manifest.csv

A folder per product: --config.data.source=folder --config.data.path=pictures
Without any files:    --config.data.source=rendered

The same command again goes on where the run stopped. Ctrl-C saves and ends.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

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
    "check", False, "Only inspect the pictures, and report what is wrong."
)
_VERIFY = flags.DEFINE_bool(
    "verify",
    False,
    "Only hold a benchmark's counts against the published ones; opens no "
    "picture.",
)


@errors.friendly
def main(argv) -> None:
    """Trains, or checks the data."""
    errors.refuse_arguments(argv)
    config = _CONFIG.value
    configs.validate(config)
    if _VERIFY.value:
        return _verify(config)
    if _CHECK.value:
        return _check(config)
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of the run>.")
    workdir = Path(_WORKDIR.value)
    _claim(workdir, config, _RESUME.value)
    _train(config, workdir)


def _verify(config) -> None:
    """A subset is no mistake: it is told, not refused."""
    from tf_triplet import experiment

    if config.data.source not in experiment.BENCHMARKS:
        raise ValueError(
            "--verify knows the published counts of "
            f"{', '.join(experiment.BENCHMARKS)}. Received: "
            f"data.source={config.data.source}. Your own pictures: --check."
        )
    catalog = experiment.build_catalog(config)
    print(catalog)
    for line in experiment.verify_counts(config.data.source, catalog):
        print(line)


def _check(config) -> None:
    from rich.console import Console

    from tf_triplet import experiment
    from tf_triplet.data import preflight

    catalog = experiment.build_catalog(config)
    for line in experiment.verify_counts(config.data.source, catalog):
        print(line)
    report = preflight.inspect(catalog)
    Console().print(preflight.render(report))
    if report.problems:
        sys.exit(2)


def _claim(workdir: Path, config, resume: bool) -> None:
    """Writes the config, or holds it against the one that is there."""
    path = workdir / "config.json"
    if path.exists() and resume:
        lines = configs.difference(configs.from_json(path.read_text()), config)
        if lines:
            changes = "\n  ".join(lines)
            raise ValueError(
                f"{workdir} holds a run of another config:\n  {changes}\n"
                "Use the old values to go on, another --workdir, or "
                "--noresume to begin anew in this one."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    if not resume:
        (workdir / "best.json").unlink(missing_ok=True)
        (workdir / "metrics.jsonl").unlink(missing_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(configs.to_json(config))
    partial.replace(path)


def _train(config, workdir: Path) -> None:
    import tensorflow as tf

    from tf_triplet import evaluation, experiment
    from tf_triplet.data import pipeline
    from tf_triplet.training import distribution, run

    strategy = distribution.build_strategy(config.training.replicas)
    (workdir / "versions.json").write_text(
        json.dumps(_versions(tf), indent=2) + "\n"
    )
    catalog = experiment.build_catalog(config)
    training = experiment.training_catalog(config, catalog)
    held_out = catalog.split(config.evaluation.split)
    sampler = experiment.build_sampler(config, training)
    _describe(training, held_out, sampler, strategy)
    bad_images = pipeline.BadImages(config.data.on_bad_image)
    tasks = experiment.build_tasks(config, training)

    def batches(start_step):
        return pipeline.training_batches(
            training,
            sampler,
            config.data.image_size,
            experiment.build_augmentation(config),
            start_step=start_step,
            seed=config.seed,
            rows_together=2 if config.sampling.units == "pairs" else 1,
            resize=config.data.resize,
            use_boxes=config.data.use_boxes,
            bad_images=bad_images,
            sides=experiment.sampling_sides(config, training),
            targets=tasks.targets if tasks else (),
        )

    def evaluate(encoder):
        embeddings = experiment.compute_embeddings(
            config, encoder, held_out, progress=False
        )
        result = evaluation.evaluate(
            embeddings,
            held_out,
            ks=config.evaluation.ks,
            query_domain=config.evaluation.query_domain,
            gallery_domain=config.evaluation.gallery_domain,
            ties=config.evaluation.ties,
            protocol=config.evaluation.protocol,
        )
        return result.overall.named()

    with strategy.scope():
        tf.keras.utils.set_random_seed(config.seed)
        learner = experiment.build_learner(config, training)
        learner.compile(experiment.build_optimizer(config))
    settings = run.Settings(
        steps=config.training.steps,
        checkpoint_every=config.training.checkpoint_every,
        log_every=config.training.log_every,
        evaluate_every=config.evaluation.every,
        collapse_every=config.training.collapse_every,
        stop_on_collapse=config.training.stop_on_collapse,
        monitor=f"recall@{min(config.evaluation.ks)}",
    )
    run.train(
        learner,
        batches,
        evaluate,
        bad_images,
        workdir,
        settings,
        resume=_RESUME.value,
    )
    print(f"Trained: {workdir / 'encoder.keras'}")


def _describe(training, held_out, sampler, strategy) -> None:
    print(
        f"{len(training)} training pictures of {len(training.product_ids)} "
        f"products ({sampler.dropped_singletons} without a pair left out), "
        f"{len(held_out)} held-out pictures of "
        f"{len(held_out.product_ids)} products; "
        f"{sampler.batch_size} pictures a batch, "
        f"{sampler.steps_per_epoch} batches an epoch, "
        f"{strategy.num_replicas_in_sync} replicas"
    )


def _versions(tf) -> dict[str, str]:
    import importlib.metadata
    import platform
    import subprocess

    from tf_triplet.version import __version__

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "tf_triplet": __version__,
        "git_commit": commit or "unknown",
        "tensorflow": tf.__version__,
        "keras": importlib.metadata.version("keras"),
        "python": platform.python_version(),
    }


def run() -> None:
    """The console script."""
    app.run(main)


if __name__ == "__main__":
    run()
