"""Readers of the benchmarks, on tiny folders in the original formats."""

import json

import numpy as np
import pytest
import scipy.io

from tf_triplet import builders
from tf_triplet.data.sources import (
    cars196,
    consumer2shop,
    cub200,
    inshop,
    sop,
    street2shop,
)

SOP_HEADER = "image_id class_id super_class_id path\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sop_tree(root):
    write(
        root / "Ebay_train.txt",
        SOP_HEADER
        + "1 1 1 bicycle_final/111085122871_0.JPG\n"
        + "2 1 1 bicycle_final/111085122871_1.JPG\n"
        + "3 2 4 coffee_maker_final/5_0.JPG\n",
    )
    write(
        root / "Ebay_test.txt",
        SOP_HEADER
        + "59552 11319 12 toaster_final/7_0.JPG\n"
        + "59553 11319 12 toaster_final/7_1.JPG\n",
    )
    return root


def test_sop(tmp_path):
    catalog = sop.read_sop(sop_tree(tmp_path))
    assert catalog.row_product_ids.tolist() == [1, 1, 2, 11319, 11319]
    assert catalog.row_product_ids.dtype == np.int64
    names = catalog.category_names[catalog.categories].tolist()
    assert names == ["bicycle"] * 2 + ["coffee_maker"] + ["toaster"] * 2
    assert len(catalog.split("train")) == 3 and len(catalog.split("test")) == 2
    want = str(tmp_path / "bicycle_final" / "111085122871_0.JPG")
    assert catalog.paths[0] == want


@pytest.mark.parametrize(
    "text,message",
    [
        ("1 1 1 a.JPG\n", "line 1: expected the header"),
        (SOP_HEADER + "1 1 1\n", r"Ebay_test.txt, line 2: expected 4 columns"),
        (SOP_HEADER + "1 one 1 a/b.JPG\n", "line 2: class_id.*'one'"),
        (SOP_HEADER, "has no rows"),
    ],
)
def test_sop_errors_name_file_and_line(tmp_path, text, message):
    write(sop_tree(tmp_path) / "Ebay_test.txt", text)
    with pytest.raises(ValueError, match=message):
        sop.read_sop(tmp_path)


def test_a_folder_of_another_data_set(tmp_path):
    for read, _ in builders.BENCHMARKS.values():
        with pytest.raises(FileNotFoundError, match="contains none of"):
            read(tmp_path)


INSHOP_ROWS = [
    ("img/WOMEN/Dresses/id_00000002/02_1_front.jpg", "id_00000002", "train"),
    ("img/MEN/Denim/id_00000007/01_2_side.jpg", "id_00000007", "query"),
    ("img/MEN/Denim/id_00000007/01_1_front.jpg", "id_00000007", "gallery"),
]


def inshop_tree(root, partition="Eval", boxes="Anno", rows=INSHOP_ROWS):
    text = f"{len(rows)}\nimage_name item_id evaluation_status\n"
    # Padded with spaces, as the original is.
    text += "".join(f"{a:<70}{b} {c}  \n" for a, b, c in rows)
    write(root / partition / "list_eval_partition.txt", text)
    if boxes:
        text = "2\nimage_name clothes_type pose_type x_1 y_1 x_2 y_2\n"
        text += f"{rows[1][0]:<70}1 2 001 012 200 250\n"
        text += f"{rows[0][0]:<70}3 1 050 049 208 235\n"
        write(root / boxes / "list_bbox_inshop.txt", text)
    return root


@pytest.mark.parametrize("where", [("Eval", "Anno"), (".", ".")])
def test_inshop(tmp_path, where):
    catalog = inshop.read_inshop(inshop_tree(tmp_path, *where))
    ids = ["id_00000002", "id_00000007", "id_00000007"]
    assert catalog.row_product_ids.tolist() == ids
    names = catalog.category_names[catalog.categories].tolist()
    assert names == ["WOMEN/Dresses", "MEN/Denim", "MEN/Denim"]
    np.testing.assert_array_equal(
        catalog.boxes,
        [[50, 49, 208, 235], [1, 12, 200, 250], [np.nan] * 4],
    )
    test = catalog.split("test")
    assert len(test) == 2 and len(catalog.split("train")) == 1
    assert len(test.domain("query")) == len(test.domain("gallery")) == 1
    assert catalog.paths[0] == f"{tmp_path}/{INSHOP_ROWS[0][0]}"


