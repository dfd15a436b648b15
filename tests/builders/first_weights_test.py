"""Proxies that begin at the mean embeddings of their products."""

import numpy as np
import pytest
import tiny_runs

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.losses.proxies import NormSoftmaxLoss
from tf_triplet.training.learner import Learner


def test_proxies_begin_at_the_class_means(tmp_path):
    tiny_runs.make_run(tmp_path, 16)
    config = builders.load_config(tmp_path)
    catalog = builders.build_catalog(config)
    # Of product 1 one image cannot be read, of product 2 none.
    broken = [4, *range(8, 12)]
    for row in broken:
        (tmp_path / "images" / f"{row}.png").write_bytes(b"")
    encoder, loss = tiny_runs.encoder(), NormSoftmaxLoss()
    loss.build(len(catalog.product_ids), 8)
    before = loss.parameters.proxies.numpy()
    builders.start_proxies(config, Learner(encoder, loss), catalog)
    after = loss.parameters.proxies.numpy()
    vectors = builders.compute_embeddings(config, encoder, catalog)
    for product in range(4):
        own = catalog.products[vectors.rows] == product
        if not own.any():
            np.testing.assert_array_equal(after[product], before[product])
            continue
        mean = vectors.vectors[own].mean(0)
        wanted = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(after[product], wanted, atol=1e-6)
    assert (vectors.rows.size, np.ptp(after - before) > 0) == (11, True)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({}, "loss.name=triplet has none"),
        ({"loss.name": "supcon"}, "loss.name=supcon has none"),
        (
            {
                "loss.name": "proxy_nca",
                "model.learners": 2,
                "model.embedding_size": 8,
            },
            "`model.learners` makes several",
        ),
    ],
)
def test_a_start_that_cannot_be_is_refused(changes, message):
    config = configs.paper_config()
    config.data.source = "rendered"
    config.sampling.units = "products"
    config.loss.mining = "batch_hard"
    config.loss.proxy_start = "means"
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        builders.validate(config)
