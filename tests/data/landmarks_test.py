"""Landmarks go where their pixels go: a dot is drawn, moved and found."""

import numpy as np
import pytest
import reference
import tensorflow as tf
from PIL import Image

from tf_triplet.data import landmarks as marks
from tf_triplet.data import pipeline
from tf_triplet.data.augmentation import (
    Augmentation,
    Draws,
    augment_annotated,
    augment_image,
)
from tf_triplet.data.sampling import GroupedSampler

NAN = np.nan
SIZE = 64
# x, y of a red, a green and a blue dot; red and green are left and right.
DOTS = [(30, 26), (50, 32), (12, 48)]


def image():
    """A black image, 60 high and 80 wide, with dots of 5 x 5 pixels."""
    pixels = np.zeros([60, 80, 3], np.uint8)
    for channel, (x, y) in enumerate(DOTS):
        pixels[y - 2 : y + 3, x - 2 : x + 3, channel] = 255
    return pixels


def landmarks():
    # The middle of pixel x is x + 0.5, as of a box that holds it.
    places = np.float32(DOTS) + 0.5
    return np.concatenate([places, np.zeros([3, 1])], 1).astype(np.float32)


def center(pixels, channel):
    """Returns x and y in [0, 1] of the center of a color, and its amount."""
    weights = np.float64(pixels[..., channel])
    axis = (np.arange(SIZE) + 0.5) / SIZE
    total = weights.sum()
    place = [(weights * axis).sum(), (weights * axis[:, None]).sum()]
    return np.array(place) / max(total, 1e-9), total


def drawn(seed):
    """Which changes are drawn: crop, flip, noise and rotation come first."""
    seed = tf.constant([seed, 3], tf.int64)
    options = Augmentation(probability=0.7)
    return [bool(Draws.of(seed).is_chosen(i, options)) for i in range(4)]


@pytest.mark.parametrize("box", [[NAN] * 4, [6.0, 10.0, 70.0, 56.0]])
@pytest.mark.parametrize("seed", range(8))
def test_a_landmark_is_where_its_dot_is(seed, box):
    options = dict(noise=0.0, rotation=20.0, probability=0.7)
    pixels, got = augment_annotated(
        tf.constant(image()),
        tf.constant(landmarks()),
        tf.constant(box, tf.float32),
        SIZE,
        tf.constant([seed, 3], tf.int64),
        Augmentation(**options),
    )
    pixels, got = pixels.numpy(), got.numpy()
    # In a mirrored image the green dot is the left one of the pair.
    channels = [1, 0, 2] if drawn(seed)[1] else [0, 1, 2]
    found = [center(pixels, channel) for channel in channels]
    seen = 0
    for (place, amount), (x, y, visibility) in zip(found, got):
        if visibility == 2:
            # A rotation may bring the place of a cropped dot back, empty.
            assert drawn(seed)[3] or not (0 <= x <= 1 and 0 <= y <= 1)
            continue
        assert visibility == 0 and amount > 0
        # A dot at the edge is cut, and nearest neighbors jump.
        inside = 0.1 < x < 0.9 and 0.1 < y < 0.9
        tolerance = 1.5 / SIZE if inside else 4 / SIZE
        np.testing.assert_allclose([x, y], place, atol=tolerance)
        seen += 1
    assert seen > 0


def test_pixels_do_not_depend_on_landmarks():
    box = tf.constant([6.0, 10.0, 70.0, 56.0])
    seed = tf.constant([2, 3], tf.int64)
    options = Augmentation(probability=1.0)
    pixels, _ = augment_annotated(
        image(), landmarks(), box, SIZE, seed, options
    )
    plain = augment_image(image(), box, SIZE, seed, options)
    np.testing.assert_array_equal(pixels, plain)


def test_the_seeds_above_cover_every_kind_of_change():
    # Crop, flip, rotation.
    kinds = {
        (kind, drawn(seed)[kind]) for seed in range(8) for kind in (0, 1, 3)
    }
    assert len(kinds) == 6


def test_crop_cuts_off_what_is_outside():
    got = marks.crop(
        tf.constant([[10.0, 20, 0], [4, 20, 1], [NAN, NAN, 2], [NAN] * 3]),
        tf.constant([10, 5, 30, 25]),
    )
    np.testing.assert_allclose(
        got, [[0.25, 0.5, 0], [-0.05, 0.5, 2], [NAN, NAN, 2], [NAN] * 3]
    )


