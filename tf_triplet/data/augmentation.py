"""Random changes of training images, as in the paper.

Every image has its own seed, and the same seed gives the same pixels. A run
that is resumed at step t therefore sees the pixels that an uninterrupted run
would have seen.
"""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf

from tf_triplet.data import landmarks as marks
from tf_triplet.data import preprocessing

RANDOM_RESIZE_METHODS = ("bilinear", "bicubic", "nearest", "area")
# Places of the random numbers of an image. First, whether each change is made.
_CROP, _FLIP, _NOISE, _ROTATION, _BLUR, _CUTOUT = range(6)
_WINDOW, _METHOD, _NOISE_OFFSET, _ANGLE, _CENTER = 6, 10, 11, 12, 13
_DRAWS = 15
# Noise is a part of a fixed table. It begins at one of as many places, since
# drawing a number for each pixel takes longer than decoding the image.
_OFFSETS = 1 << 20


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
    box: tf.Tensor | None,
    image_size: int,
    seed: tf.Tensor,
    augmentation: Augmentation,
    resize: str = "area",
) -> tf.Tensor:
    """Crops, resizes and changes one decoded image at random.

    Args:
        pixels: `[height, width, 3]` uint8.
        box: `[4]` floats x1, y1, x2, y2 in pixels. None or NaN if the image
            has no box.
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
    box: tf.Tensor | None,
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
        box: `[4]` floats or None, see `augment_image`.
        image_size: Side of the square result, in pixels.
        seed: `[2]` integers, the only source of randomness.
        augmentation: How the image is changed.
        resize: Resize method if `augmentation.random_resize` is off.

    Returns:
        The pixels of `augment_image`, and `[L, 3]` landmarks. Their x and y
        lie in [0, 1] of the width and height of the result. A landmark that
        has left the image is cut off, and one below a gray square is hidden.
    """
    draws = Draws.of(seed)
    window, _ = choose_window(tf.shape(pixels)[:2], box, draws, augmentation)
    return augment_window(
        preprocessing.cut(pixels, window),
        marks.crop(landmarks, window),
        image_size,
        draws,
        augmentation,
        resize,
    )


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random numbers of one image.

    One op draws them all, because an op for each would take longer than
    decoding a small image.

    Attributes:
        seed: `[2]` integers, what they were drawn from.
        uniform: `[_DRAWS]` floats in [0, 1).
    """

    seed: tf.Tensor
    uniform: tf.Tensor

    @classmethod
    def of(cls, seed: tf.Tensor) -> Draws:
        """Draws the numbers from a seed of `[2]` integers."""
        return cls(
            seed, tf.random.stateless_uniform([_DRAWS], seed, alg="philox")
        )

    def is_chosen(self, place: int, augmentation: Augmentation) -> tf.Tensor:
        """Whether one of the changes is made."""
        return self.uniform[place] < augmentation.probability

    def whole(self, place: int, count: int) -> tf.Tensor:
        """Returns a whole number from 0 to `count` - 1."""
        number = tf.cast(self.uniform[place] * count, tf.int32)
        return tf.minimum(number, count - 1)


def choose_window(
    size: tf.Tensor,
    box: tf.Tensor | None,
    draws: Draws,
    augmentation: Augmentation,
) -> tuple[tf.Tensor, tf.Tensor | bool]:
    """Draws the part of an image to keep, see `decoding.ChooseWindow`.

    Args:
        size: `[2]` int32, height and width of the upright image.
        box: `[4]` floats or None, see `augment_image`.
        draws: The random numbers of the image.
        augmentation: How the image is changed.
    """
    kept, exact = preprocessing.choose_box(size, box)
    is_cropped = draws.is_chosen(_CROP, augmentation)
    drawn = _random_window(size, box, draws, augmentation)
    return tf.where(is_cropped, drawn, kept), exact & ~is_cropped


def augment_window(
    pixels: tf.Tensor,
    landmarks: tf.Tensor,
    image_size: int,
    draws: Draws,
    augmentation: Augmentation,
    resize: str = "area",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resizes and changes the part of an image that was kept.

    Args:
        pixels: `[height, width, 3]` uint8, the part that `choose_window` has
            drawn, at any scale.
        landmarks: `[L, 3]` x and y in [0, 1] of that part, and visibility.
        image_size: Side of the square result, in pixels.
        draws: The random numbers of the image.
        augmentation: How the image is changed.
        resize: Resize method if `augmentation.random_resize` is off.

    Returns:
        Pixels and landmarks, see `augment_annotated`.
    """
    if augmentation.random_resize:
        pixels = _random_resize(pixels, image_size, draws)
    else:
        pixels = preprocessing.resize_image(pixels, image_size, resize)
    if augmentation.flip:
        flipped = draws.is_chosen(_FLIP, augmentation)
        pixels = tf.cond(
            flipped, lambda: tf.reverse(pixels, [1]), lambda: pixels
        )
        mirrored = marks.mirror(landmarks, augmentation.paired_landmarks)
        landmarks = tf.where(flipped, mirrored, landmarks)
    pixels, landmarks = _addons(
        pixels, landmarks, image_size, draws, augmentation
    )
    if augmentation.noise > 0:
        resized = pixels
        pixels = tf.cond(
            draws.is_chosen(_NOISE, augmentation),
            lambda: tf.clip_by_value(
                resized + _noise(image_size, draws, augmentation.noise),
                0.0,
                1.0,
            ),
            lambda: resized,
        )
    return pixels, marks.outside_is_cut(landmarks)


