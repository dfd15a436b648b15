"""A Keras model whose training step scores the global batch.

With N replicas, the embeddings and labels of all replicas are gathered, every
replica computes the loss of the whole batch, and takes 1/N of it. `all_gather`
is differentiable, and the optimizer adds up the gradients of the replicas. So
the loss and the gradients equal those of one device with the same batch,
however the batch is divided among the replicas. A batch that cannot teach is
skipped on all of them (`teachable`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_triplet.losses import mining
from tf_triplet.losses.batch_loss import BatchLoss
from tf_triplet.training import (
    gradient_cache,
    learner_checks,
    loss_scaling,
    teachable,
)
from tf_triplet.training.guards import PositivesGuard, SkippedBatchesGuard
from tf_triplet.training.memory import CrossBatchMemory
from tf_triplet.training.tasks import Tasks


class Learner(tf.keras.Model):
    """Trains an encoder with a `BatchLoss`, by `compile` and `fit`.

    `fit` takes batches of `(images, labels)`, with labels as described in
    `BatchLoss`. Besides the loss and its own metrics, it reports
    `with_positive`, the share of anchors that have a positive in their batch,
    and warns if that stays at 0 (for losses with `needs_positives`).

    A batch that is empty or, for losses with `needs_negatives`, lacks them is
    skipped: the step is counted, and nothing is updated.

    Example:
        >>> import numpy as np
        >>> import tensorflow as tf
        >>> from tf_triplet.losses import TripletLoss
        >>> from tf_triplet.training import Learner
        >>> encoder = tf.keras.Sequential([
        ...     tf.keras.Input([3]),
        ...     tf.keras.layers.Dense(2, kernel_initializer="identity"),
        ...     tf.keras.layers.UnitNormalization(),
        ... ])
        >>> learner = Learner(encoder, TripletLoss(margin=0.1))
        >>> # For a few steps, a graph would take longer than it saves.
        >>> learner.compile("sgd", run_eagerly=True)
        >>> images = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
        >>> history = learner.fit(images, np.array([0, 0, 1, 1]), verbose=0)
        >>> sorted(history.history)
        ['active', 'loss', 'negative', 'positive', 'with_positive']
    """

    def __init__(
        self,
        encoder: tf.keras.Model,
        batch_loss: BatchLoss,
        scope: str = "global",
        memory: CrossBatchMemory | None = None,
        memory_weight: float = 1.0,
        micro_batch: int = 0,
        network: tf.keras.Model | None = None,
        tasks: Tasks | None = None,
        **kwargs: Any,
    ):
        """Wraps an encoder. Call it under the strategy's scope.

        Args:
            encoder: Maps images to `[batch, dim]` embeddings.
            batch_loss: Scores a batch. A loss with variables must have been
                built.
            scope: Where negatives come from: the "global" batch, or the
                batch of each "replica" alone, whose losses are then
                averaged.
            memory: Embeddings of past batches, with which the batch is also
                compared. Needs `scope="global"`.
            memory_weight: Weight of the loss of that comparison.
            micro_batch: Number of images per replica that are in the network
                at the same time; 0 for all. The gradients remain those of
                the whole batch (`gradient_cache`).
            network: A model around `encoder` whose outputs are a dictionary
                of `embeddings` and of what `tasks` need
                (`models.multitask.Network`). Needs `tasks`.
            tasks: Tasks to learn at the same time. `y` is then a dictionary
                of `labels` and `tasks.targets`. Needs `network`.
            **kwargs: Arguments of `keras.Model`.

        Raises:
            TypeError: `batch_loss` is not a `BatchLoss`.
            ValueError: An argument is out of range, or does not go together
                with another one.
        """
        super().__init__(**kwargs)
        learner_checks.check_loss(batch_loss)
        learner_checks.check_scope(scope, memory is not None, batch_loss)
        learner_checks.check_micro_batch(micro_batch, tasks is not None)
        learner_checks.check_tasks(encoder, network, tasks)
        if micro_batch:
            gradient_cache.check_repeatable(encoder)
        self.encoder = encoder
        self.network = network
        self._tasks = tasks
        self.batch_loss = batch_loss
        # As an attribute of the model, so that Keras finds the variables.
        self.loss_parameters = batch_loss.parameters
        self.memory = memory
        self.loss_optimizer = None
        self._scope = scope
        self._memory_weight = memory_weight
        self._micro_batch = micro_batch
        self._loss_scale = loss_scaling.default_loss_scale(encoder)
        self._skipped = teachable.SkippedBatches()
        self._means = {
            name: tf.keras.metrics.Mean(name) for name in self._metric_names()
        }

    def _metric_names(self) -> list[str]:
        """Lists the metrics that each step updates."""
        names = ["loss", *self.batch_loss.metric_names]
        if self.batch_loss.needs_positives:
            names.append("with_positive")
        if self.memory is not None:
            names.append("memory_loss")
        if self._tasks is not None:
            names += ["metric_loss", *self._tasks.metric_names]
        if self._loss_scale != 1.0:
            names.append("overflowed")
        return names

    def compile(
        self,
        optimizer: str | dict | tf.keras.optimizers.Optimizer = "rmsprop",
        loss_optimizer: str
        | dict
        | tf.keras.optimizers.Optimizer
        | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: Optimizer of the encoder.
            loss_optimizer: Optimizer of the loss's variables. None: the same
                as for the encoder.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            ValueError: There is a `loss_optimizer`, but the loss has no
                variables.
        """
        if loss_optimizer is not None and not self.loss_variables:
            raise ValueError(
                "`loss_optimizer` has nothing to update, because "
                f"{self.batch_loss.name} has no variables. Leave it out, or "
                "build the loss before you create the learner. Received: "
                f"loss_optimizer={loss_optimizer!r}"
            )
        super().compile(optimizer, **kwargs)
        if isinstance(loss_optimizer, (str, dict)):
            loss_optimizer = tf.keras.optimizers.get(loss_optimizer)
        self.loss_optimizer = loss_optimizer

    def fit(self, *args: Any, **kwargs: Any) -> tf.keras.callbacks.History:
        """Trains as `keras.Model.fit` does, and warns of useless batches.

        Args:
            *args: Arguments of `keras.Model.fit`.
            **kwargs: Arguments of `keras.Model.fit`.

        Returns:
            The history of the metrics.
        """
        given = kwargs.get("callbacks")
        complete = isinstance(given, tf.keras.callbacks.CallbackList)
        # `callbacks` is the sixth argument, if it is given by position.
        if len(args) < 6 and not complete:
            callbacks = [*tf.nest.flatten(given or []), SkippedBatchesGuard()]
            if self._can_lack_positives:
                callbacks.append(PositivesGuard())
            kwargs["callbacks"] = callbacks
        return super().fit(*args, **kwargs)

    @property
    def _can_lack_positives(self) -> bool:
        """Whether a batch without positives is lost for training."""
        return self.batch_loss.needs_positives and self.memory is None

    def call(
        self,
        inputs: tf.Tensor | dict[str, tf.Tensor],
        training: bool | None = None,
    ) -> tf.Tensor:
        """Embeds images.

        Args:
            inputs: What the encoder takes: `[batch, size, size, 3]` pixels,
                or a dictionary of them and the `branch` of each image.
            training: Whether layers such as dropout are in training mode.

        Returns:
            `[batch, dim]` embeddings.
        """
        return self.encoder(inputs, training=training)

    @property
    def trained(self) -> tf.keras.Model:
        """The model that is trained: the encoder, or the network around it."""
        return self.encoder if self.network is None else self.network

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """The loss, and the metrics of the loss and of the tasks."""
        return list(self._means.values())

    @property
    def skipped_batches(self) -> int:
        """Number of batches that could not teach and were skipped."""
        return int(self._skipped)

    @property
    def optimized_variables(self) -> list[tf.Variable]:
        """The variables that `optimizer` updates, in its order."""
        own = self.loss_variables if self.loss_optimizer is None else []
        return self.trained.trainable_variables + own

    @property
    def loss_variables(self) -> list[tf.Variable]:
        """The trainable variables of the loss."""
        if self.batch_loss.parameters is not self.loss_parameters:
            # They would affect the loss, but be neither trained nor saved.
            raise ValueError(
                f"{self.batch_loss.name} was built after the learner was "
                "created. Call its `build` first."
            )
        if self.loss_parameters is None:
            return []
        return self.loss_parameters.trainable_variables

    def make_train_function(self, force: bool = False) -> Callable:
        """Compiles a step that skips a batch that cannot teach.

        Args:
            force: Whether to compile again what `fit` has compiled before.

        Returns:
            A function from an iterator over batches to the metrics by name.
        """
        if self.train_function is None or force:
            self.train_function = teachable.compile_step(
                self, self._can_teach, self._skip
            )
        return self.train_function

    def _can_teach(self, shares) -> tf.Tensor:
        """Tells whether a batch can teach, by the labels of all replicas."""
        if self._tasks is not None:
            shares = [share["labels"] for share in shares]
        return teachable.can_teach(
            shares, self._scope, self.batch_loss.needs_negatives
        )

    def _skip(self) -> None:
        """Counts a step without an update, also for the schedules."""
        for optimizer in filter(None, (self.optimizer, self.loss_optimizer)):
            optimizer.iterations.assign_add(1)
        self._skipped.add()

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Performs one step, in two passes if there is a `micro_batch`.

        Args:
            data: A batch of images and labels.

        Returns:
            The metrics by name.

        Raises:
            ValueError: The batch has sample weights or no labels.
        """
        x, y, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            raise ValueError(
                "Learner does not support sample weights. To weight rows, "
                "compile a Keras model with the loss itself."
            )
        if y is None:
            raise ValueError(
                "Learner needs batches of (images, labels). Received a batch "
                "without labels."
            )
        groups = [self.trained.trainable_variables, self.loss_variables]
        x, rows = teachable.fill_empty(x)
        gradients = self._gradients(x, y, rows, groups)
        if self._loss_scale != 1.0:
            gradients, overflowed = loss_scaling.zero_overflow(gradients)
            self._observe({"overflowed": overflowed})
        self._apply(groups, gradients)
        return self.get_metrics_result()

    def _gradients(self, x, y, rows, groups) -> list:
        """Returns the gradients of the encoder's and the loss's variables."""

        def compute_loss(outputs):
            return self.compute_loss(x, y, teachable.keep_rows(outputs, rows))

        if self._micro_batch:
            return gradient_cache.gradients(
                self.encoder,
                x,
                compute_loss,
                groups[1],
                self._micro_batch,
                self._loss_scale,
            )
        with tf.GradientTape() as tape:
            loss = compute_loss(self.trained(x, training=True))
            if self.trained.losses:  # Keras's regularizers.
                replicas = self.distribute_strategy.num_replicas_in_sync
                loss += tf.add_n(self.trained.losses) / replicas
            loss *= self._loss_scale
        return loss_scaling.unscale(
            tape.gradient(loss, groups), self._loss_scale
        )

    def _apply(self, groups, gradients) -> None:
        """Updates the variables, each with its optimizer."""
        (variables, own), (of_encoder, of_loss) = groups, gradients
        updates = list(zip(of_encoder, variables))
        own_updates = list(zip(of_loss, own))
        if own and self.loss_optimizer is not None:
            self.loss_optimizer.apply_gradients(own_updates)
        else:
            updates += own_updates
        self.optimizer.apply_gradients(updates)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
    ) -> tf.Tensor:
        """Computes this replica's share of the loss, and updates the metrics.

        Args:
            x: Ignored.
            y: Labels, or a dictionary of `labels` and the targets of the
                tasks.
            y_pred: `[batch, dim]` embeddings, or the outputs of the network.
            sample_weight: Ignored.

        Returns:
            Scalar float32. The sum over the replicas is the loss.
        """
        del x, sample_weight
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        if self._tasks is not None:
            targets, outputs = y, y_pred
            y, y_pred = targets["labels"], outputs["embeddings"]
        y = tf.convert_to_tensor(y)
        if self._scope == "global" and replicas > 1:
            y = teachable.gather(context, y)
            y_pred = teachable.gather(context, y_pred)
        loss, metrics = self._metric_loss(y, y_pred)
        if self._tasks is None:
            self._observe({"loss": loss, **metrics})
            return loss / replicas
        share, whole, more = self._tasks.compute(targets, outputs)
        metrics = {**metrics, "metric_loss": loss, **more}
        self._observe({"loss": loss + whole, **metrics})
        return loss / replicas + share

    def _metric_loss(self, y, y_pred) -> tuple[tf.Tensor, dict]:
        """Compares the batch with itself and with the memory, if any."""
        value = self.batch_loss.compute(y, y_pred)
        loss = tf.reduce_mean(value.values)
        metrics = dict(value.metrics)
        if self.batch_loss.needs_positives:
            metrics["with_positive"] = mining.share_with_positive(y)
        if self.memory is not None:
            keys = self.memory.read(self.optimizer.iterations)
            past = self.batch_loss.compute(y, y_pred, keys)
            metrics["memory_loss"] = tf.reduce_mean(past.values)
            loss += self._memory_weight * metrics["memory_loss"]
            self.memory.enqueue(y, y_pred)
        return loss, metrics

    def _observe(self, values: dict[str, tf.Tensor]) -> None:
        """Updates the running means of the metrics."""
        for name, value in values.items():
            self._means[name].update_state(tf.stop_gradient(value))
