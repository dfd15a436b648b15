"""Boxes that were measured in another way are noticed as a whole."""

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data import box_checks
from tf_triplet.data.catalog import Catalog

_RNG = np.random.default_rng(0)
SIZES = _RNG.integers(80, 300, (60, 2)).astype(float)


def _boxes(scale=1.0):
    """Boxes anywhere in images of `SIZES`."""
    low = _RNG.uniform(0.0, 0.5, (60, 2)) * SIZES
    high = low + _RNG.uniform(0.3, 1.0, (60, 2)) * (SIZES - low)
    return np.concatenate([low, high], axis=1) * scale


def _read(boxes):
    frame = pd.DataFrame(boxes, columns=["x1", "y1", "x2", "y2"])
    frame = frame.assign(path="a.jpg", product_id="p")
    return Catalog.from_frame(frame, "shop").boxes


def test_boxes_in_pixels_are_right():
    boxes = _boxes()
    np.testing.assert_array_equal(_read(boxes), boxes.astype(np.float32))
    assert box_checks.explain_outside(boxes, SIZES) == ""
    assert box_checks.explain_corner(boxes, SIZES) == ""


def test_boxes_of_whole_images_are_right():
    boxes = np.concatenate([np.zeros((60, 2)), SIZES], axis=1)
    assert box_checks.explain_outside(boxes, SIZES) == ""
    assert box_checks.explain_corner(boxes, SIZES) == ""


def test_shares_are_refused():
    shares = _boxes() / np.tile(SIZES, 2)
    with pytest.raises(ValueError, match="All 60 boxes.*shares.*multiply x1"):
        _read(shares)
    assert _read([[0, 0, 1, 1]]).tolist() == [[0, 0, 1, 1]]


def test_width_and_height_are_noticed_without_images():
    boxes = _boxes()
    boxes[:, 2:] -= boxes[:, :2]
    with pytest.raises(ValueError, match=r"of 60 boxes.*x2 by x1 \+ width"):
        _read(boxes)


def test_width_and_height_are_noticed_by_the_images():
    low = _RNG.uniform(0.05, 0.2, (60, 2)) * SIZES
    boxes = np.concatenate([low, SIZES - 2 * low], axis=1)
    assert _read(boxes).shape == (60, 4)
    text = box_checks.explain_corner(boxes, SIZES)
    assert "x, y, width and height" in text
    assert box_checks.explain_corner(boxes[:5], SIZES[:5]) == ""


def test_corners_that_changed_places():
    boxes = _boxes()[:, [2, 1, 0, 3]]
    with pytest.raises(ValueError, match="x1 and x2 have changed places"):
        _read(boxes)


def test_axes_that_changed_places():
    boxes = _boxes()[:, [1, 0, 3, 2]]
    text = box_checks.explain_outside(boxes, SIZES)
    assert "if x and y change places" in text


@pytest.mark.parametrize("scale", [2.0, 4.3])
def test_boxes_of_larger_images(scale):
    text = box_checks.explain_outside(_boxes(scale), SIZES)
    assert "another size" in text and "of 60 (" in text


def test_boxes_of_smaller_images():
    text = box_checks.explain_corner(_boxes(0.3), SIZES)
    assert "measured on smaller images" in text


def test_a_single_slip_is_no_pattern():
    boxes = _boxes()
    boxes[3, 2] += 200
    text = box_checks.explain_outside(boxes, SIZES)
    assert text.startswith("Boxes that leave their image: 1 of 60 (2 %).")
    assert "size," not in text
    boxes[4] = np.nan
    sizes = SIZES.copy()
    sizes[3] = 0  # An image that cannot be read has no size.
    assert box_checks.explain_outside(boxes, sizes) == ""
