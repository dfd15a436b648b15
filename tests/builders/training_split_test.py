"""Which products are trained on, and by which ones the step is chosen."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from tf_triplet import config as configs
from tf_triplet.builders import training_split
from tf_triplet.builders.training_split import split_again, split_for_training
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.validation_split import choose_validation

NAMES = [f"P{i:03}" for i in range(130)]


def config(**changes):
    made = configs.paper_config()
    made.sampling.units = "products"
    made.sampling.units_per_batch = 16
    made.loss.mining = "batch_hard"
    made.update_from_flattened_dict(changes)
    return made


def frame(names=NAMES, shots=2, split=None):
    """The first ten products are held out."""
    rows = [
        {
            "path": f"{name}-{shot}.jpg",
            "product_id": name,
            "category": f"c{int(name[1:]) % 3}",
            "domain": ("street", "shop")[shot % 2],
            "split": split or ("test" if name in NAMES[:10] else "train"),
        }
        for name in names
        for shot in range(shots)
    ]
    return pd.DataFrame(rows)


def catalog(*frames):
    table = pd.concat(frames, ignore_index=True) if frames else frame()
    return Catalog.from_frame(table, "shop")


def sets(split):
    validation = split.validation
    return (
        set(split.training.row_product_ids),
        set() if validation is None else set(validation.row_product_ids),
    )


def test_validation_products_come_out_of_the_training_products():
    split = split_for_training(config(), catalog())
    training, validation = sets(split)
    wanted = {NAMES[10 + i] for i in choose_validation(NAMES[10:], 0.1, 16)}
    assert validation == wanted and len(validation) == 20
    assert training == set(NAMES[10:]) - validation
    assert split.how == (
        "The step is chosen by recall@1 on 20 validation products, which "
        "were taken out of the training products."
    )
    record = split.products
    assert set(record.train) == training and record.images == 200
    assert set(record.validation) == validation
    assert record.train == tuple(split.training.product_ids)


def test_a_fraction_of_0_keeps_the_last_step():
    split = split_for_training(
        config(**{"data.validation_fraction": 0.0}), catalog()
    )
    assert sets(split) == (set(NAMES[10:]), set())
    assert split.how.startswith("The last step is kept")
    assert "`data.validation_fraction` is 0" in split.how


def test_too_few_products_keep_the_last_step():
    split = split_for_training(config(), catalog(frame(NAMES[:29])))
    assert sets(split) == (set(NAMES[10:29]), set())
    assert "fewer than 5 products" in split.how


@pytest.mark.parametrize(
    "units_per_batch,taken", [(90, 20), (108, 12), (117, 0)]
)
def test_a_minibatch_remains(units_per_batch, taken):
    split = split_for_training(
        config(**{"sampling.units_per_batch": units_per_batch}), catalog()
    )
    assert len(sets(split)[1]) == taken


@pytest.mark.parametrize("name", ["val", "validation"])
def test_the_split_of_the_table_is_taken(name):
    own = [f"V{i:03}" for i in range(6)]
    table = catalog(frame(), frame(own, split=name))
    split = split_for_training(config(), table)
    assert sets(split) == (set(NAMES[10:]), set(own))
    assert (
        f"6 validation products, which are those of the table's split {name!r}"
        in (split.how)
    )


def test_a_split_that_is_reported_does_not_choose_the_step():
    own = [f"V{i:03}" for i in range(6)]
    table = catalog(frame(), frame(own, split="val"))
    split = split_for_training(
        config(**{"evaluation.split": "val+test"}), table
    )
    assert not sets(split)[1] & set(own) and len(sets(split)[1]) == 20


def test_products_of_val_that_are_trained_on_do_not_choose_the_step():
    own = [f"V{i:03}" for i in range(6)]
    table = catalog(frame(), frame([*own, *NAMES[20:30]], split="val"))
    split = split_for_training(config(), table, earlier=["V000"])
    assert sets(split)[1] == set(own[1:])
    split = split_for_training(config(), table, earlier=["V000", "V001"])
    assert split.validation is None


def test_what_an_earlier_run_was_trained_on_does_not_choose_the_step():
    first = split_for_training(config(), catalog())
    second = split_for_training(
        config(), catalog(), earlier=first.products.trained, init_from="runs/a"
    )
    assert sets(second)[1] == sets(first)[1]
    second = split_for_training(
        config(), catalog(), earlier=first.products.validation
    )
    assert len(sets(second)[1]) == 20
    assert not sets(second)[1] & set(first.products.validation)
    none = split_for_training(config(), catalog(), earlier=NAMES)
    assert none.validation is None and "fewer than 5" in none.how


def test_a_product_with_one_image_cannot_be_found_and_is_not_taken():
    single = frame([f"S{i:03}" for i in range(200)], shots=1, split="train")
    split = split_for_training(config(), catalog(frame(), single))
    counts = split.validation.to_frame()["product_id"].value_counts()
    assert (counts == 2).all() and len(counts) == 20


def test_where_nothing_can_be_found_the_last_step_is_kept():
    split = split_for_training(
        config(
            **{
                "evaluation.query_domain": "street",
                "evaluation.gallery_domain": "web",
            }
        ),
        catalog(),
    )
    assert split.validation is None and "to find" in split.how


def test_the_domains_that_are_not_trained_on_still_validate():
    crossed = config(
        **{
            "sampling.query_domain": "street",
            "sampling.gallery_domain": "shop",
        }
    )
    table = frame(shots=3)
    table.loc[table.index % 3 == 2, "domain"] = "web"
    split = split_for_training(crossed, catalog(table))
    assert set(split.training.domain_names) == {"street", "shop"}
    assert set(split.validation.domain_names) == {"street", "shop", "web"}


def test_every_category_with_a_branch_keeps_a_product():
    table = frame()
    # A category of two products, which would both be taken.
    first = split_for_training(config(), catalog(table)).products.validation
    table.loc[table["product_id"].isin(first[:2]), "category"] = "rare"
    chosen = split_for_training(config(), catalog(table))
    assert "rare" not in chosen.training.category_names
    branched = config(**{"model.branch_by": "category"})
    chosen = split_for_training(branched, catalog(table))
    assert "rare" in chosen.training.category_names


def test_too_few_categories_for_a_minibatch_keep_the_last_step():
    table = frame(NAMES[:70], shots=1).assign(category="many")
    # These have just the products that a minibatch takes of each category.
    table.loc[table.index[50:60], "category"] = "few"
    table.loc[table.index[60:], "category"] = "scarce"
    table = pd.concat([table, table.assign(path=table["path"] + "2")])
    split = split_for_training(
        config(
            **{
                "sampling.categories_per_batch": 3,
                "sampling.units_per_batch": 30,
                "sampling.small_category": "exclude",
            }
        ),
        catalog(table),
    )
    assert sets(split) == (set(NAMES[10:70]), set())
    assert "than a minibatch needs" in split.how


def test_no_step_is_chosen_where_none_is_made():
    still = config(**{"training.steps": 0, "model.embedding_size": 0})
    split = split_for_training(still, catalog())
    assert split.validation is None and "is not trained" in split.how
    assert split.products.train == ()
    again = split_again(still, catalog(), split.products)
    assert again.products == split.products
    whitened = config(**{"training.steps": 0, "model.whitening": 8})
    split = split_for_training(whitened, catalog())
    assert set(split.products.train) == set(NAMES[10:])


def test_going_on_with_the_same_table_is_the_same_split():
    first = split_for_training(config(), catalog())
    again = split_again(config(), catalog(), first.products)
    assert again.products == first.products and sets(again) == sets(first)
    np.testing.assert_array_equal(
        again.training.products, first.training.products
    )


def test_labels_stay_with_their_products_when_the_table_changes():
    first = split_for_training(config(), catalog())
    gone = first.products.train[3]
    table = frame([n for n in NAMES if n != gone])
    table = catalog(frame(["A000", "Z000"], split="train"), table)
    again = split_again(config(), table, first.products)
    assert again.products.train == (*first.products.train, "A000", "Z000")
    assert again.products.validation == first.products.validation
    before = dict(zip(first.training.paths, first.training.products))
    after = dict(zip(again.training.paths, again.training.products))
    assert all(before[path] == after[path] for path in before if path in after)
    assert 3 not in again.training.products
    assert after["Z000-1.jpg"] == len(first.products.train) + 1


def test_labels_stay_when_a_column_of_numbers_becomes_text():
    table = frame()
    table["product_id"] = table["product_id"].str[1:].astype(int)
    first = split_for_training(config(), catalog(table))
    text = table.assign(product_id=table["product_id"].map("{:05}".format))
    held = frame(["X000"], split="test")
    again = split_again(config(), catalog(text, held), first.products)
    assert again.products.train == first.products.train
    np.testing.assert_array_equal(
        again.training.products, first.training.products
    )
    assert len(again.validation) == len(first.validation)


def test_a_validation_product_that_the_table_moves_to_training_leaves():
    own = [f"V{i:03}" for i in range(8)]
    first = split_for_training(
        config(), catalog(frame(), frame(own, split="val"))
    )
    moved = catalog(
        frame(), frame(own[2:], split="val"), frame(own[:2], split="train")
    )
    again = split_again(config(), moved, first.products)
    assert sets(again)[1] == set(own[2:])
    assert set(own[:2]) <= sets(again)[0]


def test_too_few_validation_products_left_keep_the_last_step():
    first = split_for_training(config(), catalog())
    left = set(first.products.validation[:4])
    table = frame(
        [n for n in NAMES if n in left or n not in first.products.validation]
    )
    again = split_again(config(), catalog(table), first.products)
    assert again.validation is None and "fewer than 5" in again.how
    # Nothing is chosen by them any more, so they are trained on.
    assert set(again.products.train) == set(first.products.train) | left


def test_a_run_without_a_record_trains_on_all():
    split = training_split.split_unrecorded(config(), catalog())
    assert sets(split) == (set(NAMES[10:]), set()) and split.products is None
    assert "earlier version" in split.how


def test_a_split_is_recorded(tmp_path):
    first = split_for_training(config(), catalog(), earlier=["old"])
    first.products.write(tmp_path)
    read = training_split.RunProducts.read(tmp_path)
    assert read == first.products
    assert dataclasses.replace(read, refit=True).trained >= set(read.validation)
