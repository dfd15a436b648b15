"""The checkpoints of a run: saved, restored, and cleaned up after a crash."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf
from absl import logging

from tf_triplet.training import growth, optimizer_variables, run_files
from tf_triplet.training.averaging import WeightAverage
from tf_triplet.training.learner import Learner
from tf_triplet.training.run_files import (
    find_checkpoints,
    list_checkpoints,
    step_of,
)

_KEPT = 2
# TensorFlow turns some of its own errors into those of Python.
_DAMAGED = (tf.errors.OpError, IndexError, RuntimeError)


class Checkpoints:
    """The last checkpoints of a run, named `step-<number>`.

    If the last one is damaged, the run continues from the one before.
    """

    def __init__(
        self,
        learner: Learner,
        workdir: Path,
        average: WeightAverage | None = None,
    ):
        """Sets what is saved, and where.

        Args:
            learner: The compiled learner.
            workdir: Folder of the run, which holds the folder `checkpoints`.
            average: The average of the encoder's weights, if there is one.
        """
        self._learner, self._average = learner, average
        self._folder = Path(workdir) / "checkpoints"
        self._checkpoint = _collect(learner, average)
        self._made: tf.train.CheckpointManager | None = None

    @property
    def latest(self) -> Path | None:
        """The last checkpoint, without the suffixes of its files."""
        path = self._manager.latest_checkpoint
        return Path(path) if path else None

    def describe(self) -> str:
        """Says from where the run can continue."""
        if self.latest is None:
            return "No checkpoint has been saved yet."
        return (
            f"The last good checkpoint is of step {step_of(self.latest.name)}; "
            "the same command continues from there."
        )

    def save(self) -> None:
        """Saves a checkpoint, unless there is one of this step.

        Raises:
            run_files.DiskFullError: The disk is full. The earlier checkpoints
                are still there.
        """
        step = int(self._learner.optimizer.iterations.numpy())
        name = f"step-{step}"
        if self.latest is not None and self.latest.name == name:
            return
        try:
            with run_files.writing(self._folder / name):
                self._manager.save(checkpoint_number=step)
        except run_files.DiskFullError:
            self._remove_unlisted()
            raise

    def delete(self) -> None:
        """Deletes all checkpoints, for a run that begins anew."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def restore(
        self, build_smaller: Callable[[int], Learner] | None = None
    ) -> int:
        """Restores the last checkpoint that can be read.

        Call it in the scope of the learner's strategy.

        Args:
            build_smaller: Builds a learner of the same network for a smaller
                number of products, which the checkpoint may be of.

        Returns:
            The step of the checkpoint; 0 if there is none.

        Raises:
            ValueError: No checkpoint can be read, or the one that can is of
                another number of products.
        """
        listed = list_checkpoints(self._folder)
        names = listed or find_checkpoints(self._folder)
        failures = []
        for name in names:
            try:
                self._restore(str(self._folder / name), build_smaller)
            except _DAMAGED as error:
                text = getattr(error, "message", "") or str(error)
                failures.append((name, text.splitlines()[0][:200]))
                continue
            self._repair(names, name, failures)
            step = int(self._learner.optimizer.iterations.numpy())
            logging.info("Resuming at step %d.", step)
            return step
        if failures and (self._folder / "checkpoint").exists():
            told = "; ".join(f"{name} ({reason})" for name, reason in failures)
            raise ValueError(
                f"No checkpoint in {self._folder} can be read: {told}. Restore "
                "the folder from a backup, or begin anew with --noresume."
            )
        # A kill during the first save has left files, but no checkpoint.
        self.delete()
        return 0

    @property
    def _manager(self) -> tf.train.CheckpointManager:
        # It reads the folder's state, which `restore` may have to repair.
        if self._made is None:
            self._made = tf.train.CheckpointManager(
                self._checkpoint,
                str(self._folder),
                max_to_keep=_KEPT,
                checkpoint_name="step",
            )
        return self._made

    def _restore(
        self, path: str, build_smaller: Callable[[int], Learner] | None
    ) -> None:
        learner = self._learner
        products = growth.count_in_checkpoint(path)
        if build_smaller and products < growth.count_in_loss(learner):
            former = build_smaller(products)
            if not all(map(optimizer_variables.create_all, (former, learner))):
                raise ValueError(
                    f"{learner.batch_loss.name} has variables of each "
                    "product, and this optimizer creates its own at the first "
                    "step only, so the run cannot go on with more products. "
                    "Restore the table, or choose another --workdir."
                )
            _collect(former, self._average).restore(path).assert_consumed()
            growth.copy_grown(former, learner)
        elif optimizer_variables.create_all(learner):
            self._checkpoint.restore(path).assert_consumed()
        else:
            status = self._checkpoint.restore(path)
            status.assert_existing_objects_matched()

    def _repair(
        self, names: list[str], good: str, failures: list[tuple[str, str]]
    ) -> None:
        """Leaves only the restored checkpoint and those before it."""
        for name, reason in failures:
            logging.warning(
                "The checkpoint %s cannot be read (%s). The run continues from "
                "the one before, %s.",
                self._folder / name,
                reason,
                good,
            )
        left = names[names.index(good) :]
        if list_checkpoints(self._folder) != left:
            _write_list(self._folder, left)
        self._remove_unlisted()

    def _remove_unlisted(self) -> None:
        """Removes files that belong to no checkpoint that is complete."""
        listed = list_checkpoints(self._folder)
        if listed is None:
            return
        names = "|".join(map(re.escape, listed))
        kept = re.compile(rf"checkpoint|({names})\.(index|data-.*)")
        for path in self._folder.iterdir():
            if kept.fullmatch(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _write_list(folder: Path, names: list[str]) -> None:
    """Writes the file that `tf.train.CheckpointManager` reads."""
    lines = [f'model_checkpoint_path: "{names[0]}"']
    for name in reversed(names[:_KEPT]):
        lines.append(f'all_model_checkpoint_paths: "{name}"')
        lines.append(f"all_model_checkpoint_timestamps: {time.time()}")
    # The manager deletes only checkpoints that are younger than this.
    lines.append("last_preserved_timestamp: 1.0")
    run_files.write_text(folder / "checkpoint", "\n".join(lines) + "\n")


def _collect(
    learner: Learner, average: WeightAverage | None
) -> tf.train.Checkpoint:
    """Collects everything that a resumed run needs."""
    parts = {
        "encoder": learner.encoder,
        "network": learner.network,
        "optimizer": learner.optimizer,
        "loss_parameters": learner.loss_parameters,
        "loss_optimizer": learner.loss_optimizer,
        "memory": learner.memory,
        "average": average and average.encoder,
    }
    return tf.train.Checkpoint(
        **{name: part for name, part in parts.items() if part is not None}
    )
