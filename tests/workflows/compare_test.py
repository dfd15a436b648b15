"""Studies: what may stand in one table, and the table's arithmetic."""

import dataclasses
import importlib
import json
import math
import signal

import numpy as np
import pytest

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.config import paper_config
from tf_triplet.workflows.comparison import summarize
from tf_triplet.workflows.study import check_study


def config(**changes):
    made = paper_config()
    made.data.source = "rendered"
    made.update_from_flattened_dict(changes)
    return made


def done(method, seed, value, error="", group=""):
    metrics = {} if error else {"recall@1": value, "map@r": value / 2}
    return workflows.StudyRun(method, group, seed, metrics, 10.0, error, {})


def test_mean_and_sample_deviation_over_seeds():
    values = [0.5, 0.6, 0.9]
    runs = [done("a", i, value) for i, value in enumerate(values)]
    runs += [done("b", 0, 0.25), done("b", 1, 0, "error: no"), done("c", 0, 1)]
    table = summarize(runs).set_index("method")
    assert list(table.index) == ["a", "b", "c"]
    assert table.loc["a", "recall@1 mean"] == pytest.approx(np.mean(values))
    assert table.loc["a", "recall@1 std"] == pytest.approx(
        np.std(values, ddof=1)
    )
    assert table.loc["a", "map@r mean"] == pytest.approx(np.mean(values) / 2)
    assert table.loc["b", ["runs", "failed"]].tolist() == [1, 1]
    assert table.loc["b", "recall@1 mean"] == 0.25
    assert math.isnan(table.loc["b", "recall@1 std"])


def test_curves_are_means_over_seeds_at_each_step():
    curves = [
        [{"step": 100, "recall@1": 0.2}, {"step": 200, "recall@1": 0.4}],
        [{"step": 100, "recall@1": 0.3}],
    ]
    runs = [
        dataclasses.replace(done("a", seed, 0.5), curve=curve)
        for seed, curve in enumerate(curves)
    ]
    runs.append(done("b", 0, 0.5))
    comparison = workflows.Comparison(tuple(runs), ("recall@1",), planned=3)
    lines = comparison.curves_to_markdown().splitlines()
    assert lines[2:] == [
        "| method | 100 | 200 |",
        "|---|---:|---:|",
        "| a | 0.2500 | 0.4000 |",
    ]
    assert "not complete" not in comparison.to_markdown()
    assert (
        workflows.Comparison((runs[-1],), ("recall@1",)).curves_to_markdown()
        == ""
    )


def test_a_table_with_a_failed_run_is_not_complete():
    runs = (done("a", 0, 0.5), done("a", 1, 0, "error"))
    text = workflows.Comparison(runs, ("recall@1",)).to_markdown()
    assert "This table is not complete: 1 of 2 runs." in text


def test_a_method_without_a_finished_run_stays_in_the_table():
    table = summarize([done("a", 0, 0.5), done("b", 0, 0, "error")])
    assert table["runs"].tolist() == [1, 0]
    assert math.isnan(table["recall@1 mean"][1])


@pytest.mark.parametrize(
    "other,message",
    [
        ({"training.steps": 7}, "'a' and 'b' differ in `training.steps`"),
        ({"data.image_size": 32}, "differ in `data.image_size`: 224 and 32"),
        ({"evaluation.ties": "expected"}, "differ in `evaluation.ties`"),
        ({"loss.margin": 0.3, "loss.mining": "none"}, "Method 'b': `loss.min"),
    ],
)
def test_one_table_needs_one_budget(other, message):
    study = {
        "a": workflows.Method(config()),
        "b": workflows.Method(config(**other)),
    }
    with pytest.raises(ValueError, match=message):
        check_study(study)


def test_a_method_without_training_stands_beside_trained_ones():
    codes = {"training.steps": 0, "model.embedding_size": 0}
    study = {
        "codes": workflows.Method(config(**codes)),
        "a": workflows.Method(config()),
    }
    check_study(study)
    study["b"] = workflows.Method(config(**{"training.steps": 7}))
    with pytest.raises(ValueError, match="'a' and 'b' differ in `training.st"):
        check_study(study)


