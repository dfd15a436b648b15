"""Slow and simple NumPy versions, the oracles of the tests."""

import numpy as np
import pandas as pd

from tf_triplet.data.catalog import Catalog


def distance(a, b, kind):
    a, b = np.float64(a), np.float64(b)
    if kind == "cosine":
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return 1.0 - a @ b / norms
    squared = ((a - b) ** 2).sum()
    return np.sqrt(squared) if kind == "euclidean" else squared


def triplets(labels, embeddings, mining, kind, sides=None):
    """Returns [(anchor, d_ap, d_an)], computed by a triple loop."""
    n = len(labels)
    d = np.array(
        [
            [distance(embeddings[i], embeddings[j], kind) for j in range(n)]
            for i in range(n)
        ]
    ).reshape(n, n)
    found = []
    for i in range(n):
        positives = [j for j in range(n) if j != i and labels[j] == labels[i]]
        negatives = [j for j in range(n) if labels[j] != labels[i]]
        if mining == "paper":
            positives = [i + 1] if i % 2 == 0 else []
        if sides is not None:
            positives = [j for j in positives if sides[j] == 1]
            negatives = [j for j in negatives if sides[j] == 1]
            if sides[i] != 0:
                continue
        if not positives or not negatives:
            continue
        if mining == "batch_hard":
            far = max(d[i, j] for j in positives)
            found.append((i, far, min(d[i, j] for j in negatives)))
            continue
        for p in positives:
            if mining == "batch_all":
                found += [(i, d[i, p], d[i, k]) for k in negatives]
            elif mining == "paper":
                found.append((i, d[i, p], min(d[i, k] for k in negatives)))
            else:
                beyond = [d[i, k] for k in negatives if d[i, k] > d[i, p]]
                easiest = max(d[i, k] for k in negatives)
                found.append((i, d[i, p], min(beyond, default=easiest)))
    return found


def triplet_loss(
    labels, embeddings, mining, margin, soft, kind, reduction, sides=None
):
    xs = [
        ap - an + margin
        for _, ap, an in triplets(labels, embeddings, mining, kind, sides)
    ]
    losses = [np.logaddexp(0, x) if soft else max(0.0, x) for x in xs]
    if reduction == "sum":
        return float(sum(losses))
    count = len(xs) if reduction == "mean" else sum(x > 0 for x in xs)
    return float(sum(losses) / max(count, 1))


def catalog(paths, product_ids, **columns):
    """Builds a catalog from columns; `boxes` is `[n, 4]`."""
    boxes = columns.pop("boxes", None)
    frame = pd.DataFrame({"path": paths, "product_id": product_ids, **columns})
    if boxes is not None:
        frame[["x1", "y1", "x2", "y2"]] = boxes
    return Catalog.from_frame(frame, name="test")
