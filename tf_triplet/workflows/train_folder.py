"""The folder of a run that is trained: claimed, and read when it is done."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import shutil
import subprocess
from pathlib import Path

import ml_collections
from absl import logging

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.training import run_files
from tf_triplet.version import __version__

# What a run that begins anew deletes. An old encoder beside a new record of
# products would be taken for one that was trained on them.
_RESULTS = (
    *("best.json", "metrics.jsonl", "products.json", "encoder.keras"),
    *("encoder_first.keras", "encoder_last.keras", "pretrained.json"),
)


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run has left in its folder.

    Attributes:
        workdir: The folder of the run.
        step: The last step. It is less than `training.steps` if a signal has
            stopped the run.
        metrics: Metrics of the last evaluation of the validation products,
            for instance `recall@1`. Empty if the run has none.
        best_step: The step whose encoder was kept; 0 if a signal has stopped
            the run before any was.
        how: One sentence that says how this step was chosen.
        signal: Number of the signal that has stopped the run, or 0. The same
            call continues it.
        steps: The step that a stopped run would have reached.
        in_refit: Whether the signal came during the second training, that of
            `refit`, of which `step` and `steps` are then.
        monitor: Name of the metric by which the step was chosen, or "".
        value: This metric of the kept encoder on the validation products, or
            None without such products.
        pretrained: The same metric before the first step, of the better of
            the pretrained features and the whitened ones, or None.

    Example:

    >>> from pathlib import Path
    >>> from tf_triplet import workflows
    >>> result = workflows.TrainResult(
    ...     workdir=Path("runs/shop"),
    ...     step=300,
    ...     metrics={"recall@1": 0.54},
    ...     best_step=200,
    ...     how="The step is chosen by recall@1 on 20 validation products.",
    ... )
    >>> result.encoder.as_posix()
    'runs/shop/encoder.keras'
    """

    workdir: Path
    step: int
    metrics: dict[str, float]
    best_step: int
    how: str
    signal: int = 0
    steps: int = 0
    in_refit: bool = False
    monitor: str = ""
    value: float | None = None
    pretrained: float | None = None

    @property
    def gained(self) -> bool | None:
        """Whether the kept encoder is better than what the run began with.

        None if that is not known, because there are no validation products or
        nothing is pretrained.
        """
        if self.value is None or self.pretrained is None:
            return None
        return self.best_step > 0 and self.value > self.pretrained

    def describe_gain(self) -> str:
        """Compares the kept encoder with the pretrained one, in a sentence."""
        if self.gained is None:
            return (
                "Whether training has helped is not known: there is nothing "
                "pretrained to compare with, or no validation products."
            )
        if self.gained:
            return (
                f"{self.monitor} on the validation products: "
                f"{self.pretrained:.4f} before training, {self.value:.4f} now "
                f"(step {self.best_step})."
            )
        return (
            "Training has brought no gain, so the encoder before training is "
            f"kept: {self.monitor} on the validation products is "
            f"{self.pretrained:.4f}."
        )

    @property
    def encoder(self) -> Path:
        """File of the encoder that was kept, for Keras to load."""
        return self.workdir / "encoder.keras"

    @classmethod
    def of_stopped(
        cls,
        workdir: str | Path,
        step: int,
        signal: int,
        steps: int = 0,
        in_refit: bool = False,
    ) -> TrainResult:
        """Reads what a run has left that a signal has stopped.

        Args:
            workdir: The folder of the run.
            step: The last step.
            signal: Number of the signal.
            steps: The step that the run would have reached.
            in_refit: Whether it was the second training, that of `refit`.

        Returns:
            The result. No encoder may have been kept yet.
        """
        workdir = Path(workdir)
        kept = (workdir / "best.json").exists()
        best = cls.read(workdir) if kept else cls(workdir, step, {}, 0, "")
        return dataclasses.replace(
            best, step=step, signal=signal, steps=steps, in_refit=in_refit
        )

    @classmethod
    def read(cls, workdir: str | Path) -> TrainResult:
        """Reads the result of a run from its folder.

        Args:
            workdir: The folder of a run that has kept an encoder.

        Returns:
            The result.

        Raises:
            FileNotFoundError: If the run has not kept an encoder yet.
            ValueError: If best.json is damaged.
        """
        workdir = Path(workdir)
        best = run_files.read_best(workdir)
        if not best:
            raise FileNotFoundError(
                f"{workdir / 'best.json'} does not exist: the run has not "
                "kept an encoder yet. Run tf-triplet-train in this --workdir "
                "until it has."
            )
        return cls(
            workdir,
            step=last_step(workdir),
            metrics=_last_metrics(workdir),
            best_step=best["step"],
            how=best.get("sentence", ""),
            monitor=best.get("monitor", ""),
            value=best.get("value"),
            pretrained=run_files.read_pretrained(
                workdir / "pretrained.json", best.get("monitor")
            ),
        )