def test_what_is_allowed_to_differ_may():
    study = {
        "a": workflows.Method(config()),
        "b": workflows.Method(config(**{"training.steps": 7})),
    }
    check_study(study, ["training.steps"])
    with pytest.raises(ValueError, match="folder's.*'a/b'"):
        check_study({"a/b": workflows.Method(config())})
    with pytest.raises(ValueError, match="holds no method"):
        check_study({})


@pytest.fixture
def programs(monkeypatch):
    """Programs that only write what the real ones would; their number."""
    module = importlib.import_module("tf_triplet.workflows.compare")
    calls = []

    def run(method, made, workdir):
        calls.append(made)
        (workdir / "config.json").write_text(configs.to_json(made))
        (workdir / "report").mkdir(exist_ok=True)
        report = json.dumps({"baseline": {"overall": {"recall@1": 0.5}}})
        (workdir / "report" / "evaluation-test.json").write_text(report)
        (workdir / "metrics.jsonl").write_text(
            '{"step": 5, "loss": 1.0}\n{"step": 5, "eval/recall@1": 0.25}\n'
        )
        return ""

    monkeypatch.setattr(module, "_run_programs", run)
    return calls


def compare(folder, path="shop.csv"):
    made = configs.paper_config()
    made.data.path = path
    study = {"features": workflows.Method(made, trained=False)}
    return workflows.compare(study, [0], folder, metrics=["recall@1"])


def test_a_finished_run_is_known_from_another_folder(
    programs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    first = compare(tmp_path / "out")
    assert programs[0].data.path == str(tmp_path / "shop.csv")
    # The results name the path as it was given.
    assert first.runs[0].config["data.path"] == "shop.csv"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    again = compare(tmp_path / "out", "../shop.csv")
    assert len(programs) == 1
    curve = [{"step": 5, "recall@1": 0.25}]
    assert first.runs[0].curve == again.runs[0].curve == curve
    assert "| features | 0.2500 |" in (
        (tmp_path / "out" / "curves.md").read_text()
    )
    compare(tmp_path / "out", "shop.csv")  # Another file.
    assert len(programs) == 2


def test_a_run_that_chose_fields_of_its_config_is_known(
    programs, tmp_path, monkeypatch
):
    study = {"a": workflows.Method(configs.base_config(), trained=False)}
    study["a"].config.data.source = "rendered"
    workflows.compare(study, [0], tmp_path)
    path = tmp_path / "runs" / "a" / "0" / "config.json"
    saved = builders.fill(programs[0], configs.paper_config())
    path.write_text(configs.to_json(saved))  # As training writes it.
    workflows.compare(study, [0], tmp_path)
    assert len(programs) == 1


@pytest.mark.parametrize("name", ["result.json", "config.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"metrics": {'])
def test_a_run_with_a_damaged_file_is_repeated(
    programs, tmp_path, name, text, caplog
):
    first = compare(tmp_path)
    path = tmp_path / "runs" / "features" / "0" / name
    path.write_text(text)
    again = compare(tmp_path)
    assert len(programs) == 2 and str(path) in caplog.text
    assert again.runs[0].metrics == first.runs[0].metrics == {"recall@1": 0.5}


def test_a_stop_says_what_is_done(programs, tmp_path, monkeypatch):
    module = importlib.import_module("tf_triplet.workflows.compare")
    first = module._run_programs

    def stop_at_the_second(method, made, workdir):
        if made.seed:
            raise KeyboardInterrupt(signal.SIGTERM)
        return first(method, made, workdir)

    monkeypatch.setattr(module, "_run_programs", stop_at_the_second)
    study = {"a": workflows.Method(config(), trained=False)}
    with pytest.raises(KeyboardInterrupt) as caught:
        workflows.compare(study, [0, 1], tmp_path)
    number, text = caught.value.args
    assert number == signal.SIGTERM
    table = (tmp_path / "table.md").read_text()
    assert "This table is not complete: 1 of 2 runs." in table
    assert text.startswith("Stopped at a, seed 1 (1 of 2 runs are done).")
