"""An average of the weights of the last steps, which is what a run keeps.

The weights of single steps scatter around a better solution. Their exponential
moving average (EMA) lies nearer to it. It is not trained on: the run goes on
with its own weights.
"""

from __future__ import annotations

import tensorflow as tf

from tf_triplet.training.callbacks import StepCounter


class WeightAverage(StepCounter):
    """Averages the weights of an encoder in a copy of it, step by step.

    After step t the average is `m * average + (1 - m) * weights`, where m is
    the smaller one of `momentum` and `(1 + t) / (10 + t)`. So the first steps
    do not keep the average at the initial weights. Moving statistics of batch
    normalization are averaged as well.

    Attributes:
        encoder: The copy with the averaged weights. Its variables belong to
            the checkpoints of the run.
    """

    def __init__(self, encoder: tf.keras.Model, momentum: float):
        """Copies the encoder. Call it in the scope of its strategy.

        Args:
            encoder: The encoder that is trained.
            momentum: Share of the former average that a step keeps, above 0
                and below 1.

        Raises:
            ValueError: Keras cannot copy the encoder.
        """
        super().__init__()
        self._momentum = momentum
        try:
            self.encoder = _clone(encoder)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ValueError(
                "`optimizer.ema_momentum` keeps a copy of the encoder, and it "
                f"has a layer that Keras cannot copy: {error}. Set "
                "optimizer.ema_momentum=0."
            ) from error
        self._pairs = _pair(self.encoder, encoder)
        for average, weights in self._pairs:
            average.assign(weights)
        self._update = tf.function(self._assign)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = float(self.step)
        momentum = min(self._momentum, (1.0 + step) / (10.0 + step))
        # A Python number would compile the function for each step.
        self._update(tf.constant(momentum))

    def _assign(self, momentum: tf.Tensor) -> None:
        for average, weights in self._pairs:
            if not average.dtype.is_floating:
                average.assign(weights)
                continue
            share = tf.cast(1.0 - momentum, average.dtype)
            average.assign(average + share * (weights - average))


def _pair(
    copy: tf.keras.Model, model: tf.keras.Model
) -> list[tuple[tf.Variable, tf.Variable]]:
    """Returns the variables of a copy, each with its original."""
    pairs = []
    # By name, because a copy may have its layers in another order.
    for layer in copy.layers:
        own = model.get_layer(layer.name)
        if isinstance(layer, tf.keras.Model):
            pairs += _pair(layer, own)
        else:
            pairs += zip(layer.variables, own.variables)
    return pairs


def _clone(model: tf.keras.Model) -> tf.keras.Model:
    def clone(layer):
        if isinstance(layer, tf.keras.Model):  # For instance an imported one.
            return _clone(layer)
        return type(layer).from_config(layer.get_config())

    return tf.keras.models.clone_model(model, clone_function=clone)
