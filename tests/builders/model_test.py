"""The config's choices, as they reach sampler and catalog."""

import dataclasses

import numpy as np
import pytest
import reference
import tensorflow as tf

from tf_triplet import builders, evaluation
from tf_triplet.config import paper_config
from tf_triplet.losses.ensemble import EnsembleLoss
from tf_triplet.models import branches


def catalog():
    domains = ["street", "shop", "studio"] * 6
    return reference.catalog(
        [f"{i}.png" for i in range(18)],
        [f"p{i // 3}" for i in range(18)],
        domain=domains,
        split=["train"] * 12 + ["test"] * 6,
    )


def config(**changes):
    made = paper_config()
    made.sampling.units_per_batch = 2
    made.update_from_flattened_dict(changes)
    return made


def test_two_domains_train_on_these_alone():
    crossed = config(
        **{
            "sampling.query_domain": "street",
            "sampling.gallery_domain": "shop",
        }
    )
    training = builders.training_catalog(crossed, catalog())
    assert set(training.domain_names) == {"street", "shop"}
    assert len(training) == 8 and set(training.split_names) == {"train"}
    sides = builders.sampling_sides(crossed, training)
    names = training.domain_names[training.domains]
    np.testing.assert_array_equal(sides, names == "shop")
    sampler = builders.build_sampler(crossed, training)
    assert sampler.units == 4
    rows = sampler.batch(0)
    np.testing.assert_array_equal(sides[rows], [0, 1, 0, 1])
    crossed.sampling.pool_domains = True
    assert len(builders.training_catalog(crossed, catalog())) == 8
    assert builders.sampling_sides(crossed, training) is None


def test_branches_are_the_sampled_domains_or_the_trained_categories():
    crossed = config(
        **{
            "sampling.query_domain": "street",
            "sampling.gallery_domain": "shop",
        }
    )
    training = builders.training_catalog(crossed, catalog())
    assert builders.build_branches(crossed, training) is None
    crossed.model.branch_by = "domain"
    found = builders.build_branches(crossed, training)
    # By name: the catalog sorts its own, and the shop would come first.
    assert found.names == ("street", "shop") and found.default == "street"
    rows = evaluation.branch_of_rows(found, training)
    sides = builders.sampling_sides(crossed, training)
    np.testing.assert_array_equal(rows, sides)
    with pytest.raises(ValueError, match="no branch for domain 'studio'"):
        evaluation.branch_of_rows(found, catalog())
    crossed.model.branch_by = "category"
    with pytest.raises(ValueError, match="catalog 'test' names none. Add"):
        builders.build_branches(crossed, training)
    frame = training.to_frame().assign(category=["hats", "bags"] * 4)
    named = type(training).from_frame(frame, "test")
    found = builders.build_branches(crossed, named)
    assert found == branches.Branches("category", ("bags", "hats"))


def test_one_domain_pools_all():
    training = builders.training_catalog(config(), catalog())
    assert len(training) == 12
    assert builders.sampling_sides(config(), training) is None


def test_an_unknown_domain_lists_the_known():
    wrong = config(
        **{
            "sampling.query_domain": "web",
            "sampling.gallery_domain": "shop",
        }
    )
    with pytest.raises(ValueError, match="no domain 'web'; it has 'shop'"):
        builders.training_catalog(wrong, catalog())


def test_sampling_options_reach_the_sampler():
    several = config(
        **{
            "sampling.categories_per_batch": 2,
            "sampling.units": "products",
        }
    )
    with pytest.raises(ValueError, match="`categories_per_batch` is 2"):
        builders.build_sampler(several, catalog())
    mixed = config(**{"sampling.mixed_draws": 3})
    plain = builders.build_sampler(config(), catalog())
    dealt = builders.build_sampler(mixed, catalog())
    assert any((plain.batch(i) != dealt.batch(i)).any() for i in range(3))


def test_learners_make_an_ensemble_and_its_loss(tmp_path):
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            tf.keras.layers.Conv2D(4, 3, 4, name="first"),
            tf.keras.layers.Conv2D(4, 3, name="second"),
        ]
    ).save(tmp_path / "net.keras")
    made = config(
        **{
            "data.image_size": 32,
            "model.backbone": "imported",
            "model.path": str(tmp_path / "net.keras"),
            "model.embedding_size": 6,
            "model.learners": 2,
            "model.attention_at": "first",
            "model.pooling": "max",
            "loss.divergence_margin": 0.5,
            "loss.divergence_weight": 0.25,
        }
    )
    encoder = builders.build_encoder(made)
    assert encoder.output_shape == (None, 6)
    assert encoder.get_layer("attended_1").output.shape[1:] == (8, 8, 4)
    pool = encoder.get_layer("pool")
    assert isinstance(pool, tf.keras.layers.GlobalMaxPooling2D)
    loss = builders.build_loss(made)
    assert isinstance(loss, EnsembleLoss)
    settings = loss.get_config()
    assert settings["learners"] == 2
    assert settings["divergence_margin"] == 0.5
    assert settings["divergence_weight"] == 0.25
    assert settings["base"]["config"]["mining"] == "paper"
    made.model.learners = 0
    assert not isinstance(builders.build_loss(made), EnsembleLoss)
    made.model.layer = "first"
    baseline = builders.build_baseline(made)
    assert baseline.get_layer("pool").input_shape == (None, 8, 8, 4)


