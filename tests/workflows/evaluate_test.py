"""Evaluation and the check of the data, called from Python."""

import json

import numpy as np
import pytest
from tiny_runs import make_run

from tf_triplet import builders, evaluation, workflows


@pytest.fixture
def run(tmp_path):
    """12 images of 3 products, in two domains."""
    make_run(tmp_path / "run", 12)
    return tmp_path / "run"


def test_the_report_is_what_is_written(run, capsys):
    options = workflows.EvaluateOptions(split="all", ks=[3, 1])
    report = workflows.evaluate(run, options, progress=False)
    assert report.file == run / "report" / "evaluation-all.json"
    written = json.loads(report.file.read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    overall = written["trained"]["overall"]
    assert report.metrics.items() <= overall.items()
    assert overall["queries"] == 12 and report.baseline is None
    (path,) = report.embedding_files
    saved = evaluation.load_embeddings(path)
    np.testing.assert_array_equal(saved.vectors, report.embeddings.vectors)
    assert report.draw_neighbors(2).name == "neighbours-all.png"
    report.show()
    text = capsys.readouterr().out
    assert f"Metrics: {report.file}" in text
    assert "12 queries" in " ".join(text.split())


def test_what_is_not_ordinary_names_the_file(run, tmp_path):
    (run / "encoder.keras").rename(run / "encoder_last.keras")
    given = {
        "split": "train+test",
        "checkpoint": "last",
        "protocol": "per_pair",
        "query_domain": "street",
        "gallery_domain": "shop",
        "ks": [1],
    }
    options = workflows.EvaluateOptions(**given)
    report = workflows.evaluate(run, options, progress=False)
    assert report.file.name == (
        "evaluation-train_test-street-to-shop-per_pair-last.json"
    )
    options = workflows.EvaluateOptions(**given, output=tmp_path / "a" / "b")
    assert workflows.evaluate(run, options, progress=False).file.is_file()
    assert (tmp_path / "a" / "b").is_file()


def test_what_is_not_given_comes_from_the_config(run):
    config = builders.load_config(run)
    config.evaluation.ks = (1, 7)
    config.evaluation.ties = "expected"
    options = workflows.EvaluateOptions(ties="against").resolve(config)
    assert (options.ks, options.ties, options.split) == (
        (1, 7),
        "against",
        "test",
    )
    assert not any(
        value is None
        for name, value in vars(options).items()
        if name not in ("components", "output")
    )


@pytest.mark.parametrize(
    "given,message",
    [
        ({"checkpoint": "none"}, "only a baseline to score"),
        (
            {"checkpoint": "none", "baseline": "pretrained", "layer": "pool"},
            "Received: `layer=pool`",
        ),
        ({"components": 3}, "Received: `components=3` and `baseline=none`"),
        ({"ks": [0, 1]}, "ranks of 1 or more"),
        ({"baseline": "zzz"}, "`baseline` must be one of none, pretrained"),
    ],
)
def test_options_that_contradict_each_other(given, message):
    with pytest.raises(ValueError, match=message):
        workflows.EvaluateOptions(**given)


def test_a_string_is_not_a_list_of_domains():
    with pytest.raises(ValueError, match="`domains` must be a list.*'shop'"):
        workflows.ExportOptions(domains="shop")


def test_the_data_are_checked_and_so_is_what_training_would_say(run):
    config = builders.load_config(run)
    # Of the 3 products, one is held out and two can be compared.
    config.data.test_fraction = 0.1
    config.sampling.units_per_batch = 600
    check = workflows.check_data(config)
    assert check.report.images == 12 and not check.report.problems
    assert "units_per_batch" in check.refusal and check.counts == []
    with pytest.raises(ValueError, match="units_per_batch"):
        check.raise_for_problems()
    config.sampling.units_per_batch = 2
    assert workflows.check_data(config).refusal == ""
