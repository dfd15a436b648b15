"""Every method by its name in a config: trained, scored, exported, asked."""

import numpy as np
import pytest
import tensorflow as tf

from tf_triplet import builders, client, workflows
from tf_triplet import config as configs
from tf_triplet.models import precisions
from tf_triplet.servable import parity
from tf_triplet.serving import server

PRODUCTS = {
    "sampling.units": "products",
    "sampling.units_per_batch": 4,
    "loss.mining": "batch_hard",
}
NETWORK = {"model.weights": "random", "model.path": ""}
# In place of the rendered catalog, its manifest with annotations.
TASKS = {
    "data.source": "manifest",
    "loss.attribute_weight": 0.5,
    "loss.landmark_weight": 1.0,
    "model.landmark_features": 4,
}
DOMAINS = {
    "sampling.query_domain": "street",
    "sampling.gallery_domain": "studio",
}
METHODS = {
    "paper": {},
    "random": {"loss.mining": "random"},
    "batch_hard_soft": {**PRODUCTS, "loss.soft": True},
    "batch_all": {**PRODUCTS, "loss.mining": "batch_all"},
    "semi_hard": {**PRODUCTS, "loss.mining": "semi_hard"},
    "contrastive": {**PRODUCTS, "loss.name": "contrastive"},
    "lifted": {
        **PRODUCTS,
        "loss.name": "lifted",
        "loss.lifted.variant": "original",
    },
    "lifted_generalized": {**PRODUCTS, "loss.name": "lifted"},
    "margin_loss": {
        **PRODUCTS,
        "loss.name": "margin_loss",
        "loss.margin_loss.beta_per": "product",
        "optimizer.loss_learning_rate": 0.1,
    },
    "npairs": {"loss.name": "npairs"},
    "multi_similarity": {**PRODUCTS, "loss.name": "multi_similarity"},
    "supcon": {**PRODUCTS, "loss.name": "supcon"},
    "smooth_ap": {**PRODUCTS, "loss.name": "smooth_ap"},
    "proxy_nca": {**PRODUCTS, "loss.name": "proxy_nca"},
    "proxy_anchor": {
        **PRODUCTS,
        "loss.name": "proxy_anchor",
        "optimizer.loss_learning_rate": 0.1,
    },
    "norm_softmax": {**PRODUCTS, "loss.name": "norm_softmax"},
    "arcface": {
        **PRODUCTS,
        "loss.name": "arcface",
        "loss.proxy_start": "means",
    },
    "tfa_semihard": {**PRODUCTS, "loss.name": "tfa_semihard"},
    "tfsim_circle": {**PRODUCTS, "loss.name": "tfsim_circle"},
    "memory": {
        **PRODUCTS,
        "loss.name": "contrastive",
        "loss.memory_size": 16,
        "loss.memory_warmup": 1,
    },
    "micro_batch": {"training.micro_batch": 3, "model.batch_norm": "frozen"},
    "gem": {"model.pooling": "gem"},
    "rmac": {"model.pooling": "rmac"},
    "average_max": {"model.pooling": "average_max"},
    "head_norm": {"model.head_norm": True},
    "ensemble": {"model.learners": 2, "model.attention_at": "first"},
    "efficientnet": {**NETWORK, "model.backbone": "efficientnetv2b0"},
    "convnext": {
        **NETWORK,
        "model.backbone": "convnexttiny",
        "model.batch_norm": "none",
    },
    "mobilenet": {**NETWORK, "model.backbone": "mobilenetv3small"},
    "neural_codes": {
        "training.steps": 0,
        "model.whitening": 4,
        "model.embedding_size": 4,
    },
    "cross_domain": DOMAINS,
    "heads": {**DOMAINS, "model.branch_by": "domain"},
    "networks": {
        **DOMAINS,
        "model.branch_by": "domain",
        "model.branches": "networks",
    },
    "weights": {
        "model.branch_by": "category",
        "model.branches": "weights",
        "model.embedding_size": 0,
        "model.batch_norm": "frozen",
    },
    "multitask": TASKS,
    "multitask_gem": {**TASKS, "model.pooling": "gem"},
    "multitask_whitened": {**TASKS, "model.whitening": 8},
    "multitask_cross_domain_memory": {
        **TASKS,
        **DOMAINS,
        "loss.name": "contrastive",
        "loss.memory_size": 16,
        "loss.memory_warmup": 1,
    },
    "multitask_proxies": {
        **TASKS,
        **PRODUCTS,
        "loss.name": "proxy_anchor",
        "optimizer.loss_learning_rate": 0.1,
    },
}
# The rest are of the same kinds, and left to `make test-all`.
QUICK = {("proxy_anchor", 2), ("ensemble", 1)}


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "net.keras"
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    tf.keras.Sequential(
        [
            tf.keras.Input([32, 32, 3]),
            layers.Conv2D(6, 5, 4, activation="relu", name="first"),
            layers.Conv2D(8, 3, 2, name="second"),
        ]
    ).save(path)
    return str(path)