def test_inshop_images_in_a_separate_folder(tmp_path):
    inshop_tree(tmp_path, boxes="")
    (tmp_path / "Img" / "img").mkdir(parents=True)
    catalog = inshop.read_inshop(tmp_path)
    assert catalog.paths[0] == f"{tmp_path}/Img/{INSHOP_ROWS[0][0]}"
    assert np.isnan(catalog.boxes).all()


def test_inshop_errors(tmp_path):
    rows = [*INSHOP_ROWS[:2], (*INSHOP_ROWS[2][:2], "gallary")]
    inshop_tree(tmp_path, rows=rows)
    with pytest.raises(ValueError, match="line 5: .*'gallary'"):
        inshop.read_inshop(tmp_path)


def test_a_subset_is_only_a_warning(tmp_path, caplog):
    caplog.set_level("WARNING", logger="absl")
    inshop_tree(tmp_path)
    path = tmp_path / "Eval" / "list_eval_partition.txt"
    write(path, path.read_text().replace("3\n", "52712\n", 1))
    assert len(inshop.read_inshop(tmp_path)) == 3
    assert "says 52712 rows, but it has 3" in caplog.text


def cub_tree(root):
    rows = [
        (1, "001.Black_footed_Albatross/a_1.jpg", 1),
        (2, "001.Black_footed_Albatross/._a_1.jpg", 1),
        (3, "100.Brown_Pelican/b.jpg", 100),
        (4, "101.White_Pelican/c.jpg", 101),
    ]
    write(root / "images.txt", "".join(f"{i} {p}\n" for i, p, _ in rows))
    write(
        root / "image_class_labels.txt",
        "".join(f"{i} {c}\n" for i, _, c in rows),
    )
    write(
        root / "bounding_boxes.txt",
        "".join(f"{i} {i}.0 2.0 10.0 20.0\n" for i, _, _ in rows),
    )
    return root


def test_cub(tmp_path):
    catalog = cub200.read_cub200(cub_tree(tmp_path))
    assert catalog.row_product_ids.tolist() == [1, 100, 101]
    assert len(catalog.split("train")) == 2 and len(catalog.split("test")) == 1
    np.testing.assert_array_equal(catalog.boxes[1], [3, 2, 13, 22])
    assert catalog.paths[2].endswith("images/101.White_Pelican/c.jpg")


def test_cub_image_without_a_class(tmp_path):
    write(cub_tree(tmp_path) / "image_class_labels.txt", "1 1\n3 100\n")
    with pytest.raises(ValueError, match="images.txt, line 4: .*'4'"):
        cub200.read_cub200(tmp_path)


PAIR_HEADER = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
SHIRT = "img/TOPS/T_Shirt/id_00000218"
PAIRS = [
    f"{SHIRT}/comsumer_01.jpg {SHIRT}/shop_01.jpg id_00000218 train",
    f"{SHIRT}/comsumer_02.jpg {SHIRT}/shop_01.jpg id_00000218 train",
    "img/DRESSES/Lace/id_1/comsumer_01.jpg img/DRESSES/Lace/id_1/shop_01.jpg "
    "id_1 test",
    "img/DRESSES/Lace/id_2/comsumer_01.jpg img/DRESSES/Lace/id_2/shop_01.jpg "
    "id_2 val",
]


def consumer2shop_tree(root, pairs=PAIRS):
    text = "\n".join([str(len(pairs)), PAIR_HEADER, *pairs]) + "\n"
    write(root / "Eval" / "list_eval_partition.txt", text)
    header = "image_name clothes_type source_type x_1 y_1 x_2 y_2"
    rows = [f"{SHIRT}/shop_01.jpg 1 1 010 020 200 210"]
    text = "\n".join([str(len(rows)), header, *rows]) + "\n"
    write(root / "Anno" / "list_bbox_consumer2shop.txt", text)
    return root