def test_a_named_network_ends_at_a_layer():
    made = config(
        **{
            "data.image_size": 32,
            "model.backbone": "mobilenetv3small",
            "model.weights": "random",
            "model.layer": "expanded_conv_1/Add",
            "model.embedding_size": 0,
        }
    )
    with pytest.raises(ValueError, match="no layer 'expanded_conv_1/Add'"):
        builders.build_encoder(made)
    made.model.layer = "expanded_conv_2/Add"
    encoder = builders.build_encoder(made)
    assert encoder.get_layer("pool").input_shape == (None, 4, 4, 24)
    made.model.layer = ""
    assert builders.build_encoder(made).output_shape == (None, 576)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_imported_model_in_float32_is_told(tmp_path, caplog, policy):
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        inputs = tf.keras.Input([32, 32, 3])
        outputs = tf.keras.layers.Conv2D(4, 3)(inputs)
        tf.keras.Model(inputs, outputs).save(tmp_path / "net.keras")
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    made = config(
        **{
            "data.image_size": 32,
            "model.backbone": "imported",
            "model.path": str(tmp_path / "net.keras"),
            "model.embedding_size": 6,
            "training.mixed_precision": True,
        }
    )
    builders.build_network(made, catalog())
    told = any("compute in float32" in r.message for r in caplog.records)
    assert told == (policy == "float32")


def test_neural_codes_need_a_width():
    headless = config(**{"model.embedding_size": 0})
    with pytest.raises(ValueError, match="pass --components=<k>"):
        builders.build_neural_codes(headless, catalog())


def annotated():
    rows = np.arange(18)
    return reference.catalog(
        [f"{i}.png" for i in rows],
        [f"p{i // 3}" for i in rows],
        split=["train"] * 12 + ["test"] * 6,
        **{
            "attribute:red": np.where(rows < 12, rows % 2, -1),
            "attribute:long": 1,
            "landmark1_x": 1.0,
            "landmark1_y": 2.0,
        },
    )


def small_backbone():
    layers = tf.keras.layers
    return tf.keras.Sequential(
        [tf.keras.Input([8, 8, 3]), layers.Conv2D(4, 3, 2)]
    )


def test_tasks_are_what_the_weights_say():
    assert builders.build_tasks(config(), catalog()) is None
    weighed = config(
        **{"loss.landmark_weight": 2.0, "loss.attribute_positive_weight": 3.0}
    )
    tasks = builders.build_tasks(weighed, annotated())
    assert tasks.targets == ("landmarks",)
    assert tasks.landmark_weight == 2.0 and tasks.attribute_weight == 0
    assert tasks.attribute_positive_weight == 3.0


@pytest.mark.parametrize(
    "field,message",
    [
        ("attribute_weight", "have no attributes. Add the column `attributes`"),
        ("landmark_weight", "have no landmarks. Add the columns landmark1_x"),
    ],
)
def test_a_task_without_its_columns(field, message):
    weighed = config(**{f"loss.{field}": 0.5})
    with pytest.raises(ValueError, match=f"`loss.{field}` is 0.5 .*{message}"):
        builders.build_tasks(weighed, catalog())
    # Columns without a single annotation do no better.
    nobody = dataclasses.replace(
        annotated(),
        attributes=np.full([18, 2], -1, np.int8),
        landmarks=np.full([18, 1, 3], np.nan, np.float32),
    )
    with pytest.raises(ValueError, match=message):
        builders.build_tasks(weighed, nobody)


def test_heads_have_the_width_of_the_catalog(tmp_path):
    small_backbone().save(tmp_path / "net.keras")
    weighed = config(
        **{
            "data.image_size": 8,
            "model.backbone": "imported",
            "model.path": str(tmp_path / "net.keras"),
            "model.embedding_size": 3,
            "model.landmark_features": 5,
            "loss.attribute_weight": 1.0,
            "loss.landmark_weight": 1.0,
        }
    )
    network = builders.build_network(weighed, annotated())
    learner = builders.build_learner(weighed, network, annotated())
    shapes = {n: v.shape[1:] for n, v in learner.network.output.items()}
    assert shapes == {
        "attributes": [2],
        "places": [1, 2],
        "visibility": [1],
        "embeddings": [3],
    }
    weighed.model.landmark_features = 0
    weighed.loss.attribute_weight = weighed.loss.landmark_weight = 0.0
    network = builders.build_network(weighed, annotated())
    learner = builders.build_learner(weighed, network, annotated())
    assert learner.network is None
