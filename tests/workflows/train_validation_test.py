"""How an encoder is scored on the validation products during a training."""

import pytest
import tiny_runs

from tf_triplet import builders
from tf_triplet.workflows.train_validation import validation_metrics


@pytest.fixture
def made(tmp_path):
    """A config whose table has 40 images of 10 products."""
    tiny_runs.make_run(tmp_path / "run", images=40)
    return builders.load_config(tmp_path / "run")


def test_metrics_are_of_all_images(made):
    catalog = builders.build_catalog(made)
    metrics = validation_metrics(made, catalog)(tiny_runs.encoder())
    assert 0 <= metrics["recall@1"] <= 1
    assert validation_metrics(made, None) is None


@pytest.mark.parametrize("lost, scored", [(2, True), (3, False), (40, False)])
def test_too_many_unreadable_images_choose_no_step(made, lost, scored, caplog):
    catalog = builders.build_catalog(made)
    evaluate = validation_metrics(made, catalog)
    for path in catalog.paths[:lost]:
        open(path, "wb").close()
    assert bool(evaluate(tiny_runs.encoder())) == scored
    told = f"{lost} of 40 validation images ({100 * lost / 40:.1f} %)"
    assert (told in caplog.text) != scored


def test_unreadable_images_end_the_run_where_that_is_asked_for(made):
    made.data.on_bad_image = "stop"
    catalog = builders.build_catalog(made)
    open(catalog.paths[3], "wb").close()
    with pytest.raises(ValueError, match="3.png: the file is empty"):
        validation_metrics(made, catalog)(tiny_runs.encoder())