def test_consumer2shop(tmp_path):
    catalog = consumer2shop.read_consumer2shop(consumer2shop_tree(tmp_path))
    # The shop's image of two pairs is one image.
    assert len(catalog) == 7
    training = catalog.split("train")
    assert len(training.domain("consumer")) == 2
    shop = training.domain("shop")
    assert shop.paths.tolist() == [f"{tmp_path}/{SHIRT}/shop_01.jpg"]
    assert shop.boxes[0].tolist() == [10, 20, 200, 210]
    assert shop.category_names[shop.categories].tolist() == ["TOPS/T_Shirt"]
    assert len(catalog.split("val")) == len(catalog.split("test")) == 2
    assert len(catalog.split("val+test")) == 4
    with pytest.raises(ValueError, match="has no split 'tests'"):
        catalog.split("val+tests")
    assert shop.extras["pairs"].tolist() == [2]
    assert training.domain("consumer").extras["pairs"].tolist() == [1, 1]
    lines = builders.verify_counts("consumer2shop", catalog)
    assert lines == [
        "all: 7 images, PUBLISHED: 239,557 images",
        "pairs: 4 pairs, PUBLISHED: 195,540 pairs",
    ]


def street2shop_tree(root, **lists):
    entries = {
        "train_pairs_bags": [
            {
                "photo": 1,
                "product": 7,
                "bbox": {"left": 10, "top": 20, "width": 30, "height": 40},
            },
        ],
        "test_pairs_bags": [
            {
                "photo": 2,
                "product": 8,
                "bbox": {"left": 1, "top": 2, "width": 3, "height": 4},
            },
        ],
        "retrieval_bags": [
            {"photo": 11, "product": 7},
            {"photo": 12, "product": 8},
            {"photo": 13, "product": 9},
            {"photo": 14, "product": 9},
        ],
        "train_pairs_hats": [],
        # The same street photo, and the same number for another product.
        "test_pairs_hats": [
            {
                "photo": 2,
                "product": 7,
                "bbox": {"left": 5, "top": 5, "width": 0, "height": 9},
            },
            {"photo": 2, "product": 7},
        ],
        "retrieval_hats": [{"photo": 21, "product": 7, "bbox": None}],
        **lists,
    }
    for name, rows in entries.items():
        text = rows if isinstance(rows, str) else json.dumps(rows)
        write(root / "meta" / "json" / f"{name}.json", text)
    # Image 14 is gone from the web.
    for photo in (1, 2, 11, 12, 13, 21):
        write(root / "images" / f"{photo:09d}.jpeg", "")
    write(root / "images" / "notes.txt", "")
    return root


def test_street2shop(tmp_path, caplog):
    catalog = street2shop.read_street2shop(street2shop_tree(tmp_path))
    assert "1 of 9 images" in caplog.text
    table = [
        (
            int(path.split("/")[-1].split(".")[0]),
            product,
            catalog.domain_names[domain],
            catalog.split_names[split],
        )
        for path, product, domain, split in zip(
            catalog.paths,
            catalog.row_product_ids,
            catalog.domains,
            catalog.splits,
        )
    ]
    assert table == [
        (1, "bags/7", "street", "train"),
        (2, "bags/8", "street", "test"),
        (11, "bags/7", "shop", "train"),
        (11, "bags/7", "shop", "test"),
        (12, "bags/8", "shop", "test"),
        (13, "bags/9", "shop", "test"),
        (2, "hats/7", "street", "test"),
        (21, "hats/7", "shop", "test"),
    ]
    assert catalog.boxes[0].tolist() == [10, 20, 40, 60]
    assert np.isnan(catalog.boxes[2:]).all()
    assert list(catalog.category_names) == ["bags", "hats"]
    lines = builders.verify_counts("street2shop", catalog)
    assert [line.split(",")[0] for line in lines] == [
        "street: 2 images",
        "shop: 4 images",
        "pairs: 4 pairs",
    ]


@pytest.mark.parametrize(
    "lists,message",
    [
        ({"retrieval_bags": "{"}, "retrieval_bags.json is not valid JSON"),
        ({"retrieval_bags": {"photo": 1}}, "must contain a list.*dict"),
        (
            {"test_pairs_bags": [{"photo": 1, "product": 2}, {"photo": 3}]},
            r"test_pairs_bags.json, entry 1: expected photo, product",
        ),
        (
            {"retrieval_hats": [{"photo": 1, "product": 2, "bbox": {"x": 1}}]},
            "retrieval_hats.json, entry 0: .*bbox",
        ),
    ],
)
def test_street2shop_errors(tmp_path, lists, message):
    street2shop_tree(tmp_path, **lists)
    with pytest.raises(ValueError, match=message):
        street2shop.read_street2shop(tmp_path)


