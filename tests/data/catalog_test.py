import numpy as np
import pandas as pd
import pytest

from tf_triplet.data.catalog import Catalog


def _frame(**columns):
    table = {
        "path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
        "product_id": ["shoe", "hat", "shoe", "bag"],
    }
    return pd.DataFrame({**table, **columns})


def _full():
    return Catalog.from_frame(
        _frame(
            category=["feet", "head", "feet", "hand"],
            domain=["shop", "street", "street", "shop"],
            split=["train", "test", "train", "test"],
            x1=[0, np.nan, 1, 2],
            y1=[0, np.nan, 1, 2],
            x2=[10, np.nan, 11, 12],
            y2=[20, np.nan, 21, 22],
        ),
        "shop",
    )


def test_labels_are_dense_int32_and_ids_are_the_owners():
    catalog = _full()

    assert len(catalog) == 4
    assert catalog.products.dtype == np.int32
    assert list(catalog.product_ids) == ["bag", "hat", "shoe"]
    assert list(catalog.products) == [2, 1, 2, 0]
    assert list(catalog.row_product_ids) == ["shoe", "hat", "shoe", "bag"]
    assert list(catalog.category_names[catalog.categories]) == [
        "feet",
        "head",
        "feet",
        "hand",
    ]
    assert catalog.boxes.dtype == np.float32
    assert np.isnan(catalog.boxes[1]).all()
    np.testing.assert_array_equal(catalog.boxes[2], [1, 1, 11, 21])


def test_absent_columns_have_one_empty_name_and_no_box():
    catalog = Catalog.from_frame(_frame(), "bare")

    for names in ("category_names", "domain_names", "split_names"):
        assert list(getattr(catalog, names)) == [""]
    assert catalog.boxes.shape == (4, 4)
    assert np.isnan(catalog.boxes).all()


def test_leading_zeros_are_kept():
    catalog = Catalog.from_frame(
        _frame(product_id=["00042", "42", "042", "42"]), "zeros"
    )

    assert list(catalog.product_ids) == ["00042", "042", "42"]


@pytest.mark.parametrize(
    "ids",
    [
        np.array([7, -3, 7, 2**62]),
        pd.array([7, -3, 7, 2**62], dtype="Int64"),
        np.array([7, -3, 7, 2**62], object),
        pd.Categorical([7, -3, 7, 2**62]),
    ],
    ids=["int64", "nullable", "object", "categorical"],
)
def test_integer_ids_stay_int64(ids):
    catalog = Catalog.from_frame(_frame(product_id=ids), "integers")

    assert catalog.product_ids.dtype == np.int64
    assert list(catalog.row_product_ids) == [7, -3, 7, 2**62]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", None, "b", "c"], "Row 1 has no product_id"),
        (["a", "b", float("nan"), "c"], "Row 2 has no product_id"),
        (["a", "b", "c", " "], "Row 3 has an empty product_id.*' '"),
        (["a", 5, "c", "d"], "Row 1 .*another kind.* Received: 5"),
        ([5, 6, "c", 7], "Row 2 .*another kind.* Received: 'c'"),
        ([1.5, 2.0, np.inf, 4.0], "Row 2 .*a rounded number.*Received: inf"),
        ([1.0, 2.0, 3.0, 2.0**53], "Row 3 .*a rounded number"),
        (["a", 2.5, "b", "c"], "Row 1 .*another kind.* Received: 2.5"),
        ([True, False, True, True], "Row 0 .*another kind.* Received: True"),
    ],
)
def test_bad_product_ids_are_refused_by_row(ids, message):
    with pytest.raises(ValueError, match=message):
        Catalog.from_frame(_frame(product_id=ids), "bad")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 5, 5, 9], "Row 2 has a box without area.*5.*9"),
        ([5, 9, 6, 8], "Row 2 has a box without area"),
        ([5, np.nan, 6, 8], "Row 2 needs four numbers"),
        ([5, np.inf, 6, 8], "Row 2 needs four numbers"),
        (["5", "five", "6", "8"], "Row 2 needs four numbers.*five"),
    ],
)
def test_bad_boxes_are_refused_by_row(box, message):
    columns = {
        name: np.array([0, 0, value, 0] if i < 2 else [1, 1, value, 1], object)
        for i, (name, value) in enumerate(zip(("x1", "y1", "x2", "y2"), box))
    }
    with pytest.raises(ValueError, match=message):
        Catalog.from_frame(_frame(**columns), "bad")


