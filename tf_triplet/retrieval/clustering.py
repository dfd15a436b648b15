"""NMI and F1: do clusters of the embeddings agree with the products?"""

from __future__ import annotations

import numpy as np
from sklearn import cluster, metrics


def evaluate_clusters(
    vectors: np.ndarray, labels: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """Clusters vectors with k-means and compares clusters with products.

    There are as many clusters as products. k-means runs once, on unit vectors,
    from a k-means++ start.

    Args:
        vectors: `[n, dim]` floats. Vectors need not have unit length.
        labels: `[n]` integers, the product of each vector.
        seed: Seed of the k-means++ start.

    Returns:
        `nmi`, the normalized mutual information `2 I(C; Y) / (H(C) + H(Y))`
        of clusters C and products Y, and `f1`. The latter treats each pair of
        images in one cluster as a prediction that both show the same product,
        and is the harmonic mean of precision and recall over pairs.

    Raises:
        ValueError: If there are fewer than two images, or a shape is wrong.

    Example:

    >>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> scores = evaluate_clusters(vectors, np.array([0, 0, 1, 1]))
    >>> {name: round(value, 6) for name, value in scores.items()}
    {'nmi': 1.0, 'f1': 1.0}

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
    """Computes F1 of the statement "these two images show one product".

    Args:
        labels: `[n]` integers, the product of each image.
        clusters: `[n]` integers, the cluster of each image.

    Returns:
        F1 over all pairs of images. It is 1 if no two images share a product
        or a cluster.
    """
    (_, wrong), (missed, right) = metrics.cluster.pair_confusion_matrix(
        labels, clusters
    )
    total = 2 * int(right) + int(wrong) + int(missed)
    return 2 * int(right) / total if total else 1.0