@pytest.mark.parametrize(
    "paired,order", [(True, [1, 0, 2]), (False, [0, 1, 2])]
)
def test_mirror(paired, order):
    places = np.float32([[0.1, 0.2, 0], [0.7, 0.3, 1], [0.4, 0.5, 2]])
    want = places[order] * [-1, 1, 1] + [1, 0, 0]
    got = marks.mirror(tf.constant(places), paired)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    again = marks.mirror(got, paired)
    np.testing.assert_allclose(again, places, rtol=1e-6)


def test_a_gray_square_hides():
    got = augment_annotated(
        tf.constant(image()),
        tf.constant(landmarks()),
        tf.fill([4], NAN),
        SIZE,
        tf.constant([0, 0], tf.int64),
        # A square twice the image covers all of it.
        Augmentation(1.0, 1.0, noise=0.0, flip=False, cutout=2.0),
    )
    np.testing.assert_array_equal(got[0], np.full([SIZE, SIZE, 3], 0.5))
    assert got[1][:, 2].numpy().tolist() == [1, 1, 1]
    half = marks.cover(
        tf.constant([[0.2, 0.6, 0], [0.4, 0.6, 0], [0.2, 0.6, 2]]),
        tf.constant([0.5, 0.1]),
        0.4,
    )
    assert half[:, 2].numpy().tolist() == [1, 0, 2]


def annotated_files(tmp_path):
    """Twelve gray images of four products. The third cannot be read."""
    rows = np.arange(12)
    for i in rows:
        Image.new("RGB", (10, 20), (i * 20,) * 3).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_text("no image")
    return reference.catalog(
        [str(tmp_path / f"{i}.png") for i in rows],
        [f"p{i // 3}" for i in rows],
        **{
            "attribute:even": 1 - rows % 2,
            "attribute:third": np.where(rows % 3, -1, 1),
            "landmark1_x": rows + 0.0,
            "landmark1_y": 5.0,
        },
    )


def train(catalog, **more):
    sampler = GroupedSampler(
        catalog.products,
        catalog.categories,
        units="products",
        units_per_batch=3,
        images_per_product=2,
        seed=1,
    )
    batches = pipeline.training_batches(
        catalog, sampler, 8, Augmentation(0.0), **more
    )
    return list(batches.take(3).as_numpy_iterator())


def test_targets_belong_to_their_images(tmp_path):
    catalog = annotated_files(tmp_path)
    batches = train(catalog, targets=["attributes", "landmarks"])
    sizes = set()
    for pixels, y in batches:
        rows = np.rint(pixels.mean((1, 2, 3)) * 255 / 20).astype(int)
        assert 2 not in rows and set(y) == {
            "labels",
            "attributes",
            "landmarks",
        }
        sizes.add(len(rows))
        np.testing.assert_array_equal(y["labels"], catalog.products[rows])
        np.testing.assert_array_equal(y["attributes"], catalog.attributes[rows])
        assert y["attributes"].dtype == np.int8
        want = np.where(rows > 10, 2, 0)
        np.testing.assert_allclose(y["landmarks"][:, 0, 0], rows / 10)
        np.testing.assert_allclose(y["landmarks"][:, 0, 1], 0.25)
        np.testing.assert_array_equal(y["landmarks"][:, 0, 2], want)
    # A batch without the unreadable image, and one that left it out.
    assert len(sizes) > 1


def test_without_targets_there_are_only_labels(tmp_path):
    catalog = annotated_files(tmp_path)
    some = train(catalog, targets=["attributes"])
    for (pixels, y), (plain_pixels, labels) in zip(some, train(catalog)):
        assert set(y) == {"labels", "attributes"}
        np.testing.assert_array_equal(pixels, plain_pixels)
        np.testing.assert_array_equal(y["labels"], labels)


def test_targets_that_the_catalog_lacks(tmp_path):
    catalog = reference.catalog(list("abcdef"), list("ppqqrr"))
    with pytest.raises(ValueError, match="'test' has no landmarks"):
        train(catalog, targets=["landmarks"])
    with pytest.raises(ValueError, match="Received: 'colors'"):
        train(catalog, targets=["colors"])
