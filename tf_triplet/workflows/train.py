"""A config to a trained run, as one function.

`cli/train.py` holds its flags; whoever drives runs from Python calls `train`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path

import ml_collections
import tensorflow as tf

from tf_triplet import builders, evaluation
from tf_triplet import config as configs
from tf_triplet.data import pipeline
from tf_triplet.retrieval import ProtocolSpec
from tf_triplet.training import distribution
from tf_triplet.training import loop as run
from tf_triplet.version import __version__


def train(
    config: ml_collections.ConfigDict, workdir: Path, resume: bool = True
) -> None:
    """What tf-triplet-train does.

    Args:
        config: of the run.
        workdir: the run's folder. Gets config, checkpoints, metrics, encoder.
        resume: go on where the folder's run stopped; else begin anew.

    Raises:
        ValueError: a field is wrong, or the folder holds a run of another
            config.
    """
    builders.validate(config)
    _claim(workdir, config, resume)
    strategy = distribution.build_strategy(config.training.replicas)
    (workdir / "versions.json").write_text(
        json.dumps(_versions(), indent=2) + "\n"
    )
    catalog = builders.build_catalog(config)
    training = builders.training_catalog(config, catalog)
    held_out = catalog.split(config.evaluation.split)
    evaluate = _evaluator(config, held_out)
    monitor = f"recall@{min(config.evaluation.ks)}"
    if not config.training.steps:
        build = functools.partial(_build_untrained, config, training)
        run.finish_untrained(build, evaluate, workdir, monitor, resume)
        print(f"Built without training: {workdir / 'encoder.keras'}")
        return
    sampler = builders.build_sampler(config, training)
    _describe(training, held_out, sampler, strategy)
    bad_images = pipeline.BadImages(config.data.on_bad_image)
    tasks = builders.build_tasks(config, training)
    branches = builders.build_branches(config, training)
    # Now, and not at the first evaluation, hours from here.
    evaluation.branch_of_rows(branches, held_out)

    def batches(start_step):
        return pipeline.training_batches(
            training,
            sampler,
            config.data.image_size,
            builders.build_augmentation(config),
            start_step=start_step,
            seed=config.seed,
            rows_together=2 if config.sampling.units == "pairs" else 1,
            resize=config.data.resize,
            use_boxes=config.data.use_boxes,
            bad_images=bad_images,
            sides=builders.sampling_sides(config, training),
            branches=evaluation.branch_of_rows(branches, training),
            targets=tasks.targets if tasks else (),
        )

    whole = 2 * strategy.num_replicas_in_sync
    if (
        config.loss.scope == "replica"
        and sampler.batch_size % whole
        and builders.build_loss(config).in_pairs
    ):
        raise ValueError(
            "`loss.scope=replica` gives each replica whole pairs, so "
            f"{sampler.batch_size} images a batch must divide by {whole}. "
            "Change `sampling.units_per_batch` or `training.replicas`."
        )
    with strategy.scope():
        tf.keras.utils.set_random_seed(config.seed)
        network = builders.build_network(config, training, branches)
        # A resumed run's head is in its checkpoint.
        saved = tf.train.latest_checkpoint(str(workdir / "checkpoints"))
        if config.model.whitening and not (resume and saved):
            builders.whiten(config, network.encoder, training)
        learner = builders.build_learner(config, network, training)
    settings = run.Settings(
        steps=config.training.steps,
        checkpoint_every=config.training.checkpoint_every,
        log_every=config.training.log_every,
        evaluate_every=config.evaluation.every,
        collapse_every=config.training.collapse_every,
        stop_on_collapse=config.training.stop_on_collapse,
        monitor=monitor,
    )
    run.train(
        learner,
        batches,
        evaluate,
        bad_images,
        workdir,
        settings,
        resume=resume,
    )
    print(f"Trained: {workdir / 'encoder.keras'}")


def _claim(workdir: Path, config, resume: bool) -> None:
    """Writes the config, or holds it against the one of a run that began.

    What an export holds may change at any time.
    """
    path = workdir / "config.json"
    begun = (workdir / "checkpoints").exists() or (
        workdir / "metrics.jsonl"
    ).exists()
    if path.exists() and begun and resume:
        lines = [
            line
            for line in configs.difference(
                configs.from_json(path.read_text()), config
            )
            if not line.startswith("export.")
        ]
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
        # Killed before its first save, this run would go on from the old one.
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    partial = path.with_suffix(".partial")
    partial.write_text(configs.to_json(config))
    partial.replace(path)


def _evaluator(config, held_out):
    """An encoder to its metrics on the held-out images."""

    def evaluate(encoder):
        embeddings = builders.compute_embeddings(
            config, encoder, held_out, progress=False
        )
        result = evaluation.evaluate(
            embeddings,
            held_out,
            ks=config.evaluation.ks,
            protocol=ProtocolSpec(
                config.evaluation.protocol,
                config.evaluation.query_domain,
                config.evaluation.gallery_domain,
            ),
            ties=config.evaluation.ties,
        )
        return result.overall.named()

    return evaluate


def _build_untrained(config, training):
    encoder = builders.build_encoder(config)
    if config.model.whitening:
        builders.whiten(config, encoder, training)
    return encoder


def _describe(training, held_out, sampler, strategy) -> None:
    print(
        f"{len(training)} training images of {len(training.product_ids)} "
        f"products ({sampler.dropped_singletons} without a pair left out), "
        f"{len(held_out)} held-out images of "
        f"{len(held_out.product_ids)} products; "
        f"{sampler.batch_size} images a batch, "
        f"{sampler.steps_per_epoch} batches an epoch, "
        f"{strategy.num_replicas_in_sync} replicas"
    )


def _versions() -> dict[str, str]:
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
