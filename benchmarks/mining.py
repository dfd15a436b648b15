"""Compares the speed of triplet mining with TensorFlow Addons.

Command: make bench. Forward and backward pass are timed together. Printed are
the medians in milliseconds and their ratio; a ratio below 1 means faster.
"""

import statistics
import time

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

from tf_triplet.losses.triplet import TripletLoss


def milliseconds(loss, labels, vectors, repeats=15):
    """Returns the median time of a forward and backward pass."""

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(labels, x)
        return tape.gradient(value, x)

    step(vectors)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        tf.convert_to_tensor(step(vectors)).numpy()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main():
    peers = {
        "batch_hard": tfa.losses.TripletHardLoss(0.2),
        "semi_hard": tfa.losses.TripletSemiHardLoss(0.2),
    }
    print(
        f"{'mining':<12}{'batch':>7}{'ours ms':>10}{'TFA ms':>10}{'ratio':>8}"
    )
    for mining, peer in peers.items():
        for batch in (128, 512, 1024):
            if mining == "semi_hard" and batch > 512:
                continue  # TF Addons would need 20 GB of memory.
            labels = tf.constant(np.arange(batch) // 4)
            vectors = tf.math.l2_normalize(
                tf.random.stateless_normal([batch, 512], [0, 1]), -1
            )
            ours = milliseconds(
                TripletLoss(mining, 0.2, distance="euclidean"), labels, vectors
            )
            theirs = milliseconds(peer, labels, vectors)
            print(
                f"{mining:<12}{batch:>7}{ours:>10.1f}{theirs:>10.1f}"
                f"{ours / theirs:>8.2f}"
            )


if __name__ == "__main__":
    main()
