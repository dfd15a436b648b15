"""The products of a run: decided once, and guarded when the table changes."""

import dataclasses
import json

import pandas as pd
import pytest

from tf_triplet import config as configs
from tf_triplet.builders import RunProducts
from tf_triplet.data.catalog import Catalog
from tf_triplet.workflows.train_products import (
    check_init_from,
    decide_products,
    store_products,
)

NAMES = [f"P{i:02}" for i in range(60)]


def config(**changes):
    made = configs.paper_config()
    made.sampling.units = "products"
    made.sampling.units_per_batch = 8
    made.loss.mining = "batch_hard"
    made.update_from_flattened_dict(changes)
    return made


def catalog(names=NAMES, **columns):
    rows = [
        {
            "path": f"{name}-{shot}.jpg",
            "product_id": name,
            "category": f"c{int(name[1:]) % 2}",
            "split": "test" if int(name[1:]) < 10 else "train",
        }
        for name in names
        for shot in range(2)
    ]
    return Catalog.from_frame(pd.DataFrame(rows).assign(**columns), "shop")


def begin(workdir, made=None, table=None, **more):
    split = decide_products(
        made or config(), workdir, table or catalog(), begun=False, **more
    )
    store_products(workdir, split)
    return split


def go_on(workdir, table, made=None, **more):
    return decide_products(made or config(), workdir, table, begun=True, **more)


def test_what_was_decided_is_read_when_the_run_goes_on(tmp_path):
    first = begin(tmp_path)
    again = go_on(tmp_path, catalog())
    assert again.products == first.products == RunProducts.read(tmp_path)
    assert again.how == first.how


@pytest.mark.parametrize(
    "names,told",
    [
        ([*NAMES, "P99"], "1 product was added \\(P99\\)"),
        ([n for n in NAMES if n != "P20"], "1 product was removed \\(P20\\)"),
        (
            [n.replace("P20", "P99") for n in NAMES],
            "was added \\(P99\\); 1 product was removed \\(P20\\)",
        ),
    ],
    ids=["added", "removed", "replaced by another"],
)
def test_a_changed_table_is_an_error_with_the_difference(tmp_path, names, told):
    first = begin(tmp_path)
    table = catalog(names)
    with pytest.raises(ValueError, match=f"{told}.*--accept_new_catalog"):
        go_on(tmp_path, table)
    accepted = go_on(tmp_path, table, accept_new_catalog=True)
    # By id, never by position.
    assert accepted.products.train[: len(first.products.train)] == (
        first.products.train
    )
    assert accepted.products.validation == first.products.validation or (
        "P20" in first.products.validation
    )
    store_products(tmp_path, accepted)
    assert go_on(tmp_path, table).products == accepted.products


def test_other_images_of_a_product_are_a_change(tmp_path):
    begin(tmp_path)
    table = catalog().to_frame()
    table.loc[table["product_id"] == "P20", "path"] += ".new"
    with pytest.raises(ValueError, match="1 product has other images.*P20"):
        go_on(tmp_path, Catalog.from_frame(table, "shop"))


def test_a_new_set_of_validation_products_forgets_the_best_value(tmp_path):
    first = begin(tmp_path)
    gone = first.products.validation[0]
    (tmp_path / "best.json").write_text("{}")
    same = go_on(tmp_path, catalog([*NAMES, "P99"]), accept_new_catalog=True)
    store_products(tmp_path, same)
    assert (tmp_path / "best.json").exists()
    table = catalog([n for n in NAMES if n != gone])
    fewer = go_on(tmp_path, table, accept_new_catalog=True)
    assert (
        len(fewer.validation.product_ids) == len(first.products.validation) - 1
    )
    # A complete run is not evaluated again.
    store_products(tmp_path, fewer, goes_on=False)
    assert (tmp_path / "best.json").exists()
    first.products.write(tmp_path)
    store_products(tmp_path, fewer)
    assert not (tmp_path / "best.json").exists()


def test_a_lost_record_is_named(tmp_path):
    with pytest.raises(ValueError, match="products.json is missing"):
        go_on(tmp_path, catalog())


def test_a_run_of_an_earlier_version_has_no_record(tmp_path):
    old = config(
        **{"data.split_draw": "permutation", "data.validation_fraction": 0.0}
    )
    split = go_on(tmp_path, catalog(), old)
    assert split.validation is None and "earlier version" in split.how
    assert set(split.training.product_ids) == set(NAMES[10:])
    store_products(tmp_path, split)
    assert RunProducts.read(tmp_path) is None