def has_begun(workdir: Path) -> bool:
    """Tells whether a run in the folder has made a step or is complete."""
    return any(
        (workdir / name).exists()
        for name in ("checkpoints", "metrics.jsonl", "encoder_last.keras")
    )


def last_step(workdir: Path) -> int:
    """Returns the step of the last checkpoint; 0 if there is none.

    Args:
        workdir: The folder of the run. If the file that lists its checkpoints
            is damaged, they are found by their names.
    """
    folder = workdir / "checkpoints"
    # TensorFlow's own reader of the list takes seconds to import.
    names = run_files.list_checkpoints(folder)
    if names is None:
        names = run_files.find_checkpoints(folder)
    steps = [run_files.step_of(name) for name in names]
    return max(steps[0], 0) if steps else 0


def _last_metrics(workdir: Path) -> dict[str, float]:
    metrics = {}
    for row in run_files.read_rows(workdir / "metrics.jsonl"):
        found = {
            name.removeprefix("eval/"): value
            for name, value in row.items()
            if name.startswith("eval/")
        }
        metrics = found or metrics
    return metrics


def check_folder(
    workdir: Path,
    config: ml_collections.ConfigDict,
    accept_new_catalog: bool = False,
) -> ml_collections.ConfigDict:
    """Compares the config with the one of the run that goes on in a folder.

    The `export` section may differ, because a run can be exported again.
    `training.steps` may grow. A path may lead to the same file in another way.

    Args:
        workdir: The folder of a run that has begun.
        config: The config to go on with.
        accept_new_catalog: Whether `data.path` may differ.

    Returns:
        The config of the run. If an earlier version began it, it keeps the
        draw of that version and has no validation products. Fields that are
        left to be chosen have the values of the run.

    Raises:
        ValueError: If the configs differ in another field, or if the file of
            the run's config is damaged.
    """
    if not (workdir / "config.json").exists():
        return config
    saved = builders.read_config(workdir)
    config = builders.fill(config, saved)
    # Only runs of earlier versions have that draw, and no record.
    record = workdir / "products.json"
    if saved.data.split_draw == "permutation" and not record.exists():
        config = config.copy_and_resolve_references()
        config.data.split_draw = saved.data.split_draw
        config.data.validation_fraction = saved.data.validation_fraction
        logging.warning(
            "The run in %s was begun by an earlier version. It keeps that "
            "version's draw of the held-out products, and has no validation "
            "products.",
            workdir,
        )
    may_differ = ["export.", "data.max_bad_share:"]
    if accept_new_catalog:
        may_differ.append("data.path:")
    steps = saved.training.steps
    if 0 < steps < config.training.steps:
        may_differ.append("training.steps:")
        logging.warning("%s", _describe_growth(config, steps))
    lines = [
        line
        for line in builders.config_changes(saved, config)
        if not line.startswith(tuple(may_differ))
    ]
    if lines:
        changes = "\n  ".join(lines)
        raise ValueError(
            f"{workdir} holds a run with another config:\n  {changes}\n"
            "Use the old values to continue it. Otherwise choose another "
            "--workdir, or delete the old run with --noresume."
        )
    return config


def _describe_growth(config: ml_collections.ConfigDict, before: int) -> str:
    """Says what the schedule of the learning rate does with more steps."""
    after, schedule = config.training.steps, config.optimizer.schedule
    grows = f"training.steps grows from {before} to {after}."
    if schedule == "cosine":
        return (
            f"{grows} The cosine schedule now ends at step {after}, so the "
            "learning rate jumps up to its value there and falls again."
        )
    return (
        f"{grows} The schedule ({schedule}) does not depend on the number of "
        "steps and goes on as before."
    )


def claim_folder(
    workdir: Path, config: ml_collections.ConfigDict, resume: bool
) -> None:
    """Writes the config into the folder, for the run that starts there.

    Args:
        workdir: The folder of the run.
        config: The config of the run, from `check_folder` if it goes on.
        resume: Whether a run in the folder goes on. Otherwise it is deleted.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    if not resume:
        for name in _RESULTS:
            (workdir / name).unlink(missing_ok=True)
        # A kill before the first save must not let the old run continue.
        for name in ("checkpoints", "refit"):
            shutil.rmtree(workdir / name, ignore_errors=True)
    write_config(workdir, config)


def write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Writes config.json, so that the file is never incomplete.

    Args:
        workdir: The folder of the run.
        config: The config of the run.
    """
    run_files.write_text(workdir / "config.json", configs.to_json(config))


def write_versions(workdir: Path) -> None:
    """Writes `versions.json`: what the run is trained with.

    Args:
        workdir: The folder of the run.
    """
    import tensorflow as tf

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    versions = {
        "tf_triplet": __version__,
        "git_commit": commit or "unknown",
        "tensorflow": tf.__version__,
        "keras": importlib.metadata.version("keras"),
        "python": platform.python_version(),
    }
    text = json.dumps(versions, indent=2)
    run_files.write_text(workdir / "versions.json", text + "\n")
