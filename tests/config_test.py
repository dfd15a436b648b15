"""Configs: defaults hold together, and a bad value names its field."""

import importlib.util
from pathlib import Path

import pytest

from tf_triplet import comparison
from tf_triplet import config as configs

FOLDER = Path(__file__).parent.parent / "configs"


def usable():
    config = configs.base_config()
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
    configs.validate(config)
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
        ("model.landmark_features", 8, "needs `loss.landmark_weight`"),
        ("loss.attribute_weight", -0.1, "`loss.attribute_weight` must be"),
        ("loss.attribute_positive_weight", 0.0, "must be more than 0"),
    ],
)
def test_a_bad_value_is_named(field, value, message):
    config = usable()
    section, name = field.split(".")
    config[section][name] = value
    with pytest.raises(ValueError, match=message):
        configs.validate(config)


def test_sop_comes_in_two_kinds_of_minibatches():
    sop = load(FOLDER / "sop.py")
    share = "single_category_probability"
    assert sop.get_config().sampling[share] == 0.8
    assert sop.get_config("all_categories").sampling[share] == 0.0
    with pytest.raises(ValueError, match="single_category.*'both'"):
        sop.get_config("both")


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("studies/*.py")), ids=lambda path: path.stem
)
def test_every_study_holds_one_budget(path):
    study = load(path).get_study()
    comparison.check(study)
    texts = [configs.to_json(m.config) for m in study.values() if m.trained]
    assert len(set(texts)) == len(texts) > 1
