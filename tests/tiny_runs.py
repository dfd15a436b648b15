"""The folder of a run that was never trained, for tests of workflows."""

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from tf_triplet import config as configs


def encoder(seed=0):
    """Turns the mean color of an image into 8 numbers, by `seed`."""
    inputs = tf.keras.Input([8, 8, 3])
    pooled = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    turned = tf.keras.layers.Dense(8, use_bias=False)(pooled)
    model = tf.keras.Model(inputs, tf.keras.layers.UnitNormalization()(turned))
    random = np.random.default_rng(seed)
    model.layers[-2].set_weights([random.normal(size=[3, 8])])
    return model


def draw(folder, name, seed):
    """Writes a random image of 4 x 4 colors."""
    pixels = np.random.default_rng(seed).integers(0, 256, [4, 4, 3], np.uint8)
    Image.fromarray(pixels).resize((8, 8), 0).save(folder / name)


def make_run(folder, images, **export):
    """A run that was never trained, and a manifest of `images` rows."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(images):
        draw(folder / "images", f"{i}.png", i)
        rows.append(
            {
                "path": f"images/{i}.png",
                "product_id": f"p{i // 4}",
                "category": ("bags", "hats", "")[i % 3],
                "domain": ("street", "shop")[i % 2],
                "price": f"{i}.50",
            }
        )
    frame = pd.DataFrame(rows)
    frame.to_csv(folder / "shop.csv", index=False)
    config = configs.paper_config()
    config.data.path = str(folder / "shop.csv")
    config.data.image_size = 8
    config.evaluation.batch_size = 5 if images < 100 else 64
    config.export.update({"index": "exact", "k": 3, **export})
    (folder / "config.json").write_text(configs.to_json(config))
    encoder().save(folder / "encoder.keras")
    return frame
