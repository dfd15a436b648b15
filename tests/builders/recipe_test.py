"""The fields that are chosen for a table and a machine."""

import numpy as np
import pytest

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.builders import Machine

PROCESSOR, GPU = Machine(), Machine(gpus=1, half_precision=True)


def resolve(products, each, machine=PROCESSOR, **fields):
    config = configs.base_config()
    config.data.path = "shop.csv"
    config.model.weights = "registry"
    config.update_from_flattened_dict(fields)
    builders.validate(config)
    rows = np.repeat(np.arange(products), each)
    chosen, choices = builders.resolve(config, rows, machine)
    # What is chosen goes together.
    builders.validate(builders.fill(chosen, configs.paper_config()))
    return chosen, {choice.field: choice for choice in choices}


def batch(config):
    sampling = config.sampling
    return sampling.units_per_batch * sampling.images_per_product


@pytest.mark.parametrize("each", [2, 3, 4, 9])
@pytest.mark.parametrize("products", [20, 60, 864, 5_000, 300_000])
@pytest.mark.parametrize("machine", [PROCESSOR, GPU])
def test_every_table_has_a_recipe(products, each, machine):
    config, choices = resolve(products, each, machine)
    left = set(builders.open_fields(config))
    assert left == {"augment.flip", "data.mirrored_is_same"}
    assert set(choices) | left == set(configs.CHOSEN_FIELDS)
    assert all(choice.reason for choice in choices.values())
    assert config.sampling.images_per_product == min(each, 4)
    # A quarter of the products may be set aside.
    assert config.sampling.units_per_batch <= products * 3 / 4
    if machine is PROCESSOR:
        assert batch(config) <= 64
        images = config.training.steps * batch(config)
        if config.model.whitening:
            images += min(config.model.whitening_images, products * each)
        assert images <= 12_800
        assert config.model.layer == "conv4_block6_out"
    else:
        assert config.model.layer == ""
        assert batch(config) <= 128
        assert 500 <= config.training.steps <= 20_000


def test_a_head_needs_images_to_begin_with():
    few, many = resolve(100, 4)[0].model, resolve(128, 4)[0].model
    assert (few.embedding_size, few.whitening) == (0, 0)
    assert (many.embedding_size, many.whitening) == (128, 128)


@pytest.mark.parametrize(
    "fields,want",
    [
        ({"model.embedding_size": 0}, {"model.whitening": 0}),
        ({"model.whitening": 64}, {"model.embedding_size": 64}),
        ({"model.learners": 4}, {"model.whitening": 0}),
        ({"model.weights": "random"}, {"model.batch_norm": "train"}),
        (
            {"sampling.categories_per_batch": 5},
            {"sampling.units_per_batch": 15},
        ),
        ({"data.image_size": 96}, {"data.image_size": 96}),
        ({"data.image_size": 96}, {"model.layer": "conv4_block6_out"}),
        ({"data.image_size": 128}, {"model.layer": ""}),
        ({"model.layer": "conv3_block4_out"}, {"model.pooling": "average_max"}),
        ({"model.weights": "random"}, {"model.layer": ""}),
        ({"model.learners": 4}, {"model.layer": ""}),
        ({"model.backbone": "resnet50v2"}, {"model.layer": ""}),
        ({"training.steps": 50}, {"optimizer.warmup_steps": 5}),
        ({"optimizer.learning_rate": 0.5}, {"optimizer.learning_rate": 0.5}),
    ],
)
def test_the_user_s_fields_stay_and_the_others_follow(fields, want):
    config, choices = resolve(864, 4, **fields)
    assert not set(fields) & set(choices)
    for field, value in want.items():
        assert builders.get_field(config, field) == value


def test_a_resolved_config_stays_as_it_is():
    config = resolve(864, 4)[0]
    saved = configs.from_json(configs.to_json(config))
    assert builders.open_fields(saved) == [
        "data.mirrored_is_same",
        "augment.flip",
    ]
    config = configs.paper_config()
    assert builders.resolve(config, np.zeros(3))[1] == []


def test_an_open_config_is_refused_where_it_would_be_used():
    with pytest.raises(ValueError, match="training.steps.*`builders.resolve`"):
        builders.build_encoder(configs.base_config())


def test_a_wrong_value_beside_open_fields_is_refused():
    with pytest.raises(ValueError, match="`optimizer.learning_rate` must be"):
        resolve(864, 4, **{"optimizer.learning_rate": 0.0})
