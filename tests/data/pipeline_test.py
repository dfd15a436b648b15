"""Batches of pixels: order, skipping, boxes, exact restarts."""

import os

import numpy as np
import pytest
import reference
import tensorflow as tf
from PIL import Image

from tf_triplet.data import pipeline, preprocessing, transcode
from tf_triplet.data.augmentation import Augmentation
from tf_triplet.data.sampling import GroupedSampler

SIZE = 8


@pytest.fixture
def files(tmp_path):
    """Twelve flat images of four products, each with its own gray."""
    paths = []
    for i in range(12):
        kind = ("png", "jpg", "webp", "bmp", "gif")[i % 5]
        path = tmp_path / f"{i:02}.{kind}"
        Image.new("RGB", (10, 12), (i * 20,) * 3).save(path)
        paths.append(str(path))
    return paths


def build(paths, **columns):
    return reference.catalog(
        paths, [f"p{i // 3}" for i in range(len(paths))], **columns
    )


def evaluated(catalog, use_boxes=True, **more):
    inputs = preprocessing.InputSpec(SIZE, use_boxes=use_boxes)
    batches = pipeline.evaluation_batches(catalog, inputs, 5, **more)
    rows, pixels = zip(*batches.as_numpy_iterator())
    return np.concatenate(rows), np.concatenate(pixels)


def test_every_image_once_in_order(files):
    rows, pixels = evaluated(build(files))
    assert rows.tolist() == list(range(12))
    assert pixels.shape == (12, SIZE, SIZE, 3) and pixels.dtype == np.float32
    grays = pixels.mean((1, 2, 3)) * 255
    np.testing.assert_allclose(grays, np.arange(12) * 20, atol=2)


def spoil(files):
    """Makes three images unreadable, in three ways, and returns their paths."""
    with open(files[1], "w") as file:
        file.write("text")
    open(files[6], "w").close()
    files[8] += ".gone"
    return [files[1], files[6], files[8]]


def test_a_pipe_hangs_nothing(files, caplog):
    os.remove(files[3])
    os.mkfifo(files[3])
    bad = pipeline.BadImages("skip")
    rows, _ = evaluated(build(files), bad_images=bad)
    assert rows.tolist() == [i for i in range(12) if i != 3]
    assert "not a file, but a pipe" in caplog.text


def test_skipping_names_each_image(files, caplog):
    spoiled = spoil(files)
    bad = pipeline.BadImages("skip")
    rows, _ = evaluated(build(files), bad_images=bad)
    assert rows.tolist() == [0, 2, 3, 4, 5, 7, 9, 10, 11]
    assert sorted(bad.counts) == sorted(spoiled)
    for path in spoiled:
        assert sum(path in r.getMessage() for r in caplog.records) == 1
    assert "0 bytes" in caplog.text and "does not exist" in caplog.text


def test_stopping_raises(files):
    spoil(files)
    with pytest.raises(tf.errors.OpError):
        evaluated(build(files), on_bad_image="stop")
    with pytest.raises(ValueError, match="Received: 'ignore'"):
        pipeline.BadImages("ignore")


def test_boxes_crop(tmp_path):
    image = np.zeros([20, 20, 3], np.uint8)
    image[5:15, 10:20] = 200
    Image.fromarray(image).save(tmp_path / "a.png")
    paths = [str(tmp_path / "a.png")] * 3
    boxes = np.float32([[10, 5, 20, 15], [0, 0, 10, 10], [np.nan] * 4])
    catalog = build(paths, boxes=boxes)
    _, pixels = evaluated(catalog)
    means = pixels.mean((1, 2, 3)) * 255
    np.testing.assert_allclose(means, [200, 0, 50], atol=1)
    _, whole = evaluated(catalog, use_boxes=False)
    np.testing.assert_allclose(whole.mean((1, 2, 3)) * 255, 50, atol=1)


def train(catalog, units="products", start=0, take=3, **more):
    sampler = GroupedSampler(
        catalog.products,
        catalog.categories,
        units=units,
        units_per_batch=3,
        images_per_product=2,
        seed=5,
    )
    batches = pipeline.training_batches(
        catalog,
        sampler,
        SIZE,
        Augmentation(),
        start_step=start,
        seed=5,
        rows_together=2 if units == "pairs" else 1,
        **more,
    )
    return list(batches.take(take).as_numpy_iterator())


def test_a_restart_repeats_pixels_and_labels(files):
    catalog = build(files)
    whole = train(catalog, take=5)
    for step in (1, 4):
        pixels, labels = train(catalog, start=step, take=1)[0]
        np.testing.assert_array_equal(pixels, whole[step][0])
        np.testing.assert_array_equal(labels, whole[step][1])
    assert not np.array_equal(whole[0][0], whole[1][0])


