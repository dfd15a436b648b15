"""What a run was trained on, and what changed in its table since."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from tf_triplet.builders import run_products
from tf_triplet.builders.run_products import RunProducts, TableDifference
from tf_triplet.data.catalog import Catalog


def frame(products=6, shots=2, root="/shop", spell="P{:03}".format):
    rows = [
        {
            "path": f"{root}/pics/{product}-{shot}.jpg",
            "product_id": spell(product),
            "category": "bags",
            "domain": ("street", "shop")[shot % 2],
            "split": "train" if product else "test",
        }
        for product in range(products)
        for shot in range(shots)
    ]
    return pd.DataFrame(rows)


def catalog(table=None, root="/shop"):
    table = frame() if table is None else table
    made = Catalog.from_frame(table, "shop")
    return dataclasses.replace(made, root=root)


def products_of(made, **more):
    return RunProducts(
        **{
            "train": ("P001", "P002", "P003"),
            "validation": ("P004", "P005"),
            "how": "The step is chosen by recall@1.",
            "digests": run_products.digest_products(made),
            "images": 6,
            **more,
        }
    )


def test_the_file_gives_back_what_was_written(tmp_path):
    written = products_of(catalog(), earlier=("A",), categories=("bags",))
    written.write(tmp_path)
    assert RunProducts.read(tmp_path) == written
    saved = json.loads((tmp_path / "products.json").read_text())
    assert saved["format"] == 1
    assert saved["table"] == run_products.table_fingerprint(catalog())
    assert saved["train"] == ["P001", "P002", "P003"]
    assert [path.name for path in tmp_path.iterdir()] == ["products.json"]


def test_a_folder_of_an_earlier_version_has_none(tmp_path):
    assert RunProducts.read(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"format": 2}', '{"format": 1}']
)
def test_an_unreadable_file_is_named(tmp_path, text):
    (tmp_path / "products.json").write_text(text)
    with pytest.raises(ValueError, match="products.json cannot be.*--noresume"):
        RunProducts.read(tmp_path)


def test_the_same_table_in_another_place_and_order_is_no_change():
    record = products_of(catalog())
    moved = frame(root="/elsewhere/deep").sample(frac=1, random_state=0)
    moved = catalog(moved, "/elsewhere/deep")
    assert not record.difference(moved)
    assert run_products.table_fingerprint(moved) == record.table
    assert str(record.difference(moved)) == "nothing changed"


def test_without_a_root_the_shared_folder_does_not_matter():
    record = products_of(catalog(root=""))
    assert not record.difference(catalog(frame(root="/else"), root=""))


def test_added_removed_and_replaced_products_are_told():
    record = products_of(catalog())
    table = frame(8)
    table = table[table["product_id"] != "P002"]
    table.loc[table["product_id"] == "P003", "path"] += ".new"
    found = record.difference(catalog(table))
    assert found == TableDifference(("P006", "P007"), ("P002",), ("P003",))
    assert str(found) == (
        "2 products were added (P006, P007); 1 product was removed (P002); "
        "1 product has other images, categories, domains or splits (P003)"
    )


@pytest.mark.parametrize("column", ["category", "domain", "split"])
def test_another_category_domain_or_split_is_a_change(column):
    table = frame()
    table.loc[2, column] = "other"
    found = products_of(catalog()).difference(catalog(table))
    assert found.replaced == ("P001",)
    assert (
        run_products.table_fingerprint(catalog(table))
        != products_of(catalog()).table
    )


def test_a_message_names_the_first_few():
    names = tuple(f"P{i}" for i in range(1200))
    assert str(TableDifference(removed=names)) == (
        "1,200 products were removed (P0, P1, P2, P3, P4, ...)"
    )


def test_numbers_that_became_text_are_the_same_products():
    record = products_of(catalog(frame(spell="{:05}".format)), train=("1", "2"))
    # One id that is no number makes the column text.
    table = pd.concat(
        [frame(spell="{:05}".format), frame(1, spell="A{}".format)]
    )
    found = record.difference(catalog(table))
    assert (found.added, found.removed) == (("A0",), ())
    trained = record.was_trained(catalog(table))
    names = catalog(table).product_ids[trained].tolist()
    assert names == ["00001", "00002"]


def test_what_was_trained_on():
    record = products_of(catalog(), earlier=("P000", "gone"))
    assert record.was_trained(catalog()).tolist() == [True] * 4 + [False] * 2
    refit = dataclasses.replace(record, refit=True)
    assert refit.was_trained(catalog()).all()


def test_validation_images_are_of_the_split_they_were_taken_from():
    table = frame()
    table.loc[8, "split"] = "test"  # One image of P004.
    images = products_of(catalog()).validation_images(catalog(table))
    assert images.product_ids.tolist() == ["P004", "P005"]
    assert len(images) == 3


def test_labels_follow_the_recorded_order():
    whole = catalog()
    training = whole.split("train")
    names = run_products.product_names(training, whole)
    order = ["P005", "gone", "P003", "P001", "P002", "P004"]
    again = run_products.relabel(training, names, order)
    assert again.product_ids.tolist() == order
    np.testing.assert_array_equal(
        again.row_product_ids, training.row_product_ids
    )
    assert again.products[-1] == 0 and 1 not in again.products


def test_two_spellings_of_one_id_become_one_product():
    table = frame(3, shots=1)
    table["product_id"] = ["P1", " P1", "P2"]
    made = catalog(table)
    names = run_products.product_names(made, made)
    again = run_products.relabel(made, names, ["P1", "P2"])
    assert again.products.tolist() == [0, 0, 1]


def test_numbers_are_recognized_in_a_part_of_a_column_of_text():
    table = frame(2, shots=1)
    table["product_id"] = ["001", "A"]
    whole = catalog(table)
    part = whole.select([0])
    assert run_products.product_names(part, whole).tolist() == ["001"]


@pytest.mark.parametrize(
    "field,value",
    [
        ("train", "P001"),
        ("train", [1, 2]),
        ("validation", None),
        ("how", ["text"]),
        ("digests", {"P001": 7}),
        ("images", "6"),
        ("refit", "no"),
    ],
)
def test_a_value_of_another_kind_is_named(tmp_path, field, value):
    products_of(catalog()).write(tmp_path)
    path = tmp_path / "products.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=f"products.json .*'{field}'"):
        RunProducts.read(tmp_path)
