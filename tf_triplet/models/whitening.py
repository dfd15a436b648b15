"""Neural codes: PCA-whitening of features, as a linear layer."""

from __future__ import annotations

import numpy as np
from sklearn import decomposition

# Of the first component's variance: less is the rounding of float32.
_LEAST_VARIANCE = 1e-10
_NO_VARIANCE = 1e-14


def fit_whitening(
    features: np.ndarray, components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits PCA-whitening; `features @ kernel + bias` has unit covariance.

    Args:
        features: `[n, dim]` floats, n more than `components`.
        components: k, the directions of most variance that are kept.

    Returns:
        The weights of a Dense layer: `[dim, k]` and `[k]` float32.

    Raises:
        ValueError: too few images, too narrow features, or features that
            do not vary in k directions.

    References:
        Babenko et al., 2014, https://arxiv.org/abs/1404.1777 (neural codes).
    """
    features = np.asarray(features, np.float64)
    count, width = features.shape
    if not 1 <= components <= width:
        raise ValueError(
            f"`components` must be from 1 to {width}, the width of the "
            f"features. Received: {components}. Lower it (model.whitening, or "
            "--components of tf-triplet-evaluate)."
        )
    if count <= components:
        raise ValueError(
            f"Whitening of {components} components needs more than "
            f"{components} images. Received: {count}. Lower it "
            "(model.whitening, or --components of tf-triplet-evaluate)."
        )
    pca = decomposition.PCA(components, svd_solver="full")
    with np.errstate(invalid="ignore"):  # Shares of no variance at all.
        pca.fit(features)
    variance = pca.explained_variance_
    usable = variance > max(_LEAST_VARIANCE * variance[0], _NO_VARIANCE)
    if not usable.all():
        raise ValueError(
            f"The features of {count} images vary in {usable.sum()} "
            f"directions only, and {components} were to be whitened. Lower "
            "model.whitening, or look for duplicates and a broken backbone."
        )
    kernel = pca.components_.T / np.sqrt(variance)
    bias = -pca.mean_ @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)
