"""Every choice of a field is one that the code behind the field accepts."""

import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet import builders
from tf_triplet.builders import objective
from tf_triplet.config import paper_config
from tf_triplet.data import bad_images, preprocessing
from tf_triplet.data.sampling import GroupedSampler
from tf_triplet.data.sources import splits
from tf_triplet.losses import (
    contrastive,
    distances,
    lifted,
    margin,
    proxy_base,
    supervised_contrastive,
    third_party,
    triplet,
)
from tf_triplet.models import (
    backbones,
    batch_norm,
    branched_encoder,
    branches,
    pooling,
    precisions,
)
from tf_triplet.retrieval import protocols, tie_groups
from tf_triplet.servable import saved_model, scann_index
from tf_triplet.training import learner_checks, schedules

# What each field selects from, written where it is selected.
REGISTRIES = {
    "data.source": (
        *("manifest", "folder", "emoji", "rendered"),
        *builders.BENCHMARKS,
    ),
    "data.split_draw": splits.DRAWS,
    "data.on_bad_image": bad_images.ON_BAD_IMAGE,
    "data.resize": preprocessing.RESIZE_METHODS,
    "model.backbone": (*backbones.BACKBONES, "imported"),
    "model.pooling": pooling.POOLINGS,
    "model.batch_norm": batch_norm.BATCH_NORMS,
    "model.branch_by": ("", *branches.CHOSEN_BY),
    "model.branches": branched_encoder.KINDS,
    "loss.name": (
        "triplet",
        *objective.LOSSES,
        *third_party.THIRD_PARTY_LOSSES,
    ),
    "loss.contrastive.reduction": contrastive.REDUCTIONS,
    "loss.contrastive.distance": distances.DISTANCES,
    "loss.lifted.variant": lifted.VARIANTS,
    "loss.lifted.distance": distances.DISTANCES,
    "loss.margin_loss.beta_per": margin.BETA_PER,
    "loss.margin_loss.sampling": margin.SAMPLINGS,
    "loss.supcon.variant": supervised_contrastive.VARIANTS,
    "loss.proxy_start": proxy_base.STARTS,
    "loss.mining": triplet.MININGS,
    "loss.distance": distances.DISTANCES,
    "loss.reduction": triplet.REDUCTIONS,
    "loss.scope": learner_checks.SCOPES,
    "evaluation.protocol": protocols.PROTOCOLS,
    "evaluation.ties": tie_groups.TIES,
    "export.index": saved_model.INDEXES,
    "export.storage": scann_index.STORAGES,
    "export.precision": precisions.PRECISIONS,
}


def sample(**changes):
    return GroupedSampler(
        np.repeat(np.arange(8), 4),
        np.zeros(32, int),
        **{"units": "products", "units_per_batch": 2, **changes},
    )


def scale(scaling):
    return backbones.scale_pixels(tf.keras.Input([8, 8, 3]), scaling)


# Where there is no list, the code that takes the value: it must accept every
# choice, and its error must list exactly these.
ACCEPTED_BY = {
    "sampling.units": lambda value: sample(units=value),
    "sampling.small_category": lambda value: sample(small_category=value),
    "sampling.category_draw": lambda value: sample(category_draw=value),
    "sampling.singletons": lambda value: sample(singletons=value),
    "model.input_scaling": scale,
    "optimizer.name": lambda value: schedules.build_optimizer(value, 0.1),
    "optimizer.schedule": lambda value: schedules.build_schedule(value, 1, 9),
}


def test_every_choice_is_compared_with_its_code():
    assert set(builders.CHOICES) == REGISTRIES.keys() | ACCEPTED_BY.keys()


@pytest.mark.parametrize("field", REGISTRIES)
def test_choices_are_those_of_the_registry(field):
    assert set(builders.CHOICES[field]) == set(REGISTRIES[field])


@pytest.mark.parametrize("field", ACCEPTED_BY)
def test_choices_are_those_that_are_accepted(field):
    for choice in builders.CHOICES[field]:
        ACCEPTED_BY[field](choice)
    with pytest.raises(ValueError, match="must be") as caught:
        ACCEPTED_BY[field]("unheard")
    listed = re.search("must be (?:one of )?(.*?)\\. ", str(caught.value))[1]
    assert set(re.split(", | or ", listed)) == set(builders.CHOICES[field])


@pytest.mark.parametrize("field", builders.CHOICES)
def test_the_default_is_a_choice(field):
    value = paper_config()
    for part in field.split("."):
        value = value[part]
    assert value in builders.CHOICES[field]


def test_choices_need_no_tensorflow():
    code = (
        "import sys; from tf_triplet import builders; builders.CHOICES; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_section_of_a_loss_holds_its_arguments():
    config = paper_config()
    for name, kind in objective.LOSSES.items():
        config.loss.name = name
        config.sampling.units = "pairs"
        settings = builders.build_loss(config).get_config()
        assert isinstance(builders.build_loss(config), kind)
        assert config.loss[name].to_dict().items() <= settings.items()
