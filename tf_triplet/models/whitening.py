"""Neural codes: PCA whitening of features, as a linear layer."""

from __future__ import annotations

import numpy as np
from sklearn import decomposition

# A component with less variance, relative to the first component, is rounding
# noise of float32.
_LEAST_VARIANCE = 1e-10
# The same in absolute terms, for features that do not vary at all.
_NO_VARIANCE = 1e-14


def fit_whitening(
    features: np.ndarray, components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fits PCA whitening: `features @ kernel + bias` has unit covariance.

    Args:
        features: `[n, dim]` floats. n must be greater than `components`.
        components: Number k of principal components to keep, those of the
            largest variance.

    Returns:
        The weights of a Dense layer, a `[dim, k]` float32 kernel and a `[k]`
        float32 bias.

    Raises:
        ValueError: If there are too few images, if the features have fewer
            than k dimensions, or if they do not vary in k directions.

    Example:

    >>> features = np.random.default_rng(0).normal(size=[50, 3]) * [5, 1, 0.1]
    >>> kernel, bias = fit_whitening(features, components=2)
    >>> white = features @ kernel + bias
    >>> np.abs(np.cov(white.T) - np.eye(2)).max() < 1e-4
    True

    References:
        Babenko et al., 2014, https://arxiv.org/abs/1404.1777 (neural codes).
    """
    features = np.asarray(features, np.float64)
    count, width = features.shape
    if not 1 <= components <= width:
        raise ValueError(
            f"`components` must be from 1 to {width}, the width of the "
            f"features. Received: {components}. Change model.whitening, or "
            "--components of tf-triplet-evaluate."
        )
    if count <= components:
        raise ValueError(
            f"Whitening of {components} components needs more than "
            f"{components} images. Received: {count}. Lower "
            "model.whitening, or --components of tf-triplet-evaluate."
        )
    pca = decomposition.PCA(components, svd_solver="full")
    with np.errstate(invalid="ignore"):  # 0 / 0 if there is no variance.
        pca.fit(features)
    variance = pca.explained_variance_
    usable = variance > max(_LEAST_VARIANCE * variance[0], _NO_VARIANCE)
    if not usable.all():
        raise ValueError(
            f"The features of {count} images vary in {usable.sum()} "
            f"directions only, which are fewer than the {components} "
            "components to whiten. Lower model.whitening, or look for "
            "duplicate images or a broken backbone."
        )
    kernel = pca.components_.T / np.sqrt(variance)
    bias = -pca.mean_ @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)
