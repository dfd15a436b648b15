import logging
import sys

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data.sources import manifest, splits


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "abcd":
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"x")
    return tmp_path


def _write(folder, text, name="shop.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_every_column_is_read(images):
    path = _write(
        images,
        "path,product_id,category,domain,split,x1,y1,x2,y2\n"
        "images/a.jpg,shoe,feet,shop,train,1,2,30.5,40\n"
        'images/b.jpg,"hat, red",head,street,test,,,,\n',
    )
    catalog = manifest.read_manifest(path)

    assert catalog.name == "shop"
    assert list(catalog.row_product_ids) == ["shoe", "hat, red"]
    assert catalog.paths[0] == f"{images}/images/a.jpg"
    assert list(catalog.split("test").row_product_ids) == ["hat, red"]
    assert list(catalog.domain("shop").row_product_ids) == ["shoe"]
    assert list(catalog.category_names) == ["feet", "head"]
    np.testing.assert_array_equal(catalog.boxes[0], [1, 2, 30.5, 40])
    assert np.isnan(catalog.boxes[1]).all()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["00042", "7"], ["00042", "7"]),
        (["42", "-7"], [42, -7]),
        (["1.0", "2"], ["1.0", "2"]),
        (["NA", "null"], ["NA", "null"]),
        (["9" * 20, "1"], ["9" * 20, "1"]),
        (["12", "abc"], ["12", "abc"]),
    ],
)
def test_csv_ids_are_what_the_owner_wrote(images, written, read):
    lines = [f"images/a.jpg,{id_}" for id_ in written]
    path = _write(images, "\n".join(["path,product_id", *lines]) + "\n")

    ids = manifest.read_manifest(path).row_product_ids.tolist()

    assert ids == read


@pytest.mark.parametrize("ids", [["007", "x", "x", "y"], [7, 8, 8, 9]])
def test_parquet_keeps_its_types(images, ids):
    path = images / "shop.parquet"
    frame = pd.DataFrame(
        {
            "path": [f"images/{n}.jpg" for n in "abcd"],
            "product_id": ids,
            "price": 1.0,
        }
    )
    # An index of pandas' own is stored as a column of the file.
    frame.set_index("product_id").to_parquet(path)

    assert manifest.read_manifest(path).row_product_ids.tolist() == ids


def test_without_a_split_column_products_are_held_out(images):
    lines = [f"images/a.jpg,p{i // 2}" for i in range(40)]
    path = _write(images, "\n".join(["path,product_id", *lines]))
    catalog = manifest.read_manifest(path, test_fraction=0.25, seed=1)

    tested = splits.draw_by_hash(catalog.product_ids, 0.25, seed=1)
    assert set(catalog.split("test").product_ids) == set(
        catalog.product_ids[tested]
    )
    former = manifest.read_manifest(path, 0.25, 1, draw="permutation")
    assert len(former.split("test").product_ids) == 5
    assert not set(catalog.split("test").product_ids) & set(
        catalog.split("train").product_ids
    )


def test_the_paths_of_the_table_are_kept(images):
    path = _write(
        images,
        f"path,product_id\nimages/a.jpg,x\n{images}/images/a.jpg,y\n"
        f"file://{images}/images/b.jpg,z\n",
    )
    catalog = manifest.read_manifest(path)
    values = [
        "images/a.jpg",
        f"{images}/images/a.jpg",
        f"file://{images}/images/b.jpg",
    ]
    files = [f"{images}/images/{name}.jpg" for name in "aab"]
    assert catalog.paths.tolist() == files
    assert catalog.path_values.tolist() == values
    assert catalog.select([2, 0]).path_values.tolist() == values[::-2]


def test_absolute_paths_of_the_table_are_kept(images):
    path = _write(images, f"path,product_id\n{images}/images/a.jpg,x\n")
    catalog = manifest.read_manifest(path)
    assert catalog.path_values.tolist() == [f"{images}/images/a.jpg"]


def test_byte_order_mark_and_spaces_in_the_header(images):
    path = images / "shop.csv"
    path.write_bytes(
        "path, product_id\r\nimages/a.jpg,x\r\n".encode("utf-8-sig")
    )
    assert list(manifest.read_manifest(path).product_ids) == ["x"]


def test_extra_columns_are_ignored_with_one_note(images, caplog):
    path = _write(images, "path,product_id,price,color\nimages/a.jpg,x,1,red\n")
    with caplog.at_level(logging.INFO, logger="absl"):
        manifest.read_manifest(path)

    notes = [r for r in caplog.records if "ignoring" in r.getMessage()]
    assert len(notes) == 1
    assert "price, color" in notes[0].getMessage()