def test_street2shop_without_lists_or_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="retrieval_bags.json"):
        street2shop.read_street2shop(tmp_path)
    street2shop_tree(tmp_path)
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="000000001.jpg.*photos.txt"):
        street2shop.read_street2shop(tmp_path)
    (tmp_path / "meta" / "json" / "test_pairs_hats.json").unlink()
    with pytest.raises(FileNotFoundError, match="test_pairs_hats.json"):
        street2shop.read_street2shop(tmp_path)


@pytest.mark.parametrize(
    "pair,message",
    [
        (PAIRS[0].replace("train", "trial"), "line 7: .*'trial'"),
        (PAIRS[0].replace(" id_00000218", " id_9"), "lines 3 and 7: .*two"),
        (PAIRS[0].replace(" train", " test"), "lines 3 and 7: .*two"),
    ],
)
def test_consumer2shop_errors(tmp_path, pair, message):
    consumer2shop_tree(tmp_path, [*PAIRS, pair])
    with pytest.raises(ValueError, match=message):
        consumer2shop.read_consumer2shop(tmp_path)


def annotations(rows, name):
    kinds = [(c, "O") for c in (*cars196._CORNERS, "class", name)]
    table = np.zeros([1, len(rows)], kinds)
    for i, row in enumerate(rows):
        table[0, i] = row
    return {"annotations": table}


OLD = [
    (112, 7, 853, 717, 1, "car_ims/000001.jpg"),
    (48, 24, 441, 202, 98, "car_ims/000002.jpg"),
    (7, 4, 277, 180, 99, "car_ims/000003.jpg"),
]


def test_cars_in_the_old_layout(tmp_path):
    scipy.io.savemat(
        tmp_path / "cars_annos.mat", annotations(OLD, "relative_im_path")
    )
    catalog = cars196.read_cars196(tmp_path)
    assert catalog.row_product_ids.tolist() == [1, 98, 99]
    assert len(catalog.split("train")) == 2
    assert catalog.boxes[0].tolist() == [112, 7, 853, 717]
    assert catalog.paths[2] == f"{tmp_path}/car_ims/000003.jpg"


def test_cars_in_the_new_layout(tmp_path):
    (tmp_path / "devkit").mkdir()
    new = [(*row[:5], row[5].split("/")[1]) for row in OLD]
    training = tmp_path / "devkit" / "cars_train_annos.mat"
    scipy.io.savemat(training, annotations(new[:2], "fname"))
    test = tmp_path / "cars_test_annos_withlabels.mat"
    scipy.io.savemat(test, annotations(new[2:], "fname"))
    catalog = cars196.read_cars196(tmp_path)
    assert catalog.row_product_ids.tolist() == [1, 98, 99]
    assert catalog.paths[0] == f"{tmp_path}/cars_train/000001.jpg"
    assert catalog.paths[2] == f"{tmp_path}/cars_test/000003.jpg"
    unlabeled = annotations(OLD, "relative_im_path")
    scipy.io.savemat(test, unlabeled)
    with pytest.raises(ValueError, match="lacks fname"):
        cars196.read_cars196(tmp_path)


def test_counts_are_compared_with_the_published_ones(tmp_path, monkeypatch):
    catalog = inshop.read_inshop(inshop_tree(tmp_path))
    lines = builders.verify_counts("inshop", catalog)
    assert lines[1] == (
        "query: 1 images of 1 products, "
        "PUBLISHED: 14,218 images of 3,985 products"
    )
    monkeypatch.setitem(
        builders.BENCHMARKS,
        "inshop",
        (None, dict.fromkeys(("train", "query", "gallery"), (1, 1))),
    )
    lines = builders.verify_counts("inshop", catalog)
    assert len(lines) == 3 and all("as published" in line for line in lines)
    assert builders.verify_counts("emoji", catalog) == []