def test_partial_box_columns_are_refused():
    with pytest.raises(ValueError, match="Received: x1, y2"):
        Catalog.from_frame(_frame(x1=[0] * 4, y2=[1] * 4), "bad")


def test_missing_columns_are_named():
    with pytest.raises(ValueError, match="`path`.*missing.*Received: file, pr"):
        Catalog.from_frame(_frame().rename(columns={"path": "file"}), "bad")


@pytest.mark.parametrize("column", ["path", "split"])
def test_an_empty_required_string_is_refused(column):
    values = {column: ["a", "", "b", "c"]}
    with pytest.raises(ValueError, match=f"Row 1 has an empty `{column}`"):
        Catalog.from_frame(_frame(**values), "bad")


def test_a_split_called_all_is_refused():
    with pytest.raises(ValueError, match="'all'"):
        Catalog.from_frame(_frame(split=["all", "x", "x", "x"]), "bad")


@pytest.mark.parametrize("split", [True, False])
def test_frame_and_back_is_the_same_catalog(split):
    catalog = _full()
    if not split:
        frame = catalog.to_frame().drop(columns="split")
        catalog = Catalog.from_frame(frame, catalog.name)
    assert ("split" in catalog.to_frame()) == split
    again = Catalog.from_frame(catalog.to_frame(), catalog.name)

    for field in ("products", "categories", "domains", "splits", "boxes"):
        np.testing.assert_array_equal(
            getattr(again, field), getattr(catalog, field)
        )
    for field in ("paths", "product_ids", "category_names", "domain_names"):
        assert list(getattr(again, field)) == list(getattr(catalog, field))


def test_select_keeps_the_order_asked_for_and_is_dense():
    part = _full().select([3, 0, 2])

    assert list(part.paths) == ["d.jpg", "a.jpg", "c.jpg"]
    assert list(part.product_ids) == ["bag", "shoe"]
    assert list(part.products) == [0, 1, 1]
    assert list(part.category_names) == ["feet", "hand"]
    assert part.products.dtype == np.int32
    np.testing.assert_array_equal(part.boxes[0], [2, 2, 12, 22])


def test_select_takes_a_mask_and_may_be_empty():
    catalog = _full()

    assert list(catalog.select(catalog.products == 2).paths) == [
        "a.jpg",
        "c.jpg",
    ]
    assert len(catalog.select([])) == 0
    assert len(catalog.select(np.zeros(4, bool)).product_ids) == 0


def test_split_and_domain():
    catalog = _full()

    assert catalog.split("all") is catalog
    assert list(catalog.split("test").paths) == ["b.jpg", "d.jpg"]
    assert list(catalog.domain("shop").paths) == ["a.jpg", "d.jpg"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("split", "no split 'val'; it has 'test', 'train'"),
        ("domain", "no domain 'val'; it has 'shop', 'street'"),
    ],
)
def test_unknown_names_list_the_known_ones(kind, message):
    with pytest.raises(ValueError, match=message):
        getattr(_full(), kind)("val")


def test_arrays_are_write_protected_but_the_callers_are_not():
    boxes = np.zeros((0, 4), np.float32)
    empty = np.zeros(0, np.int32)
    names = np.zeros(0, object)
    labels = np.zeros(0, np.int32)
    catalog = Catalog(
        "empty", names, labels, names, empty, names, empty, names, empty,
        names, boxes,
    )  # fmt: skip

    for array in (_full().products, _full().boxes, catalog.boxes):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    assert boxes.flags.writeable


def test_lengths_must_agree():
    catalog = _full()
    with pytest.raises(ValueError, match="`boxes`.* 4.*Received: 3"):
        Catalog(**{**vars(catalog), "boxes": catalog.boxes[:3]})