def test_a_misspelled_column_is_a_warning(images, caplog):
    path = _write(
        images, "path,product_id,catgory,price\nimages/a.jpg,x,1,red\n"
    )
    with caplog.at_level(logging.WARNING, logger="absl"):
        manifest.read_manifest(path)
    (told,) = caplog.records
    text = "ignoring the column 'catgory'; did you mean 'category'?"
    assert text in told.getMessage()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_extra_columns_are_kept_as_strings(images, kind, caplog):
    frame = pd.DataFrame(
        {
            "path": [f"images/{n}.jpg" for n in "abc"],
            "product_id": ["x", "y", "y"],
            "title": ["NA", None, "red hat, 2"],
            "price": [1.5, 2.0, 10.25],
            "shelf": 7,
        }
    )
    path = images / f"shop.{kind}"
    getattr(frame, f"to_{kind}")(path, index=False)
    with caplog.at_level(logging.INFO, logger="absl"):
        catalog = manifest.read_manifest(path, columns=("price", "title"))

    assert set(catalog.extras) == {"price", "title"}
    assert catalog.extras["title"].tolist() == ["NA", "", "red hat, 2"]
    assert catalog.extras["price"].tolist() == ["1.5", "2.0", "10.25"]
    assert catalog.select([2]).extras["title"].tolist() == ["red hat, 2"]
    assert "ignoring the columns shelf" in caplog.text


@pytest.mark.parametrize("name", ["color", "path"])
def test_an_extra_column_that_does_not_exist(images, name):
    path = _write(images, "path,product_id,price\nimages/a.jpg,x,1\n")
    with pytest.raises(
        ValueError, match=f"column '{name}'. Its extra columns are: price"
    ):
        manifest.read_manifest(path, columns=("price", name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,product_id\n", "has a header but no images"),
        ("file,sku\na.jpg,1\n", "'path' and 'product_id'.*file, sku"),
        ("pfad;artikel\na.jpg;1\n", "lacks the columns.*pfad, artikel"),
        ("path,product_id\nimages/a.jpg,x\n\n,y\n", "line 4 .*`path`"),
        ("path,product_id\nimages/a.jpg,\n", "line 2 .*empty product_id"),
        ("path,product_id\nimages/a.jpg\n", "line 2 has 1 cells"),
        ("path,product_id\na,b\na,b,c\n", "cannot be read"),
        ("path,product_id\na,b,c\na,b,c\n", "cannot be read"),
        (
            "path,product_id,split\nimages/a.jpg,x,train\nimages/b.jpg,y,\n",
            "line 3 has an empty `split`",
        ),
        ("path,product_id,x1,y1\nimages/a.jpg,x,1,1\n", "Received: x1, y1"),
        (
            "path,product_id,x1,y1,x2,y2\nimages/a.jpg,x,9,1,3,4\n",
            "line 2 has a box without area.*9, 1, 3, 4",
        ),
    ],
)
def test_unusable_tables_name_file_and_line(images, text, message):
    path = _write(images, text)
    with pytest.raises(ValueError, match=message) as error:
        manifest.read_manifest(path)
    assert str(path) in str(error.value)


def test_a_parquet_file_with_another_content(images):
    path = _write(images, "path,product_id\n", "shop.parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        manifest.read_manifest(path)


def test_without_a_working_pyarrow_the_error_says_so(images, monkeypatch):
    path = _write(images, "", "shop.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ValueError, match="needs a version of pyarrow.*or save.*csv"
    ):
        manifest.read_manifest(path)


def test_a_text_file_that_is_not_utf8(images):
    path = images / "shop.csv"
    path.write_bytes(b"path,product_id\na.jpg,\xff\xfe\n")
    with pytest.raises(ValueError, match="UTF-8"):
        manifest.read_manifest(path)


def test_a_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.csv.*does not exist"):
        manifest.read_manifest(tmp_path / "nowhere.csv")


def test_a_folder_in_place_of_a_manifest(tmp_path):
    with pytest.raises(ValueError, match="data.source=folder"):
        manifest.read_manifest(tmp_path)


def test_an_unknown_extension(tmp_path):
    path = _write(tmp_path, "path,product_id\n", "shop.xlsx")
    with pytest.raises(ValueError, match=r"\.csv or \.parquet.*shop\.xlsx"):
        manifest.read_manifest(path)


def test_images_that_do_not_exist(images):
    path = _write(images, "path,product_id\na.jpg,x\nb.jpg,y\n")
    with pytest.raises(FileNotFoundError, match="relative to the manifest"):
        manifest.read_manifest(path)


def test_one_missing_image_is_left_to_the_preflight(images):
    path = _write(images, "path,product_id\na.jpg,x\nimages/b.jpg,y\n")
    assert len(manifest.read_manifest(path)) == 2
