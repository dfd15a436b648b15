"""A Keras model whose training step scores the global batch.

On N replicas the embeddings and labels of all are gathered, every replica
computes the loss of the whole batch, and takes 1/N of it. `all_gather` is
differentiable, and the optimizer adds the gradients of the replicas: loss
and gradients equal those of one device with the same batch, for shards of
any sizes.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.losses.batch_loss import BatchLoss
from tf_triplet.training import gradient_cache
from tf_triplet.training.memory import CrossBatchMemory
from tf_triplet.training.tasks import Tasks

SCOPES = ("global", "replica")
# Gradients below 6e-8 are 0 in float16. Fixed, so that no step is left out.
_FLOAT16_LOSS_SCALE = 1024.0


class Learner(tf.keras.Model):
    """Trains an encoder with a `BatchLoss` by plain `fit`."""

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
        **kwargs,
    ):
        """Wraps `encoder`; create it under the strategy's scope.

        Args:
            encoder: images to embeddings.
            batch_loss: scores a batch; built, if it has variables.
            scope: negatives come from the "global" batch, or from each
                "replica" alone (then averaged), as most systems do.
            memory: embeddings of past batches, with which the batch is
                compared too; needs `scope="global"`.
            memory_weight: of that second loss.
            micro_batch: images of a replica that are in the network at
                once; 0 = all. Gradients stay those of the whole batch
                (`gradient_cache`).
            network: a model around `encoder` whose outputs are a dictionary
                of `embeddings` and what `tasks` need
                (`models.multitask.Network`).
            tasks: learned beside, from the same pass; then `y` is a
                dictionary of `labels` and `tasks.targets`. Both or neither
                of `network` and `tasks`.
            **kwargs: for `keras.Model`.
        """
        super().__init__(**kwargs)
        check_options(
            batch_loss,
            scope,
            memory=memory is not None,
            micro_batch=micro_batch,
            tasks=tasks is not None,
        )
        _check_tasks(encoder, network, tasks)
        if micro_batch:
            gradient_cache.check_repeatable(encoder)
        self.encoder = encoder
        self.network = network
        self._tasks = tasks
        self.batch_loss = batch_loss
        # An attribute of its own, so that Keras finds the variables.
        self.loss_parameters = batch_loss.parameters
        self.memory = memory
        self.loss_optimizer = None
        self._scope = scope
        self._memory_weight = memory_weight
        self._micro_batch = micro_batch
        self._loss_scale = 1.0
        if any(
            getattr(layer, "compute_dtype", "") == "float16"
            for layer in encoder.submodules
        ):
            self._loss_scale = _FLOAT16_LOSS_SCALE
        names = ["loss", *batch_loss.metric_names]
        if memory is not None:
            names.append("memory_loss")
        if tasks is not None:
            names += ["metric_loss", *tasks.metric_names]
        if self._loss_scale != 1.0:
            names.append("overflowed")
        self._means = {name: tf.keras.metrics.Mean(name) for name in names}

    def compile(self, optimizer="rmsprop", loss_optimizer=None, **kwargs):
        """As `keras.Model.compile`.

        Args:
            optimizer: of the encoder.
            loss_optimizer: of the loss's own variables; None: `optimizer`.
            **kwargs: for Keras.
        """
        if loss_optimizer is not None and not self.loss_variables:
            raise ValueError(
                f"`loss_optimizer` has nothing to step: {self.batch_loss.name} "
                "has no variables. Leave it out, or build the loss before "
                "the learner is made."
            )
        super().compile(optimizer, **kwargs)
        if isinstance(loss_optimizer, (str, dict)):
            loss_optimizer = tf.keras.optimizers.get(loss_optimizer)
        self.loss_optimizer = loss_optimizer

    def call(self, inputs, training=None):
        """Images to `[batch, dim]` embeddings.

        Args:
            inputs: what the encoder takes: `[batch, size, size, 3]` pixels,
                or a dictionary of them and the `branch` of each.
            training: as Keras has it.
        """
        return self.encoder(inputs, training=training)

    @property
    def trained(self) -> tf.keras.Model:
        """The model whose variables are trained: with heads, if any."""
        return self.encoder if self.network is None else self.network

    @property
    def metrics(self):
        """The loss, and what the loss itself finds worth logging."""
        return list(self._means.values())

    @property
    def optimized_variables(self) -> list[tf.Variable]:
        """Those that `optimizer` steps, in its order."""
        own = self.loss_variables if self.loss_optimizer is None else []
        return self.trained.trainable_variables + own

    @property
    def loss_variables(self) -> list[tf.Variable]:
        """The loss's own; `loss_optimizer` steps them, where there is one."""
        if self.batch_loss.parameters is not self.loss_parameters:
            # They would be compared with, yet neither trained nor saved.
            raise ValueError(
                f"{self.batch_loss.name} was built after the learner was "
                "made. Call `build` first."
            )
        if self.loss_parameters is None:
            return []
        return self.loss_parameters.trainable_variables

    def train_step(self, data):
        """One step; with `micro_batch` in two passes."""
        x, y, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
        if weights is not None:
            raise ValueError(
                "Learner takes no sample weights; compile a model with the "
                "loss itself to weigh rows."
            )
        groups = [self.trained.trainable_variables, self.loss_variables]
        if self._micro_batch:
            gradients = gradient_cache.gradients(
                self.encoder,
                x,
                lambda embeddings: self.compute_loss(x, y, embeddings),
                groups[1],
                self._micro_batch,
                self._loss_scale,
            )
        else:
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self.trained(x, training=True))
                if self.trained.losses:  # Keras's regularizers.
                    replicas = self.distribute_strategy.num_replicas_in_sync
                    loss += tf.add_n(self.trained.losses) / replicas
                loss *= self._loss_scale
            gradients = gradient_cache.unscale(
                tape.gradient(loss, groups), self._loss_scale
            )
        if self._loss_scale != 1.0:
            gradients = self._without_overflow(gradients)
        self._apply(groups, gradients)
        return self.get_metrics_result()

    def _without_overflow(self, gradients):
        """Zeros for all gradients, on all replicas, if any is not finite.

        float16 ends at 65,504. The optimizer takes its step all the same, so
        that batches stay numbered by steps: momentum and weight decay go on,
        the batch adds nothing. `overflowed` is the share of such steps.
        """
        flat = [g for g in tf.nest.flatten(gradients) if g is not None]
        finite = [
            tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(gradient)))
            for gradient in flat
        ]
        overflow = 1.0 - tf.cast(tf.reduce_all(finite), tf.float32)
        context = tf.distribute.get_replica_context()
        overflow = context.all_reduce(tf.distribute.ReduceOp.SUM, overflow) > 0
        self._observe({"overflowed": tf.cast(overflow, tf.float32)})

        def kept(gradient):
            if gradient is None:
                return None
            if isinstance(gradient, tf.IndexedSlices):  # Of some rows only.
                return tf.IndexedSlices(
                    kept(gradient.values),
                    gradient.indices,
                    gradient.dense_shape,
                )
            return tf.where(overflow, tf.zeros_like(gradient), gradient)

        return tf.nest.map_structure(kept, list(gradients))

    def _apply(self, groups, gradients) -> None:
        (variables, own), (of_encoder, of_loss) = groups, gradients
        pairs = list(zip(of_encoder, variables))
        own_pairs = list(zip(of_loss, own))
        if own and self.loss_optimizer is not None:
            self.loss_optimizer.apply_gradients(own_pairs)
        else:
            pairs += own_pairs
        self.optimizer.apply_gradients(pairs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        """This replica's share of the batch's loss; updates the metrics."""
        del x, sample_weight
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        if self._tasks is not None:
            targets, outputs = y, y_pred
            y, y_pred = targets["labels"], outputs["embeddings"]
        y = tf.convert_to_tensor(y)
        if self._scope == "global" and replicas > 1:
            y = _gather(context, y)
            y_pred = _gather(context, y_pred)
        value = self.batch_loss.compute(y, y_pred)
        loss = tf.reduce_mean(value.values)
        metrics = dict(value.metrics)
        if self.memory is not None:
            keys = self.memory.read(self.optimizer.iterations)
            past = self.batch_loss.compute(y, y_pred, keys)
            metrics["memory_loss"] = tf.reduce_mean(past.values)
            loss += self._memory_weight * metrics["memory_loss"]
            self.memory.enqueue(y, y_pred)
        if self._tasks is None:
            self._observe({"loss": loss, **metrics})
            return loss / replicas
        share, whole, more = self._tasks.compute(targets, outputs)
        metrics = {**metrics, "metric_loss": loss, **more}
        self._observe({"loss": loss + whole, **metrics})
        return loss / replicas + share

    def _observe(self, values: dict[str, tf.Tensor]) -> None:
        for name, value in values.items():
            self._means[name].update_state(tf.stop_gradient(value))


def check_options(
    batch_loss: BatchLoss,
    scope: str = "global",
    *,
    memory: bool = False,
    micro_batch: int = 0,
    tasks: bool = False,
) -> None:
    """Checks options that are known before there is an encoder.

    `Learner` checks them, and the validation of a config asks here too, so
    that a mistake is found before images and networks are loaded.

    Args:
        batch_loss: The loss to train with.
        scope: See `Learner`.
        memory: Whether there is a memory of past embeddings.
        micro_batch: See `Learner`.
        tasks: Whether attributes or landmarks are learned too.

    Raises:
        ValueError: If a value is wrong, or if two of them exclude each other.
    """
    if scope not in SCOPES:
        raise ValueError(
            f"`scope` must be one of {', '.join(SCOPES)}. Received: {scope!r}"
        )
    if memory and not batch_loss.takes_keys:
        raise ValueError(
            "`memory` needs a loss over pairs that accepts `keys`. Received: "
            f"{batch_loss.name}, which compares with proxies or within the "
            "batch only."
        )
    if memory and scope != "global":
        raise ValueError(
            "`memory` must be the same on every replica, so it needs "
            f"`scope=global`. Received: {scope!r}"
        )
    if micro_batch < 0:
        raise ValueError(
            "`micro_batch` must be at least 0; 0 takes all images at once. "
            f"Received: {micro_batch}"
        )
    if tasks and micro_batch:
        raise ValueError(
            "`micro_batch` carries the gradients of the embeddings alone, so "
            "it does not go with `tasks` (attributes, landmarks). Received: "
            f"micro_batch={micro_batch}. Set it to 0, or train without tasks."
        )


def _check_tasks(encoder, network, tasks) -> None:
    if (network is None) != (tasks is None):
        raise ValueError(
            "`network` and `tasks` go together: the heads, and what they "
            f"learn. Received: network={network} and tasks={tasks}"
        )
    if tasks is None:
        return
    mine = {id(variable) for variable in network.variables}
    if not all(id(variable) in mine for variable in encoder.variables):
        raise ValueError(
            "`network` must be made of the very layers of `encoder`, or it "
            f"would train others. Received: {network.name!r}"
        )


def _gather(context, values: tf.Tensor) -> tf.Tensor:
    """The rows of all replicas; inside a graph all_gather forgets the rest
    of the shape, which tells `[batch]` labels from `[batch, 2]`."""
    gathered = context.all_gather(values, axis=0)
    return tf.ensure_shape(gathered, [None, *values.shape[1:]])
