"""Which folder a run may claim."""

import pytest

from tf_triplet import config as configs
from tf_triplet import workflows
from tf_triplet.workflows.train_folder import claim_folder


def config(**changes):
    made = configs.base_config()
    made.data.source = "rendered"
    made.update_from_flattened_dict(changes)
    return made


def test_a_try_that_never_began_is_no_run(tmp_path):
    claim_folder(tmp_path, config(), resume=True)
    other = config(**{"loss.margin": 0.3})
    claim_folder(tmp_path, other, resume=True)
    saved = configs.from_json((tmp_path / "config.json").read_text())
    assert saved.loss.margin == 0.3


def test_a_run_that_began_keeps_its_config(tmp_path):
    claim_folder(tmp_path, config(), resume=True)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    other = config(**{"loss.margin": 0.3})
    with pytest.raises(ValueError, match="loss.margin: 0.1 -> 0.3"):
        claim_folder(tmp_path, other, resume=True)
    # But for what its exports hold.
    claim_folder(tmp_path, config(**{"export.k": 7}), resume=True)
    saved = configs.from_json((tmp_path / "config.json").read_text())
    assert saved.export.k == 7


def test_anew_leaves_nothing_of_the_old_run(tmp_path):
    claim_folder(tmp_path, config(), resume=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    claim_folder(tmp_path, config(**{"loss.margin": 0.3}), resume=False)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_replicas_get_whole_pairs(tmp_path):
    uneven = config(
        **{
            "data.image_size": 32,
            "data.rendered.products": 12,
            "data.rendered.images_per_product": 4,
            "model.weights": "random",
            "sampling.units_per_batch": 3,
            "training.replicas": 2,
            "loss.scope": "replica",
        }
    )
    with pytest.raises(ValueError, match="a multiple of 4. Received: 6 images"):
        workflows.train(uneven, tmp_path / "run")
