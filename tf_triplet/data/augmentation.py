"""The paper's augmentation, drawn from a seed an image.

Stateless: the same seed gives the same pixels, so a run that is resumed at
step t sees what the uninterrupted run saw.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_triplet.data import landmarks as marks
from tf_triplet.data import preprocessing

RESIZE_METHODS = ("bilinear", "bicubic", "nearest", "area")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, and how often.

    Attributes:
        probability: of each of crop, flip, noise, rotation, cutout, blur.
        min_crop: least share of height and width (drawn apart) of a crop.
        noise: standard deviation of Gaussian noise, pixels in [0, 1].
        flip: mirror left to right.
        paired_landmarks: landmarks 1 and 2, 3 and 4, ... are left and right
            of a pair, which trade places in a mirrored image. Without
            pairs each keeps its own.
        random_resize: draw the resize method; else the test-time one.
        min_box_covered: least share of a known box that its crop covers.
        rotation: largest angle, degrees, either way (TF Addons).
        cutout: side of a gray square, share of the image (TF Addons).
        blur: sigma of a Gaussian blur, pixels (TF Addons).

    References:
        Dodds et al., 2018, https://arxiv.org/abs/1810.04652 (defaults of the
        authors' released code).
    """

    probability: float = 0.5
    min_crop: float = 0.5
    noise: float = 0.02
    flip: bool = True
    paired_landmarks: bool = True
    random_resize: bool = True
    min_box_covered: float = 0.5
    rotation: float = 0.0
    cutout: float = 0.0
    blur: float = 0.0


def augment_image(
    pixels: tf.Tensor,
    box: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    augmentation: Augmentation,
    resize: str = "area",
) -> tf.Tensor:
    """Crops, resizes and disturbs one decoded image.

    Args:
        pixels: `[height, width, 3]` uint8.
        box: `[4]` floats, or NaN where the product's box is not known.
        image_size: pixels a side of the result.
        seed: `[2]` integers; the only source of randomness.
        augmentation: what may happen.
        resize: the method where `random_resize` is off.

    Returns:
        `[image_size, image_size, 3]` float32 in [0, 1].
    """
    nothing = tf.zeros([0, 3])
    return augment_annotated(
        pixels, nothing, box, image_size, seed, augmentation, resize
    )[0]


def augment_annotated(
    pixels: tf.Tensor,
    landmarks: tf.Tensor,
    box: tf.Tensor,
    image_size: int,
    seed: tf.Tensor,
    augmentation: Augmentation,
    resize: str = "area",
) -> tuple[tf.Tensor, tf.Tensor]:
    """`augment_image`, and where the landmarks are then.

    Args:
        pixels: `[height, width, 3]` uint8.
        landmarks: `[L, 3]` x and y in pixels, and visibility, see
            `annotations`.
        box: as in `augment_image`, and so are the others.
        image_size: pixels a side of the result.
        seed: `[2]` integers.
        augmentation: what may happen.
        resize: the method where `random_resize` is off.

    Returns:
        The pixels, the same as without landmarks; and `[L, 3]` x and y in
        [0, 1] of the result's width and height, and visibility: cut off
        where the place is no longer in the image, hidden where a gray
        square covers it.
    """
    seeds = tf.random.experimental.stateless_split(seed, 8)
    draws = tf.random.stateless_uniform([6], seeds[0])
    chosen = draws < augmentation.probability
    size = tf.shape(pixels)[:2]
    window = tf.cond(
        chosen[0],
        lambda: _random_window(size, box, seeds[1], augmentation),
        lambda: preprocessing.box_window(size, box),
    )
    landmarks = marks.crop(landmarks, window)
    pixels = preprocessing.cut(pixels, window)
    if augmentation.random_resize:
        pixels = _random_resize(pixels, image_size, seeds[2])
    else:
        pixels = preprocessing.resize_image(pixels, image_size, resize)
    if augmentation.flip:
        pixels = tf.where(chosen[1], pixels[:, ::-1], pixels)
        mirrored = marks.mirror(landmarks, augmentation.paired_landmarks)
        landmarks = tf.where(chosen[1], mirrored, landmarks)
    pixels, landmarks = _addons(
        pixels, landmarks, image_size, chosen, seeds, augmentation
    )
    if augmentation.noise > 0:
        noise = tf.random.stateless_normal(
            [image_size, image_size, 3], seeds[3], stddev=augmentation.noise
        )
        pixels = tf.where(chosen[2], pixels + noise, pixels)
    return tf.clip_by_value(pixels, 0.0, 1.0), marks.outside_is_cut(landmarks)


