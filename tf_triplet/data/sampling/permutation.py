"""Random permutations that need no memory.

A place in a permutation of `range(size)` is computed directly from a key, so
a pool of any size is shuffled without storing its order.
"""

from __future__ import annotations

import tensorflow as tf

# The purpose of a key. Each purpose has different permutations.
UNITS, IMAGES, FILL, MIX = range(1, 5)


def make_key(
    seed: int, purpose: int, first: tf.Tensor, second: tf.Tensor
) -> tf.Tensor:
    """Derives a `[2]` int64 key from a seed and three numbers.

    Args:
        seed: The seed of the sampler.
        purpose: `UNITS`, `IMAGES`, `FILL` or `MIX`.
        first: A scalar integer.
        second: A scalar integer.
    """
    fold_in = tf.random.experimental.stateless_fold_in
    key = tf.constant([seed, purpose], tf.int64)
    key = fold_in(key, tf.cast(first, tf.int64))
    key = fold_in(key, tf.cast(second, tf.int64))
    return tf.random.stateless_uniform(
        [2], key, minval=None, maxval=None, dtype=tf.int64
    )


def key_per_label(key: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Derives one key for each label.

    Args:
        key: `[2]` int64.
        labels: `[n]` int64.

    Returns:
        `[n, 2]` int64 keys.
    """
    return tf.bitwise.bitwise_xor(
        tf.repeat(key[None], tf.size(labels), 0),
        _spread_bits(tf.stack([labels, labels], -1)),
    )


def _spread_bits(numbers: tf.Tensor) -> tf.Tensor:
    """Spreads neighboring `[..., 2]` int64 numbers over all 64 bits.

    References:
        Golden-ratio hashing: Knuth, The Art of Computer Programming, 6.4.
    """
    odd = tf.constant([-7046029254386353131, -4417276706812531889], tf.int64)
    product = (numbers + 1) * odd
    return tf.bitwise.bitwise_xor(
        product, tf.bitwise.right_shift(product, tf.constant(29, tf.int64))
    )


def permute(index: tf.Tensor, key: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns the elements at some places of a random permutation.

    Args:
        index: `[n]` int64 places in the permutation of `range(size)`.
        key: `[2]` or `[n, 2]` int64. Equal keys give equal permutations.
        size: Scalar or `[n]` int64.

    Returns:
        `[n]` int64, each below its size.
    """
    # The op takes 32-bit keys. The public `index_shuffle` pads a batch of
    # keys along the wrong axis in TensorFlow 2.15, so its op is called here.
    key = tf.cast(tf.bitwise.bitwise_and(key, 0xFFFFFFFF), tf.uint32)
    padding = [[0, 0]] * (key.shape.rank - 1) + [[0, 1]]
    return tf.raw_ops.RandomIndexShuffle(
        index=index,
        seed=tf.pad(key, padding),
        max_index=tf.cast(size, tf.int64) - 1,
        rounds=4,
    )