def test_heads_of_categories_cannot_change(tmp_path):
    branched = config(**{"model.branch_by": "category"})
    begin(tmp_path, branched)
    table = catalog(category="c7")
    with pytest.raises(
        ValueError, match="branch_by=category.*c7. The run began with: c0, c1"
    ):
        go_on(tmp_path, table, branched, accept_new_catalog=True)


def test_attributes_that_are_learned_cannot_change(tmp_path):
    learned = config(**{"loss.attribute_weight": 1.0})
    begin(tmp_path, learned, catalog(**{"attribute:red": 1}))
    table = catalog(**{"attribute:blue": 1})
    with pytest.raises(ValueError, match="attribute_weight.*blue.*with: red"):
        go_on(tmp_path, table, learned)


def test_another_run_s_products_are_recorded(tmp_path):
    first = begin(tmp_path)
    (tmp_path / "second").mkdir()
    second = begin(tmp_path / "second", init_from=str(tmp_path))
    assert set(second.products.earlier) == first.products.trained
    assert second.products.init_from == str(tmp_path)
    assert second.products.trained >= first.products.trained
    # A third run knows of both.
    (tmp_path / "third").mkdir()
    third = begin(
        tmp_path / "third",
        table=catalog([f"P{i}" for i in range(200, 260)]),
        init_from=str(tmp_path / "second"),
    )
    assert set(third.products.earlier) >= first.products.trained


def test_a_run_never_validates_what_a_run_before_was_trained_on(tmp_path):
    whole = config(**{"data.validation_fraction": 0.0})
    begin(tmp_path, whole, catalog(NAMES[:40]))
    (tmp_path / "second").mkdir()
    second = begin(tmp_path / "second", init_from=str(tmp_path))
    validation = set(second.products.validation)
    assert len(validation) == 12 and validation <= set(NAMES[40:])
    (tmp_path / "none").mkdir()
    none = begin(
        tmp_path / "none", table=catalog(NAMES[:40]), init_from=str(tmp_path)
    )
    assert none.validation is None


def test_a_refit_run_was_trained_on_its_validation_products(tmp_path):
    first = begin(tmp_path)
    dataclasses.replace(first.products, refit=True).write(tmp_path)
    (tmp_path / "second").mkdir()
    second = begin(tmp_path / "second", init_from=str(tmp_path))
    assert set(second.products.earlier) == set(NAMES[10:])


def test_an_imported_encoder_of_a_run_counts_as_a_run_before(tmp_path):
    whole = config(**{"data.validation_fraction": 0.0})
    begin(tmp_path, whole)
    imported = config(
        **{
            "model.backbone": "imported",
            "model.path": str(tmp_path / "encoder.keras"),
        }
    )
    (tmp_path / "head").mkdir()
    head = begin(tmp_path / "head", imported)
    assert set(head.products.earlier) == set(NAMES[10:])
    assert head.validation is None


def test_a_run_before_that_has_no_record_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="products.json.*earlier version"):
        begin(tmp_path, init_from=str(tmp_path / "old"))


def test_a_run_cannot_go_on_from_another_encoder(tmp_path):
    begin(tmp_path)
    with pytest.raises(ValueError, match="from weights of its own.*--init_fr"):
        go_on(tmp_path, catalog(), init_from="/runs/other")
    (tmp_path / "second").mkdir()
    begin(tmp_path / "second", init_from=str(tmp_path))
    go_on(tmp_path / "second", catalog(), init_from=str(tmp_path))


def test_what_init_from_may_be(tmp_path):
    check_init_from(config(), tmp_path, "")
    with pytest.raises(ValueError, match="the folder of another run"):
        check_init_from(config(), tmp_path, str(tmp_path.resolve()))
    still = config(**{"training.steps": 0})
    with pytest.raises(ValueError, match="`training.steps` is 0"):
        check_init_from(still, tmp_path, "/runs/other")


def test_the_record_is_complete_json(tmp_path):
    begin(tmp_path)
    saved = json.loads((tmp_path / "products.json").read_text())
    assert {"format", "table", "train", "validation", "earlier", "images"} <= (
        saved.keys()
    )
