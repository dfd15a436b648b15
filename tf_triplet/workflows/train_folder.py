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

from tf_triplet import config as configs
from tf_triplet.version import __version__


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run has left in its folder.

    Attributes:
        workdir: The folder of the run.
        step: Step of the last evaluation. It is less than `training.steps` if
            a signal has stopped the run.
        metrics: Metrics of the last evaluation, for instance `recall@1`.
        best_step: Step of the best evaluation, by Recall@K of the smallest K.

    Example:

    >>> from pathlib import Path
    >>> from tf_triplet import workflows
    >>> result = workflows.TrainResult(
    ...     workdir=Path("runs/shop"),
    ...     step=300,
    ...     metrics={"recall@1": 0.54},
    ...     best_step=200,
    ... )
    >>> result.encoder.as_posix()
    'runs/shop/encoder.keras'
    """

    workdir: Path
    step: int
    metrics: dict[str, float]
    best_step: int

    @property
    def encoder(self) -> Path:
        """File of the encoder of the best evaluation, for Keras to load."""
        return self.workdir / "encoder.keras"

    @classmethod
    def read(cls, workdir: str | Path) -> TrainResult:
        """Reads the result of a run from its folder.

        Args:
            workdir: The folder of a run that was evaluated at least once.

        Returns:
            The result.

        Raises:
            FileNotFoundError: If the run was never evaluated.
        """
        workdir = Path(workdir)
        best = json.loads((workdir / "best.json").read_text())
        metrics, step = {}, 0
        for line in (workdir / "metrics.jsonl").read_text().splitlines():
            values = json.loads(line)
            found = {
                name.removeprefix("eval/"): value
                for name, value in values.items()
                if name.startswith("eval/")
            }
            if found:
                metrics, step = found, values["step"]
        return cls(workdir, step, metrics, best["step"])


def claim_folder(
    workdir: Path, config: ml_collections.ConfigDict, resume: bool
) -> None:
    """Writes the config into the folder, unless another run is in it.

    The `export` section may differ, because a run can be exported again.

    Args:
        workdir: The folder of the run.
        config: The config of the run.
        resume: Whether to continue a run in the folder. Otherwise it is
            deleted.

    Raises:
        ValueError: If the folder holds a run with another config.
    """
    path = workdir / "config.json"
    begun = (workdir / "checkpoints").exists() or (
        workdir / "metrics.jsonl"
    ).exists()
    if path.exists() and begun and resume:
        saved = configs.from_json(path.read_text())
        lines = [
            line
            for line in configs.difference(saved, config)
            if not line.startswith("export.")
        ]
        if lines:
            changes = "\n  ".join(lines)
            raise ValueError(
                f"{workdir} holds a run with another config:\n  {changes}\n"
                "Use the old values to continue it. Otherwise choose another "
                "--workdir, or delete the old run with --noresume."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    if not resume:
        (workdir / "best.json").unlink(missing_ok=True)
        (workdir / "metrics.jsonl").unlink(missing_ok=True)
        # A kill before the first save must not let the old run continue.
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    partial = path.with_suffix(".partial")
    partial.write_text(configs.to_json(config))
    partial.replace(path)


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
    (workdir / "versions.json").write_text(text + "\n")
