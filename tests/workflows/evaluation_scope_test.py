"""What the report of an evaluation says that its metrics are of."""

import json

import pandas as pd
import pytest
from tiny_runs import draw, encoder

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.retrieval import reranking
from tf_triplet.workflows import options as options_module
from tf_triplet.workflows.evaluation_scope import format_share

HOW = "The step is chosen by recall@1 on 5 validation products."
SPLITS = ["train"] * 10 + ["test"] * 5


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of 10 training products, 5 of them for validation, and 5 others.

    Each product has two images in the street and two in the shop.
    """
    monkeypatch.setattr(builders, "build_baseline", lambda _: encoder(seed=1))
    (tmp_path / "images").mkdir()
    encoder().save(tmp_path / "encoder.keras")
    rows = []
    for i in range(60):
        draw(tmp_path / "images", f"{i}.png", i)
        rows.append(
            {
                "path": f"images/{i}.png",
                "product_id": f"p{i // 4:02}",
                "domain": ("street", "shop")[i % 2],
                "split": SPLITS[i // 4],
            }
        )
    write_table(tmp_path, pd.DataFrame(rows))
    config = configs.paper_config()
    config.data.path = str(tmp_path / "shop.csv")
    config.data.image_size = 8
    config.evaluation.ks = (1, 5)
    (tmp_path / "config.json").write_text(configs.to_json(config))
    names = [f"p{i:02}" for i in range(10)]
    builders.RunProducts(
        train=tuple(names[:5]),
        validation=tuple(names[5:]),
        how=HOW,
        digests=builders.digest_products(builders.build_catalog(config)),
    ).write(tmp_path)
    best = {"step": 7, "chosen_on": "validation", "sentence": HOW}
    (tmp_path / "best.json").write_text(json.dumps(best))
    return tmp_path


def write_table(run, frame):
    frame.to_csv(run / "shop.csv", index=False)


def read_table(run):
    return pd.read_csv(run / "shop.csv")


def evaluate(run, **options):
    """Returns the report and its JSON file."""
    report = workflows.evaluate(
        run, workflows.EvaluateOptions(**options), progress=False
    )
    return report, json.loads(report.file.read_text())


def printed(report, capsys):
    capsys.readouterr()
    report.show()
    return " ".join(capsys.readouterr().out.split())


def test_the_report_says_what_it_is_of(run, capsys):
    report, written = evaluate(run)
    assert written["split"] == "test" and written["images"] == 20
    assert written["chosen"] == {"step": 7, "on": "validation", "sentence": HOW}
    catalog = builders.build_catalog(builders.load_config(run))
    assert written["table"] == builders.table_fingerprint(catalog)
    assert written["trained_table"] == written["table"]
    assert written["table_difference"]["sentence"] == "nothing changed"
    assert (written["trained_on"]["queries"], written["left_out"]) == (0, 0)
    assert (written["unreadable"], written["comparable"]) == (0, True)
    assert written["notes"] == []
    text = printed(report, capsys)
    assert f"Step: 7. {HOW}" in text
    assert "Split: test, 20 images" in text
    assert f"Table: fingerprint {written['table'][:12]}, unchanged" in text
    assert "compare" not in text


def test_queries_of_the_training_are_an_error(run):
    frame = read_table(run)
    frame.loc[frame["product_id"].isin(["p01", "p03"]), "split"] = "test"
    write_table(run, frame)
    with pytest.raises(
        ValueError,
        match=r"8 of 28 queries of split 'test' show 2 products that the run "
        r"was trained on \(p01, p03\).*--split=train.*--split=all",
    ):
        evaluate(run)
    # A baseline was trained on none of them.
    _, written = evaluate(run, checkpoint="none", baseline="pretrained")
    assert written["trained_on"] is None and written["chosen"] is None


def test_products_of_runs_before_are_of_the_training_too(run):
    values = json.loads((run / "products.json").read_text())
    values["earlier"] = ["p12"]
    (run / "products.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"1 product that.*\(p12\)"):
        evaluate(run)


@pytest.mark.parametrize(
    "split,queries,of", [("train", 20, 40), ("all", 20, 60)]
)
def test_splits_of_the_training_tell_the_count(run, split, queries, of, capsys):
    report, written = evaluate(run, split=split)
    found = written["trained_on"]
    assert (found["queries"], found["all_queries"]) == (queries, of)
    assert f"{queries} of {of} queries" in printed(report, capsys)


def test_a_gallery_tells_the_count(run, capsys):
    frame = read_table(run)
    # A product of the training, only in the gallery of the test split.
    one = (frame["product_id"] == "p00") & (frame["domain"] == "shop")
    frame.loc[one, "split"] = "test"
    write_table(run, frame)
    options = {"query_domain": "street", "gallery_domain": "shop"}
    report, written = evaluate(run, **options)
    found = written["trained_on"]
    assert (found["queries"], found["all_queries"]) == (0, 10)
    assert (found["gallery"], found["all_gallery"]) == (2, 12)
    assert "2 of 12 images searched" in printed(report, capsys)
    assert written["domains"] == {}
    with pytest.raises(ValueError, match="2 of 22 queries"):
        evaluate(run)


def test_a_changed_table_is_accepted_and_told(run, capsys):
    frame = read_table(run)
    frame["product_id"] = frame["product_id"].replace("p13", "new")
    write_table(run, frame)
    report, written = evaluate(run)
    assert written["table"] != written["trained_table"]
    assert written["table_difference"] == {
        "added": ["new"],
        "removed": ["p13"],
        "replaced": [],
        "sentence": "1 product was added (new); 1 product was removed (p13)",
    }
    text = printed(report, capsys)
    assert "changed since the run began: 1 product was added (new)" in text


def test_unreadable_images_make_the_metrics_partial(run, capsys):
    for i in (40, 41, 42, 44, 45, 48, 52):
        (run / "images" / f"{i}.png").write_bytes(b"")
    report, written = evaluate(run)
    assert (written["unreadable"], written["images"]) == (7, 20)
    assert written["unreadable_share"] == pytest.approx(0.35)
    assert written["comparable"] is False
    (note,) = written["notes"]
    assert note == (
        "7 unreadable images of 20 (35 %): these metrics cover only the "
        "readable part, 65 % of the split, and must not be compared with "
        "others."
    )
    text = printed(report, capsys)
    assert note in text and "7 unreadable images of 20 (35 %) skipped" in text
    assert written["left_out"] == written["trained"]["overall"]["left_out"] == 1


def test_a_share_is_never_rounded_to_all_or_nothing():
    shares = [(1, 3000), (2999, 3000), (0, 4), (4, 4), (7, 20)]
    assert [format_share(*share) for share in shares] == [
        *("0.03 %", "99.97 %", "0 %", "100 %", "35 %")
    ]


def test_two_domains_are_scored_both_ways(run, capsys):
    report, written = evaluate(run, baseline="pretrained")
    assert list(written["domains"]) == ["shop -> street", "street -> shop"]
    for pair, found in written["domains"].items():
        query, gallery = pair.split(" -> ")
        options = {"query_domain": query, "gallery_domain": gallery}
        _, asked = evaluate(run, baseline="pretrained", **options)
        assert asked["domains"] == {}
        want = asked["trained"]["overall"]
        assert found.items() >= want.items()
        assert found["baseline"] == asked["baseline"]["overall"]
        assert found["gallery"] == 10
    gain = written["gain"]
    recalls = [
        written[e]["overall"]["recall@1"] for e in ("baseline", "trained")
    ]
    assert gain["value"] == pytest.approx(recalls[1] - recalls[0])
    assert gain["low"] <= gain["value"] <= gain["high"]
    text = printed(report, capsys)
    assert f"Gain in Recall@1 over the baseline: {report.gain}" in text
    assert "of the domains shop and street together" in text
    assert "street -> shop" in text and "shop -> street" in text


@pytest.mark.parametrize("method", options_module.RERANKINGS)
def test_answers_are_scored_once_more_re_ranked(run, capsys, method):
    report, written = evaluate(run, rerank=method)
    text = printed(report, capsys)
    if method == "none":
        assert written["reranked"] is None and "Re-ranked" not in text
        return
    found = written["reranked"]
    assert found["protocol"].endswith(
        f"re-ranked by {method.replace('_', ' ')}"
    )
    assert (
        found["overall"]["queries"] == written["trained"]["overall"]["queries"]
    )
    assert f"Re-ranked: {method.replace('_', ' ')}" in text
    assert "ms a query" in text


def test_every_re_ranking_is_offered():
    assert options_module.RERANKINGS == reranking.METHODS
    with pytest.raises(ValueError, match="`rerank` must be one of none, query"):
        workflows.EvaluateOptions(rerank="magic")


def test_more_domains_are_a_matrix(run, capsys):
    frame = read_table(run)
    frame["domain"] = ["street", "shop", "web", "street"] * 15
    write_table(run, frame)
    report, written = evaluate(run)
    assert len(written["domains"]) == 6
    assert written["domains"]["web -> shop"]["queries"] == 5
    text = printed(report, capsys)
    assert "rows query, columns are searched" in text
    assert "of the domains shop, street and web together" in text


def test_domains_without_a_common_product_are_told(run):
    frame = read_table(run)
    frame["domain"] = ["street"] * 48 + ["shop"] * 12
    write_table(run, frame)
    report, written = evaluate(run)
    assert written["domains"] == {}
    assert "No pair of the 2 domains was scored" in written["notes"][0]


def test_a_table_without_domains_has_no_pairs(run):
    write_table(run, read_table(run).drop(columns="domain"))
    report, written = evaluate(run)
    assert written["domains"] == {} and written["notes"] == []
    assert "domain" not in written["headline"]


def test_validation_is_the_products_that_chose_the_step(run):
    report, written = evaluate(run, split="validation")
    assert set(report.catalog.product_ids) == {f"p{i:02}" for i in range(5, 10)}
    assert report.file.name == "evaluation-validation.json"
    assert written["trained_on"]["queries"] == 0
    assert "chosen by products of this split" in written["notes"][0]


def test_a_split_of_that_name_is_that_split(run):
    frame = read_table(run)
    frame["split"] = frame["split"].replace("test", "validation")
    write_table(run, frame)
    report, _ = evaluate(run, split="validation")
    assert "p12" in report.catalog.product_ids


def test_a_run_without_validation_products_says_why(run):
    values = json.loads((run / "products.json").read_text())
    values.update(validation=[], how="The last step is kept, because of me.")
    (run / "products.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="no validation.*because of me"):
        evaluate(run, split="validation")


def test_a_run_of_an_earlier_version_says_that_it_cannot_know(run, capsys):
    (run / "products.json").unlink()
    best = {"step": 3, "monitor": "recall@1", "value": 0.5}
    (run / "best.json").write_text(json.dumps(best))
    report, written = evaluate(run)
    assert written["trained_on"] is None
    assert written["trained_table"] is None
    assert written["table_difference"] is None
    assert (written["chosen"]["step"], written["chosen"]["on"]) == (3, "test")
    text = printed(report, capsys)
    assert "not known whether these products were trained on" in text
    assert "may have chosen the step by the split 'test' itself" in text
    with pytest.raises(ValueError, match="no split 'validation'"):
        evaluate(run, split="validation")


def test_the_last_step_is_told(run):
    (run / "encoder.keras").rename(run / "encoder_last.keras")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "checkpoint").write_text(
        'model_checkpoint_path: "step-9"\n'
    )
    _, written = evaluate(run, checkpoint="last")
    assert (written["chosen"]["step"], written["chosen"]["on"]) == (9, "last")
