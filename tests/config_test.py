"""Configs: defaults hold together, and a bad value names its field."""

import importlib.util
from pathlib import Path

import pytest

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.workflows import study as studies

FOLDER = Path(__file__).parent.parent / "configs"


def usable():
    config = configs.paper_config()
    config.data.path = "shop.csv"
    return config


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=str)
def test_every_config_file_is_valid(path):
    module = load(path)
    config = module.get_config()
    # Where a benchmark lies, its user says.
    assert config.data.source in ("emoji", "rendered") or not config.data.path
    config.data.path = "somewhere"
    builders.validate(config)
    assert "Command:" in module.__doc__


def test_json_round_trip():
    config = usable()
    config.loss.margin = 0.3
    again = configs.from_json(configs.to_json(config))
    assert configs.difference(config, again) == []


def test_difference_shows_field_and_values():
    other = usable()
    other.loss.margin = 0.3
    assert configs.difference(usable(), other) == ["loss.margin: 0.1 -> 0.3"]


def test_unknown_saved_field_is_an_error():
    text = configs.to_json(usable()).replace('"margin"', '"magrin"')
    with pytest.raises(ValueError, match="magrin"):
        configs.from_json(text)


@pytest.mark.parametrize(
    "field,value,message",
    [
        ("loss.mining", "hard", "`loss.mining` must be one of paper"),
        ("sampling.units_per_batch", 0, "`sampling.units_per_batch` must be"),
        ("sampling.units", "products", "needs `sampling.units=pairs`"),
        ("data.path", "", "pass --config.data.path"),
        ("optimizer.boundaries", (5, 2), "rising positive steps"),
        ("evaluation.query_domain", "street", "go together"),
        ("model.backbone", "imported", "needs `model.path`"),
        ("evaluation.ks", (), "positive ranks"),
        ("evaluation.protocol", "per_pair", "needs `evaluation.query_domain`"),
        ("sampling.gallery_domain", "shop", "`sampling.gallery_domain` go"),
        ("sampling.categories_per_batch", 3, "must divide"),
        ("sampling.mixed_draws", 0, "at least 1"),
        ("model.branch_by", "color", "one of empty, domain, category"),
        ("model.branch_by", "domain", "two domains that are not pooled"),
        ("model.branches", "weights", "needs `model.branch_by`"),
        ("model.pooling", "mean", "`model.pooling` must be one of average"),
        ("model.learners", 3, "`model.learners` must divide.*3 and 512"),
        ("model.attention_at", "conv", "needs `model.learners` of at least 2"),
        ("model.whitening", 64, "must be the same. Received: 64 and 512"),
        ("training.steps", 0, "Set `model.embedding_size=0`"),
        ("training.steps", -1, "`training.steps` must be at least 0"),
        ("loss.divergence_margin", -1.0, "must be at least 0"),
        ("model.landmark_features", 8, "needs `loss.landmark_weight`"),
        ("loss.attribute_weight", -0.1, "`loss.attribute_weight` must be"),
        ("loss.attribute_positive_weight", 0.0, "must be more than 0"),
        ("export.storage", "bfloat16", "`export.storage` must be one of fl"),
        ("loss.margin", -0.1, "`loss.margin` must be at least 0. Received: -0"),
        ("loss.arguments", {"margin": 1.0}, "is for a loss of your own"),
        (
            "loss.name",
            "tripplet",
            "pn, tfsim_soft_nn, module:Name .code of your own.. Received",
        ),
    ],
)
def test_a_bad_value_is_named(field, value, message):
    config = usable()
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(ValueError, match=message):
        builders.validate(config)


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {"model.branch_by": "category", "model.branches": "networks"},
            "needs `model.branch_by=domain`. Received: 'category'",
        ),
        (
            {"model.branch_by": "category", "model.embedding_size": 0},
            "`model.branches=heads` needs `model.embedding_size`",
        ),
        (
            {"model.branch_by": "category", "model.branches": "weights"},
            "`model.branches=weights` .* needs `model.embedding_size=0`. "
            "Received: 512",
        ),
        (
            {
                "model.branch_by": "category",
                "model.branches": "weights",
                "model.embedding_size": 0,
            },
            "`model.batch_norm=frozen`. Received: 'train'",
        ),
        (
            {
                "model.branch_by": "domain",
                "sampling.query_domain": "street",
                "sampling.gallery_domain": "shop",
                "sampling.pool_domains": True,
            },
            "pool_domains=True. Name both",
        ),
        (
            {"loss.name": "proxy_nca", "loss.memory_size": 500},
            "`loss.memory_size` needs a loss .* Received: proxy_nca_loss, w",
        ),
        (
            {"loss.memory_size": 100},
            "must be at least the size of a minibatch, 128 images. Rec.*: 100",
        ),
        (
            {
                "loss.name": "tfsim_pn",
                "sampling.query_domain": "street",
                "sampling.gallery_domain": "shop",
            },
            "`loss.name=tfsim_pn` cannot tell two domains apart. ",
        ),
        (
            {"loss.attribute_weight": 1.0, "training.micro_batch": 8},
            "`training.micro_batch` does not work with `loss.attribute_weight` "
            "or `loss.landmark_weight`.*Received: micro_batch=8. Set it to 0",
        ),
        (
            {"loss.landmark_weight": 2.0, "model.learners": 2},
            "`loss.landmark_weight` do not go with `model.learners`: "
            ".*0.0 and 2.0, and model.learners=2. Set model.learners=0, or",
        ),
        (
            {"loss.landmark_weight": 2.0, "model.branch_by": "category"},
            "do not go with `model.branch_by`: .*='category'. Set "
            "model.branch_by='', or both weights",
        ),
        (
            {
                "loss.attribute_weight": 1.0,
                "training.steps": 0,
                "model.embedding_size": 0,
            },
            "`training.steps=0` learns nothing: set `loss.attribute_weight` "
            "and `loss.landmark_weight` to 0. Received: 1.0 and 0.0",
        ),
        (
            {"model.branch_by": "category", "model.learners": 2},
            "`model.branch_by` does not go with `model.learners`",
        ),
        (
            {
                "model.backbone": "imported",
                "model.path": "net.keras",
                "model.learners": 2,
            },
            "`model.learners` .*backbone=imported needs `model.attention_at`",
        ),
        (
            {"loss.name": "contrastive", "loss.contrastive.margin": -1.0},
            "`loss.contrastive.margin` must be above 0",
        ),
        (
            {"loss.name": "lifted", "loss.lifted.margin": -1.0},
            "`loss.lifted.margin` must be at least 0",
        ),
        (
            {"loss.name": "margin_loss", "loss.margin_loss.beta": 3.0},
            "`loss.margin_loss.beta` .*Received: 3.0",
        ),
        (
            {"loss.name": "tfa_npairs", "sampling.units": "products"},
            "`loss.name=tfa_npairs` .* needs `sampling.units=pairs`",
        ),
        (
            {
                "loss.name": "margin_loss",
                "loss.margin_loss.learn_beta": False,
                "optimizer.loss_learning_rate": 0.1,
            },
            "`optimizer.loss_learning_rate` .*margin_loss has none",
        ),
        (
            {"loss.memory_size": 500, "loss.scope": "replica"},
            "needs `loss.scope=global`. Received: 'replica'",
        ),
        (
            {"sampling.categories_per_batch": 2, "sampling.mixed_draws": 2},
            "`sampling.mixed_draws` must be at least 1, and 1 with several",
        ),
        (
            {"evaluation.protocol": "leave_one_out"}
            | {
                "evaluation.query_domain": "street",
                "evaluation.gallery_domain": "shop",
            },
            "`evaluation.protocol=leave_one_out` has no domains",
        ),
        (
            {"model.whitening": 512, "model.learners": 2},
            "`model.whitening` and `model.learners` do not go together",
        ),
        (
            {"training.steps": 0, "model.learners": 2},
            "`training.steps=0` learns nothing",
        ),
        (
            {"export.storage": "int8", "export.index": "exact"},
            "`export.storage=int8` is how .* Received: 'exact'",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named(changes, message):
    config = usable()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        builders.validate(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.branch_by": "category"},
        {
            "model.branch_by": "domain",
            "model.branches": "networks",
            "sampling.query_domain": "street",
            "sampling.gallery_domain": "shop",
        },
        {
            "model.branch_by": "category",
            "model.branches": "weights",
            "model.embedding_size": 0,
            "model.batch_norm": "frozen",
        },
    ],
)
def test_branches_that_do_go_together(changes):
    config = usable()
    config.update_from_flattened_dict(changes)
    builders.validate(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.pooling": "gem"},
        {"model.whitening": 512},
        {"model.learners": 1},
        {"loss.name": "contrastive", "loss.memory_size": 128},
        {"loss.name": "proxy_nca", "optimizer.loss_learning_rate": 0.1},
        {"sampling.query_domain": "street", "sampling.gallery_domain": "shop"},
    ],
)
def test_tasks_do_go_together_with(changes):
    config = usable()
    config.loss.attribute_weight = config.loss.landmark_weight = 1.0
    config.model.landmark_features = 8
    config.update_from_flattened_dict(changes)
    builders.validate(config)


