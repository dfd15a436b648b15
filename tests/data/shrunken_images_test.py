"""Training images that are stored shrunk: pixels, changes, damage, speed."""

import os

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from PIL import Image

from tf_triplet.data import (
    Augmentation,
    Catalog,
    GroupedSampler,
    decoding,
    pipeline,
    shrunken_images,
)

PLAIN = Augmentation(probability=0.0, random_resize=False)


@pytest.fixture
def paths(tmp_path):
    random = np.random.default_rng(3)
    found = []
    for number, kind in enumerate(["png", "jpg", "webp", "bmp"] * 2):
        coarse = random.integers(0, 256, (5, 7, 3), np.uint8)
        image = Image.fromarray(coarse).resize((140, 100), Image.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        more = {} if kind == "bmp" else {"exif": exif}
        found.append(str(tmp_path / f"{number}.{kind}"))
        image.save(found[-1], **more)
    return found


def batches(paths, cache_dir="", steps=4, augmentation=PLAIN, **more):
    rows = {"path": paths, "product_id": [f"p{i // 2}" for i in range(8)]}
    catalog = Catalog.from_frame(pd.DataFrame(rows), "shop")
    sampler = GroupedSampler(
        catalog.products,
        catalog.categories,
        units_per_batch=2,
        images_per_product=2,
    )
    dataset = pipeline.training_batches(
        catalog, sampler, 16, augmentation, cache_dir=str(cache_dir), **more
    )
    return [pixels.numpy() for pixels, _ in dataset.take(steps)]


def stored(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_first_epoch_has_the_pixels_of_all_others(paths, tmp_path):
    cache, augmentation = tmp_path / "cache", Augmentation()
    first = batches(paths, cache, augmentation=augmentation)
    files = stored(cache)
    assert 1 <= len(files) <= 8
    times = [os.stat(path).st_mtime_ns for path in files]
    again = batches(paths, cache, augmentation=augmentation)
    np.testing.assert_array_equal(first, again)
    assert stored(cache) == files
    assert [os.stat(path).st_mtime_ns for path in files] == times
    direct = batches(paths, augmentation=augmentation)
    gaps = np.abs(np.stack(first) - np.stack(direct))
    # Single pixels of a random resize method differ more.
    assert gaps.mean() < 0.03


def read(path, cache, side=16):
    images = shrunken_images.ShrunkenImages(cache, side)
    return images.read(
        tf.constant(str(path)), lambda size: (decoding.whole(size), False)
    ).pixels.numpy()


@pytest.mark.parametrize("number", range(4))
def test_a_changed_image_is_read_anew(paths, tmp_path, number):
    path, cache = paths[number], tmp_path / "cache"
    before = read(path, cache)
    np.testing.assert_array_equal(before, read(path, cache))
    when = os.stat(path)
    Image.new("RGB", (140, 100), (9, 90, 200)).save(path)
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))
    after = read(path, cache).astype(int)
    assert np.abs(after - [9, 90, 200]).max() < 4
    # The former is still there, and so is one of another size.
    assert min(read(path, cache, side=50).shape[:2]) == 50
    assert len(stored(cache)) == 3


def test_what_is_damaged_in_the_folder_is_made_again(paths, tmp_path):
    first = read(paths[0], tmp_path / "cache")
    (path,) = stored(tmp_path / "cache")
    for damaged in (b"", path.read_bytes()[:-1], bytes(99)):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(first, read(paths[0], tmp_path / "cache"))


def test_a_folder_that_cannot_be_written_stops_nothing(paths, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert read(paths[0], tmp_path / "cache").any()
    assert "cannot be stored in" in caplog.text


def test_bad_images_are_not_stored(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ValueError, match="not a readable image"):
        read(tmp_path / "a.jpg", tmp_path / "cache")
    with pytest.raises(tf.errors.OpError):
        read(tmp_path / "gone.jpg", tmp_path / "cache")
    assert not stored(tmp_path / "cache")


def test_crops_have_enough_pixels():
    images = shrunken_images.ShrunkenImages.for_crops("x", 16, 0.3, 32)
    assert images.side == 54


def test_boxes_need_the_whole_image(paths, tmp_path):
    rows = {"path": paths, "product_id": ["a"] * 4 + ["b"] * 4}
    rows |= dict(zip(("x1", "y1", "x2", "y2"), (1, 1, 50, 50)))
    frame = pd.DataFrame(rows)
    catalog = Catalog.from_frame(frame, "shop")
    sampler = GroupedSampler(
        catalog.products,
        catalog.categories,
        units_per_batch=2,
        images_per_product=2,
    )
    with pytest.raises(ValueError, match="use_boxes=False. Received: 'x'"):
        pipeline.training_batches(catalog, sampler, 16, PLAIN, cache_dir="x")
    pipeline.training_batches(
        catalog, sampler, 16, PLAIN, cache_dir="x", use_boxes=False
    )


def test_windows_are_those_of_the_whole_image(paths, tmp_path):
    images = shrunken_images.ShrunkenImages(tmp_path / "cache", side=20)
    window = tf.constant([10, 20, 50, 120])
    for _ in range(2):
        image = images.read(tf.constant(paths[0]), lambda size: (window, False))
        assert image.size.numpy().tolist() == [100, 140]
        assert image.window.numpy().tolist() == [10, 20, 50, 120]
        assert image.pixels.shape.as_list() == [8, 20, 3]
    whole = decoding.decode(
        tf.io.read_file(paths[0]), lambda size: (window, True), 1
    ).pixels
    small = tf.image.resize(whole, [8, 20], "area").numpy()
    assert np.abs(small - image.pixels.numpy()).max() <= 1