def _noise(image_size: int, draws: Draws, deviation: float) -> tf.Tensor:
    """Returns a part of the table, at an offset that is drawn."""
    # The table is made outside of the graph, and once.
    with tf.init_scope():
        table = _noise_table(image_size)
    count = 3 * image_size**2
    start = draws.whole(_NOISE_OFFSET, _OFFSETS)
    part = tf.reshape(table[start : start + count], [image_size] * 2 + [3])
    return part * deviation


@functools.lru_cache(maxsize=4)
def _noise_table(image_size: int) -> tf.Tensor:
    """Returns standard normal numbers that are the same in every run."""
    count = 3 * image_size**2 + _OFFSETS
    with tf.device("cpu:0"):
        return tf.random.stateless_normal([count], [8, 2018], alg="philox")


def _random_window(size, box, draws, augmentation) -> tf.Tensor:
    """Draws the window to keep: `[4]` int32 top, left, bottom, right."""
    part = _fractional_window(size, draws, augmentation.min_crop)
    if box is None:
        return part
    return tf.cond(
        tf.reduce_any(tf.math.is_nan(box)),
        lambda: part,
        lambda: _distorted_box_window(
            size, box, draws.seed, augmentation.min_box_covered
        ),
    )


def _fractional_window(size, draws, min_crop: float) -> tf.Tensor:
    """Keeps a uniform share in [min_crop, 1] of the height and the width."""
    size = tf.cast(size, tf.float32)
    uniform = draws.uniform[_WINDOW : _WINDOW + 4]
    kept = size * (min_crop + (1.0 - min_crop) * uniform[:2])
    kept = tf.maximum(tf.round(kept), 1.0)
    start = tf.floor((size - kept + 1.0) * uniform[2:])
    start = tf.minimum(start, size - kept)
    return tf.cast(tf.concat([start, start + kept], 0), tf.int32)


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


def _random_resize(pixels, image_size: int, draws: Draws) -> tf.Tensor:
    size = [image_size, image_size]
    resized = tf.switch_case(
        draws.whole(_METHOD, len(RANDOM_RESIZE_METHODS)),
        [
            lambda name=name: tf.cast(
                tf.image.resize(pixels, size, method=name), tf.float32
            )
            for name in RANDOM_RESIZE_METHODS
        ],
    )
    resized.set_shape([image_size, image_size, 3])
    return tf.clip_by_value(resized * (1 / 255.0), 0.0, 1.0)


def _addons(pixels, landmarks, image_size, draws, augmentation):
    """Applies rotation, blur and cutout, which need TensorFlow Addons."""
    if not (augmentation.rotation or augmentation.cutout or augmentation.blur):
        return pixels, landmarks
    import tensorflow_addons as tfa

    if augmentation.rotation > 0:
        chosen = draws.is_chosen(_ROTATION, augmentation)
        limit = augmentation.rotation * 3.141592653589793 / 180.0
        angle = limit * (2.0 * draws.uniform[_ANGLE] - 1.0)
        pixels = _when(
            chosen,
            pixels,
            lambda pixels: tfa.image.rotate(
                pixels, angle, interpolation="bilinear", fill_mode="nearest"
            ),
        )
        landmarks = tf.where(chosen, marks.rotate(landmarks, angle), landmarks)
    if augmentation.blur > 0:
        # Three standard deviations to each side hold 99.7 % of the kernel.
        side = 2 * int(round(3 * augmentation.blur)) + 1
        pixels = _when(
            draws.is_chosen(_BLUR, augmentation),
            pixels,
            lambda pixels: tfa.image.gaussian_filter2d(
                pixels, (max(side, 3),) * 2, augmentation.blur
            ),
        )
    if augmentation.cutout > 0:
        chosen = draws.is_chosen(_CUTOUT, augmentation)
        # TensorFlow Addons needs an even side.
        side = max(2, 2 * round(augmentation.cutout * image_size / 2))
        center = tf.stack(
            [draws.whole(_CENTER + axis, image_size) for axis in (0, 1)]
        )
        pixels = _when(
            chosen,
            pixels,
            lambda pixels: tfa.image.cutout(
                pixels[tf.newaxis],
                side,
                center[tf.newaxis],
                constant_values=0.5,
            )[0],
        )
        covered = marks.cover(landmarks, center / image_size, side / image_size)
        landmarks = tf.where(chosen, covered, landmarks)
    pixels.set_shape([image_size, image_size, 3])
    return pixels, landmarks


def _when(chosen, pixels, change) -> tf.Tensor:
    """Changes the pixels, at no cost where the change is not drawn."""
    return tf.cond(chosen, lambda: change(pixels), lambda: pixels)