def recipe(network, replicas, changes):
    config = configs.paper_config()
    config.data.source = "rendered"
    config.data.image_size = 32
    # Enough for some validation products.
    config.data.rendered.products = 48
    config.data.rendered.images_per_product = 4
    config.model.backbone = "imported"
    config.model.path = network
    config.model.embedding_size = 8
    config.sampling.units_per_batch = 4
    config.training.steps = 2
    config.training.replicas = replicas
    config.training.collapse_every = 1
    config.training.stop_on_collapse = False
    config.evaluation.ks = (1,)
    config.export.index = "exact"
    config.export.k = 3
    config.update_from_flattened_dict(changes)
    return config


def annotate(config, folder):
    """Writes the rendered catalog with attributes and a landmark."""
    config.data.source = "rendered"
    frame = builders.build_catalog(config).to_frame()
    frame["attributes"] = frame["category"]
    frame["landmark1_x"], frame["landmark1_y"] = 10, 12
    config.data.source = "manifest"
    config.data.path = str(folder / "shop.csv")
    frame.to_csv(config.data.path, index=False)


def ask(config, encoder, workdir):
    """Publishes, and asks a server with an image of the catalog."""
    published = workflows.export(workdir, progress=False)
    catalog = builders.build_catalog(config)
    embeddings = builders.compute_embeddings(
        config, encoder, catalog, progress=False
    )
    assert np.allclose(np.linalg.norm(embeddings.vectors, axis=1), 1, atol=1e-5)
    by, row = config.model.branch_by, 5
    own = {by: catalog.to_frame()[by][row]} if by else {}
    service, port, models = server.start(
        published.folder.parent, "search", port=0
    )
    try:
        image = client.read_image(catalog.paths[row])
        (found,) = client.query([image], f"localhost:{port}", "search", **own)
    finally:
        service.stop(None).wait()
        models.release()
    best = [n.score for n in found]
    assert best == sorted(best, reverse=True)
    assert best[0] > 1 - parity.TOLERANCE  # Itself, or its equal.
    if best[0] - best[1] > parity.TOLERANCE:
        assert found[0].path == catalog.paths[row]


@pytest.mark.parametrize(
    "method,replicas",
    [
        pytest.param(
            method,
            replicas,
            marks=() if (method, replicas) in QUICK else pytest.mark.slow,
        )
        for method in METHODS
        for replicas in (1, 2)
    ],
)
def test_trained_scored_exported_asked(network, tmp_path, method, replicas):
    config = recipe(network, replicas, METHODS[method])
    if config.data.source == "manifest":
        annotate(config, tmp_path)
    workdir = tmp_path / "run"
    result = workflows.train(config, workdir)
    assert result.step == config.training.steps
    # Without steps there is nothing to choose.
    if config.training.steps:
        assert 0 <= result.metrics["recall@1"] <= 1
    # The best one may be that before the first step.
    encoder = builders.load_encoder(workdir, "last")
    training = catalog_of(config)
    start = builders.build_network(
        config, training, builders.build_branches(config, training)
    ).encoder
    moved = sum(
        not np.allclose(a, b)
        for a, b in zip(encoder.get_weights(), start.get_weights())
    )
    assert moved > 0
    # Proxies and boundaries stay with the training.
    assert len(encoder.get_weights()) == len(start.get_weights())
    ask(config, builders.load_encoder(workdir), workdir)


@pytest.mark.parametrize(
    "method",
    [
        *("ensemble", "gem", "rmac", "heads", "networks", "weights"),
        *("multitask_gem", "neural_codes"),
    ],
)
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_every_kind_of_encoder_has_a_copy(network, tmp_path, method, precision):
    config = recipe(network, 1, METHODS[method])
    if config.data.source == "manifest":
        annotate(config, tmp_path)
    training = catalog_of(config)
    encoder = builders.build_network(
        config, training, builders.build_branches(config, training)
    ).encoder
    copy = precisions.at_precision(encoder, precision)
    asked = np.random.default_rng(0).random([4, 32, 32, 3], np.float32)
    if isinstance(encoder.input, dict):
        asked = {"pixels": asked, "branch": np.array([0, 1, 0, 1], np.int32)}
    got, want = copy(asked).numpy(), encoder(asked).numpy()
    assert 0 < np.abs(got - want).max() < 0.02


def catalog_of(config):
    catalog = builders.build_catalog(config)
    return builders.training_catalog(config, catalog)


def test_every_loss_has_a_smoke():
    known = set(builders.CHOICES["loss.name"])
    smoked = {m.get("loss.name", "triplet") for m in METHODS.values()}
    # Losses of another library share their code, so one of each is enough.
    rest = {name for name in known - smoked if not name.startswith("tf")}
    assert not rest
