"""Measures the input pipeline of training against plain tf.data.

    python benchmarks/input.py

Plain tf.data decodes, resizes by area and batches; the pipeline of training
also turns, crops and augments images, and keeps errors apart. Both run in
turn, several times, and the median of the ratios is printed, because the load
of a machine changes. WebP is compared with Pillow's decoding and reduction on
two processes instead, since TensorFlow cannot decode it. "Stored" are rows
with `data.cache_dir`, from the third epoch on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from tf_triplet.data import Augmentation, Catalog, GroupedSampler, pipeline

IMAGES, BATCH = 96, 32
# Format, side of the files, side of the result, and the ratio to reach.
CASES = (
    ("jpg", 256, 224, 0.55),
    ("png", 256, 224, 0.55),
    ("jpg", 1000, 224, 1.5),
    ("jpg", 1000, 64, 2.0),
    ("webp", 480, 224, 0.7),
)
_DECODERS = {"jpg": tf.io.decode_jpeg, "png": tf.io.decode_png}
_OPTIONS = {
    "jpg": {"quality": 85},
    "png": {"compress_level": 4},
    "webp": {"quality": 80},
}


def draw_files(folder: Path, kind: str, side: int) -> list[str]:
    """Draws smooth images with some noise, as photos have."""
    random = np.random.default_rng(side)
    paths = []
    for number in range(IMAGES):
        coarse = random.integers(0, 256, (side // 16, side // 16, 3), np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.BICUBIC)
        noisy = np.asarray(image) + random.normal(0, 6, (side, side, 3))
        paths.append(str(folder / f"{side}-{number}.{kind}"))
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(paths[-1], **_OPTIONS[kind])
    return paths


def plain_batches(paths: list[str], kind: str, size: int) -> Iterator:
    """Yields batches of plain tf.data."""

    def load(path):
        pixels = _DECODERS[kind](tf.io.read_file(path), 3)
        return tf.image.resize(pixels, [size, size], "area")

    rows = tf.data.Dataset.from_tensor_slices(paths).repeat()
    rows = rows.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(rows.batch(BATCH).prefetch(2))


def training_batches(
    paths: list[str], size: int, cache_dir: str = ""
) -> Iterator:
    """Yields batches of the pipeline of training, as it is by default."""
    products = [f"p{number // 4}" for number in range(IMAGES)]
    frame = pd.DataFrame({"path": paths, "product_id": products})
    catalog = Catalog.from_frame(frame, "benchmark")
    sampler = GroupedSampler(
        catalog.products,
        catalog.categories,
        units_per_batch=BATCH // 4,
        images_per_product=4,
    )
    return iter(
        pipeline.training_batches(
            catalog, sampler, size, Augmentation(), cache_dir=cache_dir
        )
    )


def images_per_second(batches: Iterator, seconds: float) -> float:
    """Measures a rate, after the batches that were made ahead are gone."""
    for _ in range(5):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or count < 4:
        next(batches)
        count += 1
    return count * BATCH / (time.perf_counter() - start)


def _reduce(job: tuple[str, int]) -> int:
    path, size = job
    image = Image.open(path).convert("RGB").resize((size, size), Image.BOX)
    return np.asarray(image).shape[0]


def pillow_per_second(
    pool: futures.Executor, paths: list[str], size: int
) -> float:
    """Measures Pillow's decoding and reduction in processes."""
    jobs = [(path, size) for path in paths]
    start = time.perf_counter()
    list(pool.map(_reduce, jobs, chunksize=12))
    return len(jobs) / (time.perf_counter() - start)


def _print_row(
    files: str, size: int, rates: list[tuple[float, float]], wanted: float
) -> None:
    theirs, mine = np.median(rates, 0)
    ratio = np.median([b / a for a, b in rates])
    print(
        f"| {files} | {size} px | {theirs:,.0f} | {mine:,.0f} | {ratio:.2f} "
        f"| {wanted} |",
        flush=True,
    )


def main() -> None:
    """Prints one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    print("| files | result | peer/s | training/s | ratio | wanted |")
    print("|---|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        futures.ProcessPoolExecutor(
            2, multiprocessing.get_context("spawn")
        ) as pool,
    ):
        for kind, side, size, wanted in CASES:
            paths = draw_files(Path(folder), kind, side)
            ours = training_batches(paths, size)
            peer = None if kind == "webp" else plain_batches(paths, kind, size)
            rates = []
            if peer is None:  # The processes start with the first images.
                pillow_per_second(pool, paths, size)
            for _ in range(arguments.repeats):
                theirs = (
                    pillow_per_second(pool, paths, size)
                    if peer is None
                    else images_per_second(peer, arguments.seconds)
                )
                rates.append(
                    (theirs, images_per_second(ours, arguments.seconds))
                )
            _print_row(f"{kind} {side} px", size, rates, wanted)
            if (kind, side) == ("jpg", 1000):
                stored = training_batches(paths, size, f"{folder}/{size}")
                for _ in range(2 * IMAGES // BATCH):
                    next(stored)
                rates = [
                    (
                        images_per_second(peer, arguments.seconds),
                        images_per_second(stored, arguments.seconds),
                    )
                    for _ in range(arguments.repeats)
                ]
                _print_row(f"{kind} {side} px, stored", size, rates, wanted)


if __name__ == "__main__":
    main()
