"""Attributes and landmarks of a table: kept, dense, and refused by row."""

import logging

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sources import consumer2shop, inshop, manifest

NAN = np.nan


def table(**columns):
    return pd.DataFrame(
        {"path": list("abc"), "product_id": [1, 1, 2], **columns}
    )


def annotated():
    return Catalog.from_frame(
        table(
            **{
                "attribute:red": [1, 0, -1],
                "attribute:long sleeve": [0, 1, NAN],
                "landmark1_x": [3, NAN, 5.5],
                "landmark1_y": [4, NAN, 6],
                "landmark1_visible": [NAN, NAN, 1],
                "landmark2_x": [NAN, 1, NAN],
                "landmark2_y": [NAN, 2, NAN],
                "landmark2_visible": [2, 0, NAN],
            }
        ),
        "test",
    )


def test_columns_become_arrays():
    catalog = annotated()
    assert catalog.attributes.dtype == np.int8
    np.testing.assert_array_equal(
        catalog.attributes, [[1, 0], [0, 1], [-1, -1]]
    )
    assert catalog.attribute_names.tolist() == ["red", "long sleeve"]
    assert catalog.landmarks.dtype == np.float32
    np.testing.assert_array_equal(
        catalog.landmarks,
        [
            [[3, 4, 0], [NAN, NAN, 2]],
            [[NAN] * 3, [1, 2, 0]],
            [[5.5, 6, 1], [NAN] * 3],
        ],
    )
    with pytest.raises(ValueError, match="read-only"):
        catalog.attributes[0] = 1


def test_select_keeps_annotations():
    some = annotated().select([2, 0])
    np.testing.assert_array_equal(some.attributes, [[-1, -1], [1, 0]])
    np.testing.assert_array_equal(some.landmarks[0, 0], [5.5, 6, 1])
    assert some.attribute_names.tolist() == ["red", "long sleeve"]


def test_frame_and_back_is_the_same_catalog():
    catalog = annotated()
    again = Catalog.from_frame(catalog.to_frame().assign(split="train"), "test")
    np.testing.assert_array_equal(again.attributes, catalog.attributes)
    np.testing.assert_array_equal(again.landmarks, catalog.landmarks)
    np.testing.assert_array_equal(
        again.attribute_names, catalog.attribute_names
    )


def test_a_table_without_annotations():
    catalog = Catalog.from_frame(table(), "test").select([0])
    assert catalog.attributes is None and catalog.attribute_names is None
    assert catalog.landmarks is None


def test_shapes_are_checked():
    frame = annotated()
    fields = {**vars(frame), "landmarks": np.zeros([3, 2, 2])}
    with pytest.raises(
        ValueError,
        match=r"`landmarks`.*\(3, 2, 3\).*Received: shape \(3, 2, 2\)",
    ):
        Catalog(**fields)
    fields = {**vars(frame), "attributes": np.zeros([3, 1], np.int8)}
    with pytest.raises(
        ValueError, match=r"`attributes`.*\(3, 2\).*Received: shape \(3, 1\)"
    ):
        Catalog(**fields)