@pytest.mark.parametrize("size,whitening", [(0, 0), (64, 64)])
def test_no_training_of_features_or_whitened_features_is_valid(size, whitening):
    config = usable()
    config.training.steps = 0
    config.model.embedding_size = size
    config.model.whitening = whitening
    builders.validate(config)


def test_sop_comes_in_two_kinds_of_minibatches():
    sop = load(FOLDER / "sop.py")
    share = "single_category_probability"
    assert sop.get_config().sampling[share] == 0.8
    assert sop.get_config("all_categories").sampling[share] == 0.0


@pytest.mark.parametrize(
    "name",
    ["sop", "inshop", "consumer2shop", "street2shop", "cub200", "cars196"],
)
def test_every_benchmark_comes_in_two_sizes(name):
    module = load(FOLDER / f"{name}.py")
    full, smoke = module.get_config(), module.get_config("smoke")
    assert (full.model.backbone, full.data.image_size) == ("resnet50v2", 224)
    assert full.sampling.units_per_batch == 64
    assert (smoke.training.steps, smoke.data.image_size) == (2, 32)
    assert smoke.evaluation == full.evaluation and smoke.loss == full.loss
    assert f"configs/{name}.py:smoke" in module.__doc__
    with pytest.raises(ValueError, match="two sizes.*'both'"):
        module.get_config("both")


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("studies/*.py")), ids=lambda path: path.stem
)
def test_every_study_holds_one_budget(path):
    study = load(path).get_study()
    studies.check_study(study)
    texts = [configs.to_json(m.config) for m in study.values() if m.trained]
    assert len(set(texts)) == len(texts) > 1