def _random_window(size, box, seed, augmentation) -> tf.Tensor:
    """`[4]` int32 top, left, bottom, right."""
    known = ~tf.reduce_any(tf.math.is_nan(box))
    return tf.cond(
        known,
        lambda: _distorted_box_window(
            size, box, seed, augmentation.min_box_covered
        ),
        lambda: _fractional_window(size, seed, augmentation.min_crop),
    )


def _fractional_window(size, seed, min_crop: float) -> tf.Tensor:
    """Keeps U(min_crop, 1) of the height and, apart, of the width."""
    size = tf.cast(size, tf.float32)
    draws = tf.random.stateless_uniform([4], seed)
    kept = size * (min_crop + (1.0 - min_crop) * draws[:2])
    kept = tf.maximum(tf.round(kept), 1.0)
    start = tf.floor((size - kept + 1.0) * draws[2:])
    start = tf.cast(tf.minimum(start, size - kept), tf.int32)
    return tf.concat([start, start + tf.cast(kept, tf.int32)], 0)


def _distorted_box_window(size, box, seed, min_covered: float) -> tf.Tensor:
    extent = tf.cast(tf.stack([size[1], size[0]] * 2), tf.float32)
    x1, y1, x2, y2 = tf.unstack(tf.clip_by_value(box / extent, 0.0, 1.0))
    # The op refuses a box without area; its own crop is then the best left.
    usable = (x2 > x1) & (y2 > y1)
    safe = tf.where(
        usable, tf.stack([y1, x1, y2, x2]), tf.constant([0.0, 0, 1, 1])
    )
    begin, kept, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([size, [3]], 0),
        safe[tf.newaxis, tf.newaxis],
        seed,
        min_object_covered=min_covered,
    )
    return tf.concat([begin[:2], begin[:2] + kept[:2]], 0)


def _random_resize(pixels, image_size: int, seed) -> tf.Tensor:
    pixels = tf.cast(pixels, tf.float32) / 255.0
    method = tf.random.stateless_uniform(
        [], seed, 0, len(RESIZE_METHODS), dtype=tf.int32
    )
    resized = tf.switch_case(
        method,
        [
            lambda name=name: tf.image.resize(
                pixels, [image_size, image_size], method=name
            )
            for name in RESIZE_METHODS
        ],
    )
    resized.set_shape([image_size, image_size, 3])
    return resized


def _addons(pixels, landmarks, image_size, chosen, seeds, augmentation):
    """The image operations that TF Addons brings; imported when asked for."""
    if not (augmentation.rotation or augmentation.cutout or augmentation.blur):
        return pixels, landmarks
    import tensorflow_addons as tfa

    if augmentation.rotation > 0:
        limit = augmentation.rotation * 3.141592653589793 / 180.0
        angle = tf.random.stateless_uniform([], seeds[4], -limit, limit)
        rotated = tfa.image.rotate(
            pixels, angle, interpolation="bilinear", fill_mode="nearest"
        )
        pixels = tf.where(chosen[3], rotated, pixels)
        turned = marks.rotate(landmarks, angle)
        landmarks = tf.where(chosen[3], turned, landmarks)
    if augmentation.blur > 0:
        # Three sigmas each way hold 99.7 % of the kernel.
        side = 2 * int(round(3 * augmentation.blur)) + 1
        blurred = tfa.image.gaussian_filter2d(
            pixels, (max(side, 3),) * 2, augmentation.blur
        )
        pixels = tf.where(chosen[4], blurred, pixels)
    if augmentation.cutout > 0:
        # TF Addons asks for an even side.
        side = max(2, 2 * round(augmentation.cutout * image_size / 2))
        center = tf.random.stateless_uniform(
            [1, 2], seeds[5], 0, image_size, dtype=tf.int32
        )
        cut = tfa.image.cutout(
            pixels[tf.newaxis], side, center, constant_values=0.5
        )[0]
        pixels = tf.where(chosen[5], cut, pixels)
        covered = marks.cover(
            landmarks, center[0] / image_size, side / image_size
        )
        landmarks = tf.where(chosen[5], covered, landmarks)
    pixels.set_shape([image_size, image_size, 3])
    return pixels, landmarks
