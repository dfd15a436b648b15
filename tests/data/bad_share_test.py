"""When unreadable images end a training: how many, in how many batches."""

import numpy as np
import pytest

from tf_triplet.data import bad_images
from tf_triplet.data.bad_share import BadShare


def names(*numbers):
    return [f"{number}.jpg" for number in numbers]


def run(share, batches):
    """Adds batches, `{step: images}`; returns the step that ends it."""
    for step, images in batches.items():
        share.add(step, names(*images))
        if share.message:
            return step
    return None


def test_a_small_set_counts_against_all_its_images():
    # Of 64 images, 3 may be bad (4.7 %), however often each is drawn.
    always = {step: [step % 3] for step in range(500)}
    assert run(BadShare(0.05, 8, 64), always) is None
    always[500] = [3]
    share = BadShare(0.05, 8, 64)
    assert run(share, always) == 500
    assert share.message.startswith("4 of 64 training images (6.2 %) could not")


def test_a_large_set_counts_against_a_hundred_minibatches():
    share = BadShare(0.05, 8, 1_000_000)
    batches = {step: range(8 * step, 8 * step + 8) for step in range(7, 99)}
    assert run(share, batches) == 12  # 48 of 800 are more than 5 %.
    assert "48 of the 800 images of 100 minibatches (6 %)" in share.message
    assert "8 of 8 in the last one" in share.message


@pytest.mark.parametrize("every,ends", [(26, None), (24, 120)])
def test_only_the_last_hundred_minibatches_count(every, ends):
    """One bad image now and then, each time another one."""
    # 1 % of the 400 images of a hundred minibatches: the fifth is one too many.
    batches = {step: [step] for step in range(every, 1000, every)}
    assert run(BadShare(0.01, 4, 10_000), batches) == ends


def test_one_percent_never_ends_a_limit_of_five():
    random = np.random.default_rng(0)
    bad = random.random(100_000) < 0.01
    share = BadShare(0.05, 16, len(bad))
    for step in range(2000):
        drawn = random.choice(len(bad), 16, replace=False)
        share.add(step, names(*drawn[bad[drawn]]))
        assert not share.message


@pytest.mark.parametrize("images,ends", [(16, 3), (10_000, 101)])
def test_where_nothing_can_be_read_any_limit_ends(images, ends):
    # A product with one image brings it twice, so half of the paths differ.
    batches = {step: [0, 0, 1, 1, 2, 2, 3, 3] for step in range(2, 500)}
    assert run(BadShare(1.0, 8, images), batches) == ends
    # Not so if one image can be read in between.
    for step in list(batches):
        batches[step] = batches[step][: 8 - step % 2]
    assert run(BadShare(1.0, 8, images), batches) is None


def test_no_bad_image_is_allowed_with_zero():
    share = BadShare(0.0, 8, 10_000)
    assert not share.message
    share.add(0, names(1))
    assert share.message


def test_the_folder_that_is_gone_is_named(tmp_path):
    (tmp_path / "shop").mkdir()
    share = BadShare(0.0, 2, 8)
    lost = tmp_path / "shop" / "images"
    share.add(0, [str(lost / "a" / "1.jpg"), str(lost / "b" / "2.jpg")])
    assert f"The folder {lost} does not exist." in share.message
    # Some files of a folder are gone: they are named.
    lost.mkdir()
    assert "The folder" not in share.message
    share.add(1, [str(tmp_path / "shop" / "3.jpg")])
    assert f"{tmp_path / 'shop' / '3.jpg'}: the file does" in share.message
    assert "raise --config.data.max_bad_share" in share.message


def test_a_flood_of_bad_images_is_cut_short(caplog):
    bad = bad_images.BadImages("skip")
    for number in range(200):
        bad.report(f"{number}.jpg")
        bad.report("0.jpg")
    assert len(bad.counts) == 200 and bad.counts["0.jpg"] == 201
    assert len(caplog.records) == 51
    assert "--check lists them all" in caplog.records[-1].getMessage()
