"""NMI and F1: do clusters of the embeddings agree with the products?"""

from __future__ import annotations

import numpy as np
from sklearn import cluster, metrics


def evaluate_clusters(
    vectors: np.ndarray, labels: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Clusters into as many as there are products, and compares.

    k-means (k-means++, one start) on unit vectors.

    Args:
        vectors: `[n, dim]` floats.
        labels: `[n]` integers.
        seed: Of the start.

    Returns:
        `nmi` = 2 I(C; Y) / (H(C) + H(Y)), and `f1`, the harmonic mean of
        precision and recall over pairs of images: those of one cluster
        that are of one product.

    Raises:
        ValueError: fewer than two images, or the shapes do not fit.

    References:
        Oh Song et al., 2016, https://arxiv.org/abs/1511.06452, section 5.
    """
    vectors, labels = np.float64(vectors), np.asarray(labels)
    if len(vectors) < 2 or labels.shape != vectors.shape[:1]:
        raise ValueError(
            "Clustering needs two images or more, and a label for each. "
            f"Received shapes: {vectors.shape} and {labels.shape}"
        )
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, np.finfo(float).tiny)
    found = cluster.KMeans(
        len(np.unique(labels)), n_init=1, random_state=seed
    ).fit_predict(unit)
    return {
        "nmi": float(metrics.normalized_mutual_info_score(labels, found)),
        "f1": pairwise_f1(labels, found),
    }


def pairwise_f1(labels: np.ndarray, clusters: np.ndarray) -> float:
    """F1 of "these two are of one product", over all pairs of images.

    Where no two images are of one product, nor of one cluster, it is 1.
    """
    (_, wrong), (missed, right) = metrics.cluster.pair_confusion_matrix(
        labels, clusters
    )
    total = 2 * int(right) + int(wrong) + int(missed)
    return 2 * int(right) / total if total else 1.0