@pytest.mark.parametrize(
    "header,second,message",
    [
        ("attribute:red", "2", "line 3 must have 1 .*'attribute:red'.*'2'"),
        (
            "landmark1_x,landmark1_y",
            "3,",
            "line 3 has an invalid landmark 1.*3, nan",
        ),
        ("landmark1_x,landmark1_y", "a,b", "line 3 .*Received: a, b"),
        (
            "landmark1_x,landmark1_y,landmark1_visible",
            "1,1,3",
            "line 3 has an invalid landmark 1.*1, 1, 3",
        ),
        (
            "landmark1_x,landmark1_y,landmark1_visible",
            ",,0",
            "line 3 .*a landmark that is cut off needs no x and y",
        ),
        (
            "landmark2_x,landmark2_y",
            "1,1",
            "The column 'landmark1_x' is missing",
        ),
        ("landmark1_x", "1", "The column 'landmark1_y' is missing"),
        ("attributes,attribute:red", "red,1", "not both"),
    ],
)
def test_manifest_errors_name_file_and_line(tmp_path, header, second, message):
    (tmp_path / "a.jpg").write_bytes(b"x")
    blank = "," * header.count(",")
    path = tmp_path / "shop.csv"
    path.write_text(
        f"path,product_id,{header}\na.jpg,1,{blank}\na.jpg,1,{second}\n"
    )
    with pytest.raises(ValueError, match=message) as caught:
        manifest.read_manifest(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_manifest_names_are_split(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = tmp_path / "shop.csv"
    path.write_text(
        "path,product_id,attributes,landmark1_x,landmark1_y\n"
        "a.jpg,1,red|long sleeve,3,4\n"
        "a.jpg,1,,,\n"
        "a.jpg,2,|,,\n"
        "a.jpg,2, red ,,\n"
    )
    catalog = manifest.read_manifest(path)
    assert catalog.attribute_names.tolist() == ["long sleeve", "red"]
    np.testing.assert_array_equal(
        catalog.attributes, [[1, 1], [-1, -1], [0, 0], [0, 1]]
    )
    np.testing.assert_array_equal(catalog.landmarks[0, 0], [3, 4, 0])
    assert np.isnan(catalog.landmarks[1:]).all()
    assert "ignoring" not in caplog.text


def test_an_empty_column_of_names_adds_no_attribute(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    path = tmp_path / "shop.csv"
    path.write_text("path,product_id,attributes\na.jpg,1,\na.jpg,2,\n")
    assert manifest.read_manifest(path).attributes is None


DRESS = "img/WOMEN/Dresses/id_00000002/02_1_front.jpg"
JEANS = "img/MEN/Denim/id_00000007/01_2_side.jpg"
SHIRT = "img/MEN/Shirts/id_00000009/01_2_side.jpg"
MARKS = " ".join(
    f"landmark_visibility_{i} landmark_location_x_{i} landmark_location_y_{i}"
    for i in range(1, 9)
)
CLOTH = "2\nattribute_name\nfloral   print \nslim\n"
ITEMS = "2\nitem_id attribute_labels\nid_00000007 -1  1\nid_00000002  1 0\n"


def landmarks(kind, *rows):
    text = f"{len(rows)}\nimage_name clothes_type {kind} {MARKS}\n"
    return text + "".join(f"{row}\n" for row in rows)


def tree(root, **lists):
    """An In-Shop folder with some lists of annotations."""
    rows = [(DRESS, "train"), (JEANS, "query"), (SHIRT, "gallery")]
    text = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    text += "".join(f"{p} {p.split('/')[3]} {s}\n" for p, s in rows)
    (root / "Anno").mkdir(parents=True)
    (root / "Anno" / "list_eval_partition.txt").write_text(text)
    for name, content in lists.items():
        (root / "Anno" / f"list_{name}.txt").write_text(content)
    return root


def test_inshop_lists_are_joined(tmp_path):
    marks = landmarks(
        "variation_type",
        f"{JEANS} 2 4 0 010 020 1 030 020 0 011 090 2 000 000",
        f"{DRESS} 3 1 " + " ".join(f"0 {i} {10 + i}" for i in range(8)),
        f"{SHIRT} 1 1 " + " ".join(f"0 {i} {10 + i}" for i in range(6)),
    )
    tree(tmp_path, attr_cloth=CLOTH, attr_items=ITEMS, landmarks_inshop=marks)
    catalog = inshop.read_inshop(tmp_path)
    assert catalog.attribute_names.tolist() == ["floral print", "slim"]
    # An image takes its item's; the shirt's item is not listed.
    np.testing.assert_array_equal(
        catalog.attributes, [[1, -1], [0, 1], [-1, -1]]
    )
    places = np.stack([np.arange(8), 10 + np.arange(8), np.zeros(8)], 1)
    np.testing.assert_array_equal(catalog.landmarks[0], places)
    # Lower body: waistline and hem, the places 5 to 8.
    np.testing.assert_array_equal(
        catalog.landmarks[1],
        [[NAN] * 3] * 4
        + [[10, 20, 0], [30, 20, 1], [11, 90, 0], [NAN, NAN, 2]],
    )
    # Upper body: no waistline.
    np.testing.assert_array_equal(
        catalog.landmarks[2, [0, 1, 2, 3, 6, 7]], places[:6]
    )
    assert np.isnan(catalog.landmarks[2, 4:6]).all()


@pytest.mark.parametrize(
    "name,old,new,message",
    [
        ("attr_items", "item_id attribute_labels\n", "", "line 2: expected"),
        ("attr_items", "-1  1", "-1", "line 3: .* 2 labels.*: 1 labels"),
        ("attr_items", "-1  1", "-1 5", "line 3: a label must be.*'5'"),
        ("landmarks_inshop", " 2 4 ", " 4 4 ", "line 3: clothes_type must"),
        ("landmarks_inshop", " 2 4 ", " 3 4 ", "line 3: .*have 8.*12 numbers"),
        (
            "landmarks_inshop",
            " 010",
            " O10",
            "line 3: a landmark must be three",
        ),
        ("landmarks_inshop", "2 000", "3 000", "line 3: .*must be.*'3'"),
        ("landmarks_inshop", "variation_type", "4", "line 2: expected"),
    ],
)
def test_inshop_errors_name_file_and_line(tmp_path, name, old, new, message):
    row = f"{JEANS} 2 4 0 010 020 1 030 020 0 011 090 2 000 000"
    lists = {
        "attr_cloth": CLOTH,
        "attr_items": ITEMS,
        "landmarks_inshop": landmarks("variation_type", row),
    }
    assert old in lists[name]
    lists[name] = lists[name].replace(old, new, 1)
    tree(tmp_path, **lists)
    with pytest.raises(ValueError, match=f"list_{name}.txt, {message}"):
        inshop.read_inshop(tmp_path)


def test_an_item_that_occurs_twice(tmp_path, caplog):
    again = "id_00000007 -1 1\nid_00000002 1 1\nid_00000002 1 -1\n"
    cloth = CLOTH.replace("slim", "floral print")
    tree(tmp_path, attr_cloth=cloth, attr_items=ITEMS + again)
    with caplog.at_level(logging.WARNING, logger="absl"):
        catalog = inshop.read_inshop(tmp_path)
    assert catalog.attribute_names.tolist() == [
        "floral print",
        "floral print (2)",
    ]
    # One line says what the other says; two differ.
    np.testing.assert_array_equal(
        catalog.attributes, [[1, -1], [0, 1], [-1, -1]]
    )
    assert "1 items occur twice" in caplog.text
    assert "id_00000002" in caplog.text


def test_labels_without_names_are_an_error(tmp_path):
    tree(tmp_path, attr_items=ITEMS)
    with pytest.raises(FileNotFoundError, match="list_attr_cloth.txt"):
        inshop.read_inshop(tmp_path)


def test_consumer2shop_lists_are_joined(tmp_path):
    pair = [
        f"img/TOPS/T_Shirt/id_1/{name}.jpg" for name in ("comsumer_01", "shop")
    ]
    (tmp_path / "list_eval_partition.txt").write_text(
        "1\nimage_pair_name_1 image_pair_name_2 item_id evaluation_status\n"
        f"{pair[0]} {pair[1]} id_1 train\n"
    )
    # Its README: the name in Chinese, in English, and the type's number.
    (tmp_path / "list_attr_cloth.txt").write_text(
        "3\nattribute_name_cn attribute_name attribute_type\n"
        "\u7ea2\u8272 red 1\n\u957f(\u8896) (more) long sleeve 2\n"
        "\u8d64 red 1\n",
        encoding="utf-8",
    )
    (tmp_path / "list_attr_items.txt").write_text(
        "1\nitem_id attribute_labels\nid_1 -1 1 0\n"
    )
    (tmp_path / "list_landmarks_consumer2shop.txt").write_text(
        landmarks("variation_type", f"{pair[1]} 2 1" + " 0 7 8" * 4)
    )
    catalog = consumer2shop.read_consumer2shop(tmp_path)
    assert catalog.attribute_names.tolist() == ["red", "long sleeve", "red (2)"]
    assert catalog.paths[1].endswith("shop.jpg")
    np.testing.assert_array_equal(catalog.attributes, [[0, 1, -1]] * 2)
    assert np.isnan(catalog.landmarks[0]).all()
    np.testing.assert_array_equal(catalog.landmarks[1, 4:], [[7, 8, 0]] * 4)
    assert catalog.extras["pairs"].tolist() == [1, 1]
