"""Compares a nightly refresh of the index with the first publication.

Command: python benchmarks/refresh.py. It takes minutes. 20,000 images are
published, then 5 % of them change, then none. Printed are the images that were
embedded and the seconds. The images are drawn and the encoder is small and
random; with a real encoder, which takes longer, a refresh saves more.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from tf_triplet import config as configs
from tf_triplet import workflows

SIZE = 32


def draw(path, seed):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, [6, 6, 3], np.uint8)
    Image.fromarray(pixels).resize((SIZE, SIZE), Image.BICUBIC).save(path)


def make_encoder(path):
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    tf.keras.Sequential(
        [
            tf.keras.Input([SIZE, SIZE, 3]),
            layers.Conv2D(32, 5, 2, activation="relu"),
            layers.Conv2D(64, 3, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64),
            layers.UnitNormalization(),
        ]
    ).save(path)


def make_run(folder, images):
    (folder / "images").mkdir(parents=True)
    names = [f"images/{i}.png" for i in range(images)]
    for i, name in enumerate(names):
        draw(folder / name, i)
    frame = pd.DataFrame(
        {"path": names, "product_id": [f"p{i // 4}" for i in range(images)]}
    )
    frame.to_csv(folder / "shop.csv", index=False)
    config = configs.paper_config()
    config.data.path = str(folder / "shop.csv")
    config.data.image_size = SIZE
    (folder / "config.json").write_text(configs.to_json(config))
    make_encoder(folder / "encoder.keras")
    return frame


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        frame = make_run(folder, images)

        def publish(what):
            start = time.perf_counter()
            record = workflows.export(
                folder, same_encoder=True, progress=False
            ).record
            seconds = time.perf_counter() - start
            work, tuned = record["work"], record["tuning"]
            print(
                f"{what:<16}{work['cached']:>8}{work['embedded']:>10}"
                f"{seconds:>9.1f}{record['parity']['recall']:>9.4f}   "
                f"{tuned['leaves_to_search']}/{tuned['leaves']} leaves, "
                f"reorder {tuned['reorder']}",
                flush=True,
            )

        print(
            f"{'':<16}{'cached':>8}{'embedded':>10}{'seconds':>9}"
            f"{'recall':>9}   index"
        )
        publish("first")
        for i in range(0, images, 20):
            draw(folder / frame["path"][i], images + i)
        publish("5 % changed")
        publish("nothing changed")


if __name__ == "__main__":
    main()
