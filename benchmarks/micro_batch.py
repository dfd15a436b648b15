"""Measures the peak memory of a training step, with and without micro-batches.

Command: make bench-memory. Each case runs in a process of its own. Printed is
its largest resident set, less that of a process that only builds the network.
"""

import resource
import subprocess
import sys

CASES = (("none", 0, 0), ("direct", 32, 0), ("direct", 256, 0))
CASES += (("in parts of 32", 256, 32), ("in parts of 32", 1024, 32))


def step(batch: int, micro_batch: int) -> None:
    """Takes one training step, and prints the peak in MiB."""
    import numpy as np
    import tensorflow as tf

    from tf_triplet.losses.triplet import TripletLoss
    from tf_triplet.models.encoder import build_encoder
    from tf_triplet.training.learner import Learner

    encoder = build_encoder(
        "resnet50v2", 128, "random", image_size=64, batch_norm="frozen"
    )
    learner = Learner(
        encoder, TripletLoss("batch_hard", 0.2), micro_batch=micro_batch
    )
    learner.compile(tf.keras.optimizers.SGD(1e-3))
    if batch:
        pixels = np.random.default_rng(0).random([batch, 64, 64, 3], np.float32)
        products = np.arange(batch) // 4
        learner.fit(pixels, products, batch_size=batch, verbose=0)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Prints the table."""
    print(f"{'step':<18}{'images':>9}{'MiB above idle':>16}")
    idle = None
    for name, batch, micro_batch in CASES:
        done = subprocess.run(
            [sys.executable, __file__, str(batch), str(micro_batch)],
            capture_output=True,
            text=True,
            check=True,
        )
        peak = float(done.stdout.split()[-1])
        if idle is None:
            idle = peak
            continue
        print(f"{name:<18}{batch:>9}{peak - idle:>16.0f}", flush=True)


if __name__ == "__main__":
    step(*map(int, sys.argv[1:])) if len(sys.argv) > 1 else main()
