"""From an image file's bytes to the pixels that the encoder sees.

Training, evaluation and the exported SavedModel call the same functions, so
the same bytes give the same embedding everywhere. All functions are
TensorFlow code that runs inside a graph.

JPEG (gray, RGB or CMYK), PNG, BMP and GIF (first frame) are decoded by
`tf_triplet.data.decoding`: upright by their EXIF orientation, and transparent
images on white. Formats that TensorFlow cannot read, such as WebP and TIFF,
are first converted by `tf_triplet.data.transcode`.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tf_triplet.data import decoding, graph_formats
from tf_triplet.data.decoding import MAX_MEGAPIXELS

RESIZE_METHODS = ("area", "bilinear")
# Raise it whenever the same file gives other pixels than before. Embeddings
# that were cached or indexed are then known to be of the former pixels.
# tests/data/golden_pixels_test.py fails if the pixels change without it.
PIXEL_VERSION = 2
# Images of one request that are decoded at once.
_DECODED_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """How an image file becomes the pixels that an encoder takes.

    Evaluation and the exported model must agree on it, so that both compute
    the same embedding.

    Attributes:
        image_size: Side of the square result, in pixels. The aspect ratio
            is not kept.
        resize: Resize method, "area" (the paper's) or "bilinear"
            (antialiased).
        use_boxes: Whether an image is cropped to its box, where it has one.
        max_megapixels: Millions of pixels that are decoded at most. A larger
            image is an error, unless it is a JPEG that can be decoded at a
            smaller scale.

    Raises:
        ValueError: If `resize` is not a known method.

    Example:

    >>> InputSpec(image_size=224).resize
    'area'
    """

    image_size: int
    resize: str = "area"
    use_boxes: bool = True
    max_megapixels: float = MAX_MEGAPIXELS

    def __post_init__(self) -> None:
        _check_resize(self.resize)


def decode_image(
    image_bytes: tf.Tensor, max_megapixels: float = MAX_MEGAPIXELS
) -> tf.Tensor:
    """Decodes one image file at full scale, upright and on white.

    Args:
        image_bytes: Scalar string, the bytes of a JPEG, PNG, GIF or BMP file.
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        `[height, width, 3]` uint8 RGB pixels.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not such an image, or
            it has too many pixels.

    Example:

    >>> transparent = tf.zeros([2, 3, 4], tf.uint8)
    >>> pixels = decode_image(tf.io.encode_png(transparent))
    >>> pixels.shape.as_list(), int(pixels[0, 0, 0])
    ([2, 3, 3], 255)
    """
    return decoding.decode(
        image_bytes,
        lambda size: (decoding.whole(size), True),
        image_size=1,
        max_megapixels=max_megapixels,
    ).pixels


def load_image(
    image_bytes: tf.Tensor,
    image_size: int,
    box: tf.Tensor | None = None,
    resize: str = "area",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> tf.Tensor:
    """Decodes, crops and resizes one image file, without augmentation.

    A JPEG whose sides are at least 2, 4 or 8 times `image_size` is decoded at
    a half, a quarter or an eighth of its scale. An image that is cropped to a
    box is decoded at full scale, so that its crop, sent as a file of its own,
    gives the same pixels.

    Args:
        image_bytes: Scalar string, see `decode_image`.
        image_size: Side of the square result, in pixels. The aspect ratio is
            not kept.
        box: `[4]` floats x1, y1, x2, y2 in pixels of the upright image. None
            or NaN keeps the whole image.
        resize: Resize method, "area" (the paper's) or "bilinear"
            (antialiased).
        max_megapixels: Millions of pixels that are decoded at most.

    Returns:
        `[image_size, image_size, 3]` float32 pixels in [0, 1].

    Raises:
        ValueError: If `resize` is not a known method.

    Example:

    >>> white_half = tf.constant([[0, 255], [0, 255]], tf.uint8)
    >>> data = tf.io.encode_png(white_half[..., tf.newaxis])
    >>> load_image(data, image_size=1).numpy().round(2).tolist()
    [[[0.5, 0.5, 0.5]]]
    >>> right = tf.constant([1.0, 0.0, 2.0, 2.0])
    >>> load_image(data, image_size=1, box=right).numpy().tolist()
    [[[1.0, 1.0, 1.0]]]
    """
    image = decoding.decode(
        image_bytes,
        lambda size: choose_box(size, box),
        image_size,
        max_megapixels,
    )
    return resize_image(image.pixels, image_size, resize)


def choose_box(
    size: tf.Tensor, box: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor | bool]:
    """Chooses the part of an image inside a box, see `decoding.ChooseWindow`.

    Args:
        size: `[2]` int32, height and width of the upright image.
        box: `[4]` floats, see `load_image`.
    """
    if box is None:
        return decoding.whole(size), False
    is_cropped = ~tf.reduce_any(tf.math.is_nan(box))
    return box_window(size, box), is_cropped


def load_images(
    image_bytes: tf.Tensor,
    image_size: int,
    resize: str = "area",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> tf.Tensor:
    """Decodes and resizes a batch of image files, as a served model does.

    Args:
        image_bytes: `[batch]` strings, see `decode_image`. The batch may be
            empty.
        image_size: Side of the square results, in pixels.
        resize: Resize method, "area" or "bilinear".
        max_megapixels: Millions of pixels of one image that are decoded at
            most.

    Returns:
        `[batch, image_size, image_size, 3]` float32 pixels in [0, 1].

    Example:

    >>> data = tf.io.encode_png(tf.zeros([2, 3, 1], tf.uint8))
    >>> load_images(tf.stack([data, data]), image_size=4).shape.as_list()
    [2, 4, 4, 3]
    """
    return tf.map_fn(
        lambda one: load_image(
            one, image_size, resize=resize, max_megapixels=max_megapixels
        ),
        image_bytes,
        # Images that are decoded at once are in memory at once.
        parallel_iterations=_DECODED_AT_ONCE,
        fn_output_signature=tf.TensorSpec(
            [image_size, image_size, 3], tf.float32
        ),
    )


def load_readable_images(
    image_bytes: tf.Tensor,
    image_size: int,
    resize: str = "area",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch of image files of which some may be damaged.

    Args:
        image_bytes: See `load_images`.
        image_size: See `load_images`.
        resize: See `load_images`.
        max_megapixels: See `load_images`.

    Returns:
        `[batch, image_size, image_size, 3]` float32 pixels in [0, 1], which
        are 0 for an image that cannot be decoded, and `[batch]` strings: why
        not, and "" for all others.

    Raises:
        tf.errors.InvalidArgumentError: If the batch has images and none of
            them can be decoded. It is the error of the first.

    Example:

    >>> data = tf.io.encode_png(tf.ones([2, 3, 1], tf.uint8))
    >>> pixels, failures = load_readable_images(
    ...     tf.stack([data, b"GIF89a"]), image_size=4
    ... )
    >>> failures.numpy()[0]
    b''
    >>> failures.numpy()[1][:31]
    b'The GIF image cannot be decoded'
    """
    count = tf.shape(image_bytes)[0]
    places, found = _load_what_can_be(
        image_bytes, image_size, resize, max_megapixels
    )
    none_is_good = (count > 0) & (tf.size(places) == 0)
    # Decodes the first again, which raises its error.
    first = tf.cond(
        none_is_good,
        lambda: load_image(
            image_bytes[0],
            image_size,
            resize=resize,
            max_megapixels=max_megapixels,
        )[tf.newaxis],
        lambda: tf.zeros([0, image_size, image_size, 3]),
    )
    places = tf.concat([places, tf.range(tf.shape(first)[0])], 0)
    pixels = tf.scatter_nd(
        places[:, tf.newaxis],
        tf.concat([found, first], 0),
        [count, image_size, image_size, 3],
    )
    pixels.set_shape([None, image_size, image_size, 3])
    is_good = tf.scatter_nd(
        places[:, tf.newaxis], tf.ones_like(places), [count]
    )
    return pixels, _explain(image_bytes, is_good > 0, max_megapixels)


def _load_what_can_be(
    image_bytes, image_size, resize, max_megapixels
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the places and the pixels of the images that can be decoded."""

    def load(place, data):
        pixels = load_image(
            data, image_size, resize=resize, max_megapixels=max_megapixels
        )
        return place, pixels

    count = tf.shape(image_bytes)[0]
    rows = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
    # Only a dataset can go on after an error.
    loaded = rows.map(
        load, num_parallel_calls=_DECODED_AT_ONCE, deterministic=True
    ).ignore_errors()
    nothing = tf.data.Dataset.from_tensors(
        tf.nest.map_structure(
            lambda spec: tf.zeros([0, *spec.shape], spec.dtype),
            loaded.element_spec,
        )
    )
    whole = loaded.batch(tf.cast(tf.maximum(count, 1), tf.int64))
    return whole.concatenate(nothing).take(1).get_single_element()


def _explain(image_bytes, is_good, max_megapixels) -> tf.Tensor:
    """Returns `[batch]` strings: why an image is bad, or ""."""

    def explain_bad():
        return tf.map_fn(
            lambda row: tf.cond(
                row[0],
                lambda: "",
                lambda: graph_formats.failure(row[1], max_megapixels),
            ),
            (is_good, image_bytes),
            fn_output_signature=tf.TensorSpec([], tf.string),
        )

    return tf.cond(
        tf.reduce_all(is_good),
        lambda: tf.fill(tf.shape(image_bytes), ""),
        explain_bad,
    )


def resize_image(
    pixels: tf.Tensor, image_size: int, resize: str = "area"
) -> tf.Tensor:
    """Resizes `[h, w, 3]` uint8 to `[image_size, image_size, 3]` in [0, 1]."""
    _check_resize(resize)
    # Pixels stay bytes until they are few.
    if resize == "area":
        resized = tf.raw_ops.ResizeArea(
            images=pixels[tf.newaxis], size=[image_size, image_size]
        )[0]
    else:
        resized = tf.image.resize(
            pixels, [image_size, image_size], method=resize, antialias=True
        )
    resized.set_shape([image_size, image_size, 3])
    return tf.clip_by_value(resized / 255.0, 0.0, 1.0)


def _check_resize(resize: str) -> None:
    if resize not in RESIZE_METHODS:
        raise ValueError(
            f"`resize` must be area or bilinear. Received: {resize!r}"
        )


def crop(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Crops an image to its box.

    The box is rounded outwards and clipped to the image. A box that lies
    entirely outside keeps the nearest row or column of pixels, because an
    empty image cannot be resized.

    Args:
        pixels: `[height, width, 3]`.
        box: `[4]` floats x1, y1, x2, y2 in pixels. NaN keeps the whole image.
    """
    return cut(pixels, box_window(tf.shape(pixels)[:2], box))


def box_window(size: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Returns the window of pixels that `crop` keeps.

    Args:
        size: `[2]` integers, the height and width of the image.
        box: `[4]` floats, see `crop`.

    Returns:
        `[4]` int32 top, left, bottom, right. Bottom and right are exclusive.
    """
    whole = tf.reduce_any(tf.math.is_nan(box))
    width, height = tf.cast(size[1], tf.float32), tf.cast(size[0], tf.float32)
    box = tf.where(whole, tf.stack([0.0, 0.0, width, height]), box)
    left = tf.clip_by_value(tf.floor(box[0]), 0.0, width - 1.0)
    top = tf.clip_by_value(tf.floor(box[1]), 0.0, height - 1.0)
    right = tf.clip_by_value(tf.math.ceil(box[2]), left + 1.0, width)
    bottom = tf.clip_by_value(tf.math.ceil(box[3]), top + 1.0, height)
    return tf.cast(tf.stack([top, left, bottom, right]), tf.int32)


def cut(pixels: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Returns the part of `[h, w, 3]` pixels inside a `box_window`."""
    top, left, bottom, right = tf.unstack(window)
    return pixels[top:bottom, left:right]
