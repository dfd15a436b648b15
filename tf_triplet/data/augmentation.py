"""Random changes of training images, as in the paper.

Every image has its own seed, and the same seed gives the same pixels. A run
that is resumed at step t therefore sees the pixels that an uninterrupted run
would have seen.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_triplet.data import landmarks as marks
from tf_triplet.data import preprocessing

RANDOM_RESIZE_METHODS = ("bilinear", "bicubic", "nearest", "area")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed at random.

    Attributes:
        probability: The probability of each change: crop, flip, noise,
            rotation, cutout and blur.
        min_crop: The smallest share of the height, and of the width, that a
            crop keeps. Both are drawn independently.
        noise: Standard deviation of Gaussian noise, for pixels in [0, 1].
        flip: Whether to mirror images left to right.
        paired_landmarks: Whether landmarks 1 and 2, 3 and 4, and so on are
            the left and right of a pair. Such pairs are swapped in a mirrored
            image.
        random_resize: Whether to draw the resize method. Otherwise images are
            resized as in evaluation.
        min_box_covered: The smallest share of a box that its crop covers.
        rotation: Largest angle of a rotation, in degrees, to either side.
        cutout: Side of a gray square, as a share of the image.
        blur: Standard deviation of a Gaussian blur, in pixels.

    References:
        Dodds et al., 2018, https://arxiv.org/abs/1810.04652. The defaults are
        those of the code that the authors released.

    Example:

    >>> Augmentation(rotation=10.0).rotation
    10.0
    >>> Augmentation().probability
    0.5
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
    """Crops, resizes and changes one decoded image at random.

    Args:
        pixels: `[height, width, 3]` uint8.
        box: `[4]` floats x1, y1, x2, y2 in pixels, or NaN if the image has no
            box.
        image_size: Side of the square result, in pixels.
        seed: `[2]` integers, the only source of randomness.
        augmentation: How the image is changed.
        resize: Resize method if `augmentation.random_resize` is off.

    Returns:
        `[image_size, image_size, 3]` float32 pixels in [0, 1].
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
    """Augments one image and moves its landmarks along.

    Args:
        pixels: `[height, width, 3]` uint8.
        landmarks: `[L, 3]` x and y in pixels, and visibility. See
            `tf_triplet.data.annotations`.
        box: `[4]` floats, see `augment_image`.
        image_size: Side of the square result, in pixels.
        seed: `[2]` integers, the only source of randomness.
        augmentation: How the image is changed.
        resize: Resize method if `augmentation.random_resize` is off.

    Returns:
        The pixels of `augment_image`, and `[L, 3]` landmarks. Their x and y
        lie in [0, 1] of the width and height of the result. A landmark that
        has left the image is cut off, and one below a gray square is hidden.
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
    """Draws the window to keep: `[4]` int32 top, left, bottom, right."""
    known = ~tf.reduce_any(tf.math.is_nan(box))
    return tf.cond(
        known,
        lambda: _distorted_box_window(
            size, box, seed, augmentation.min_box_covered
        ),
        lambda: _fractional_window(size, seed, augmentation.min_crop),
    )


def _fractional_window(size, seed, min_crop: float) -> tf.Tensor:
    """Keeps a uniform share in [min_crop, 1] of the height and the width."""
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
    # The op rejects a box without area. It then crops the whole image.
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
        [], seed, 0, len(RANDOM_RESIZE_METHODS), dtype=tf.int32
    )
    resized = tf.switch_case(
        method,
        [
            lambda name=name: tf.image.resize(
                pixels, [image_size, image_size], method=name
            )
            for name in RANDOM_RESIZE_METHODS
        ],
    )
    resized.set_shape([image_size, image_size, 3])
    return resized


def _addons(pixels, landmarks, image_size, chosen, seeds, augmentation):
    """Applies rotation, blur and cutout, which need TensorFlow Addons."""
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
        # Three standard deviations to each side hold 99.7 % of the kernel.
        side = 2 * int(round(3 * augmentation.blur)) + 1
        blurred = tfa.image.gaussian_filter2d(
            pixels, (max(side, 3),) * 2, augmentation.blur
        )
        pixels = tf.where(chosen[4], blurred, pixels)
    if augmentation.cutout > 0:
        # TensorFlow Addons needs an even side.
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
