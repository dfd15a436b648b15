"""Measures file size and speed of an encoder at each export.precision.

Command: python benchmarks/precisions.py. The encoder is a ResNet50V2 with
random weights, saved and loaded again as by a server. The precisions take
turns, so that a busy machine slows all of them. The cost in recall depends on
the catalog; tf-triplet-export measures and prints it.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from tf_triplet.models import build_encoder, precisions


def save_and_load(encoder, folder):
    """Returns the loaded model, and the MiB of its variables on disk."""
    module = tf.Module()
    module.encoder = encoder
    serve = tf.function(
        lambda pixels: {"embedding": encoder(pixels, training=False)},
        input_signature=[tf.TensorSpec(encoder.input_shape, tf.float32)],
    )
    tf.saved_model.save(module, str(folder), {"serving_default": serve})
    files = (folder / "variables").glob("variables.data*")
    loaded = tf.saved_model.load(str(folder))
    return loaded, sum(file.stat().st_size for file in files) / 2**20


def seconds(loaded, pixels):
    start = time.perf_counter()
    answer = loaded.signatures["serving_default"](pixels=pixels)
    answer["embedding"].numpy()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image_sizes", default="64,224")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    print(
        f"{'side':>5}{'batch':>6}{'precision':>10}{'MiB':>7}"
        f"{'ms a batch':>12}{'images/s':>12}{'of float32':>11}"
    )
    for side in map(int, arguments.image_sizes.split(",")):
        encoder = build_encoder("resnet50v2", 128, "random", image_size=side)
        with tempfile.TemporaryDirectory() as root:
            served = {
                name: save_and_load(
                    precisions.at_precision(encoder, name), Path(root) / name
                )
                for name in precisions.PRECISIONS
            }
        for batch in map(int, arguments.batches.split(",")):
            shape = [batch, side, side, 3]
            pixels = tf.constant(
                np.random.default_rng(0).random(shape, np.float32)
            )
            times = {name: [] for name in served}
            for turn in range(arguments.rounds + 2):
                for name, (loaded, _) in served.items():
                    took = seconds(loaded, pixels)
                    if turn > 1:
                        times[name].append(took)
            typical = {name: np.median(took) for name, took in times.items()}
            for name, (_, size) in served.items():
                print(
                    f"{side:>5}{batch:>6}{name:>10}{size:>7.0f}"
                    f"{1e3 * typical[name]:>12.1f}"
                    f"{batch / typical[name]:>12.1f}"
                    f"{typical['float32'] / typical[name]:>11.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