def test_labels_belong_to_their_images(files):
    plain = [(p, labels) for p, labels in train(build(files), take=4)]
    for pixels, labels in plain:
        assert labels.dtype == np.int32 and len(labels) == 6
        assert (np.bincount(labels, minlength=4) % 2 == 0).all()
        assert pixels.min() >= 0 and pixels.max() <= 1


def test_sides_come_with_the_labels(files):
    catalog = build(files)
    sides = np.arange(12) // 2 % 2
    (plain,) = train(catalog, take=1)
    (both,) = train(catalog, take=1, sides=sides)
    assert both[1].dtype == np.int32
    np.testing.assert_array_equal(both[1][:, 0], plain[1])
    rows = np.rint(both[0].mean((1, 2, 3)) * 255 / 20).astype(int)
    np.testing.assert_array_equal(both[1][:, 1], sides[rows])
    assert set(both[1][:, 1]) == {0, 1}


def test_branches_come_with_the_pixels(files):
    spoil(files)
    catalog = build(files)
    branches = np.arange(12) % 3
    for inputs, labels in train(catalog, take=4, branches=branches):
        pixels, branch = inputs["pixels"], inputs["branch"]
        assert branch.dtype == np.int32
        assert len(pixels) == len(branch) == len(labels)
        rows = np.rint(pixels.mean((1, 2, 3)) * 255 / 20).astype(int)
        np.testing.assert_array_equal(branch, branches[rows])


def test_a_bad_image_takes_its_partner_along(files):
    spoil(files)
    for _, labels in train(build(files), "pairs", take=6):
        assert len(labels) % 2 == 0
        np.testing.assert_array_equal(labels[::2], labels[1::2])
    lengths = {len(y) for _, y in train(build(files), "pairs", take=6)}
    assert min(lengths) < 6


def test_a_bmp_with_a_palette_gives_the_pixels_that_a_client_sends(tmp_path):
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    path = tmp_path / "a.bmp"
    image.save(path)
    _, pixels = evaluated(build([str(path)] * 3))
    want = np.broadcast_to(np.float32([200, 100, 50]) / 255, [8, 8, 3])
    np.testing.assert_allclose(pixels[0], want, atol=1e-5)
    sent = tf.constant(transcode.servable(path.read_bytes()))
    np.testing.assert_array_equal(
        pixels[0], preprocessing.load_image(sent, SIZE)
    )


def test_a_batch_that_has_lost_most_of_its_images_is_empty(files):
    for path in files[:6]:
        open(path, "w").close()
    whole = {len(labels) for _, labels in train(build(files), take=60)}
    # Of six images, two may be left out with their product's other image.
    assert whole <= {0, 3, 4, 5, 6} and 0 in whole and whole - {0, 6}
    for pixels, labels in train(build(files), "pairs", take=60):
        assert len(labels) in (0, 4, 6) and len(pixels) == len(labels)


def test_too_large_a_share_of_bad_images_ends_the_batches(files):
    """Half of the images go while training goes on."""
    bad = pipeline.BadImages("skip", max_share=0.25)
    catalog = build(files)
    sampler = GroupedSampler(
        catalog.products, catalog.categories, units_per_batch=3, seed=5
    )
    batches = iter(
        pipeline.training_batches(
            catalog, sampler, SIZE, Augmentation(), bad_images=bad
        )
    )
    for _ in range(3):
        next(batches)
    for path in files[:6]:
        open(path, "w").close()
    with pytest.raises(tf.errors.OpError):
        for _ in range(100):
            next(batches)
    assert "of 12 training images" in bad.error
    assert "the file is empty" in bad.error


def test_a_share_within_the_limit_does_not_end_the_batches(files):
    spoil(files)
    bad = pipeline.BadImages("skip", max_share=0.25)
    assert len(train(build(files), take=300, bad_images=bad)) == 300
    assert len(bad.counts) == 3 and not bad.error


def test_evaluation_is_never_ended_by_the_share(files):
    for path in files[1:]:
        open(path, "w").close()
    bad = pipeline.BadImages("skip", max_share=0.0)
    rows, _ = evaluated(build(files), bad_images=bad)
    assert rows.tolist() == [0] and len(bad.counts) == 11


@pytest.mark.parametrize("on_bad_image", ["skip", "stop"])
def test_the_reason_tells_the_pixels_that_are_allowed(
    files, caplog, on_bad_image
):
    bad = pipeline.BadImages(on_bad_image)
    Image.new("RGB", (40, 30)).save(files[3], "PNG")
    inputs = preprocessing.InputSpec(4, max_megapixels=0.001)
    batches = pipeline.evaluation_batches(
        build(files), inputs, 4, bad_images=bad
    )
    if on_bad_image == "skip":
        assert sum(len(rows) for rows, _ in batches) == 11
        told = caplog.text
    else:
        with pytest.raises(tf.errors.OpError):
            list(batches)
        told = bad.message
    assert "40 x 30 pixels has more than the 0.001 million" in told
