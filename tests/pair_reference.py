"""Losses over pairs as double and triple loops, the oracles of the tests.

Labels are `[n]`, or `[n, 2]` of product and side. `keys` are None or
(labels, embeddings, valid). All arithmetic is float64.
"""

import math

import numpy as np
import reference


def batch(seed, products=4, size=10, dim=4):
    """Returns unit vectors and labels; the last product has one image."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, products, size)
    labels[-1] = products
    vectors = random.normal(size=(size, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return labels, vectors


def neighbors(labels, x, keys, kind):
    """Returns distances, and the positive and negative columns per row."""
    key_labels, key_vectors, valid = keys or (labels, x, [True] * len(x))
    d = np.zeros([len(x), len(key_vectors)])
    positives = [[] for _ in x]
    negatives = [[] for _ in x]
    for i in range(len(x)):
        for j in range(len(key_vectors)):
            d[i, j] = reference.distance(x[i], key_vectors[j], kind)
            a, b = labels[i], key_labels[j]
            if not valid[j] or (keys is None and i == j):
                continue
            if np.ndim(a):
                if a[1] != 0 or b[1] != 1:
                    continue
                a, b = a[0], b[0]
            (positives if a == b else negatives)[i].append(j)
    return d, positives, negatives


def contrastive(
    labels, x, keys=None, margin=1.0, kind="euclidean", reduction="mean"
):
    d, positives, negatives = neighbors(labels, x, keys, kind)
    pulls = [d[i, j] ** 2 for i in range(len(x)) for j in positives[i]]
    pushes = [
        max(0.0, margin - d[i, j]) ** 2
        for i in range(len(x))
        for j in negatives[i]
    ]
    if reduction == "mean":
        return sum(pulls + pushes) / max(len(pulls + pushes), 1)
    return sum(pulls) / max(len(pulls), 1) + sum(pushes) / max(len(pushes), 1)


def lifted(
    labels, x, keys=None, margin=1.0, kind="euclidean", variant="generalized"
):
    d, positives, negatives = neighbors(labels, x, keys, kind)
    losses = []
    for i in range(len(x)):
        if variant == "generalized":
            if positives[i] and negatives[i]:
                far = math.log(sum(math.exp(d[i, p]) for p in positives[i]))
                near = math.log(
                    sum(math.exp(margin - d[i, n]) for n in negatives[i])
                )
                losses.append(max(0.0, far + near))
            continue
        for j in positives[i]:
            terms = [math.exp(margin - d[i, k]) for k in negatives[i]]
            for other in range(len(x)):
                if j in negatives[other]:
                    terms.append(math.exp(margin - d[other, j]))
            if terms:
                hinge = max(0.0, math.log(sum(terms)) + d[i, j])
                losses.append(0.5 * hinge**2)
    return sum(losses) / max(len(losses), 1)


def margin(labels, x, keys=None, alpha=0.2, beta=1.2, chosen=None):
    """`chosen[i][j]` is the negative of pair (i, j). None uses all pairs."""
    d, positives, negatives = neighbors(labels, x, keys, "euclidean")
    beta = np.broadcast_to(beta, [len(x)])
    losses = []
    for i in range(len(x)):
        if chosen is None:
            far = negatives[i]
        elif negatives[i]:
            far = [chosen[i][j] for j in positives[i]]
        else:
            continue
        losses += [max(0.0, alpha + d[i, j] - beta[i]) for j in positives[i]]
        losses += [max(0.0, alpha + beta[i] - d[i, n]) for n in far]
    return sum(losses) / max(sum(loss > 0 for loss in losses), 1)


def n_pairs(labels, x, keys=None, scale=20.0):
    x = np.float64(x)
    _, positives, negatives = neighbors(labels, x, keys, "euclidean")
    others = x if keys is None else np.float64(keys[1])
    losses = []
    for i in range(0, len(x), 2):
        if np.ndim(labels[i]) and (labels[i][1], labels[i + 1][1]) != (0, 1):
            continue
        same = [scale * x[i] @ others[j] for j in positives[i]]
        different = [scale * x[i] @ others[j] for j in negatives[i]]
        if keys is None:
            same = [scale * x[i] @ x[j] for j in positives[i] if j % 2]
            different = [scale * x[i] @ x[j] for j in negatives[i] if j % 2]
        else:
            same.append(scale * x[i] @ x[i + 1])
        if different:
            total = sum(math.exp(logit) for logit in same + different)
            losses.append(
                -sum(logit - math.log(total) for logit in same) / len(same)
            )
    return sum(losses) / max(len(losses), 1)


def multi_similarity(
    labels, x, keys=None, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1
):
    d, positives, negatives = neighbors(labels, x, keys, "cosine")
    s = 1.0 - d
    losses = []
    for i in range(len(x)):
        if not positives[i] or not negatives[i]:
            continue
        largest = max(s[i, n] for n in negatives[i])
        smallest = min(s[i, p] for p in positives[i])
        near = [s[i, p] for p in positives[i] if s[i, p] < largest + epsilon]
        far = [s[i, n] for n in negatives[i] if s[i, n] > smallest - epsilon]
        pull = math.log(1 + sum(math.exp(-alpha * (v - base)) for v in near))
        push = math.log(1 + sum(math.exp(beta * (v - base)) for v in far))
        losses.append(pull / alpha + push / beta)
    return sum(losses) / max(len(losses), 1)


def supcon(labels, x, keys=None, temperature=0.1, variant="supcon"):
    d, positives, negatives = neighbors(labels, x, keys, "cosine")
    e = np.exp((1.0 - d) / temperature)
    losses = []
    for i in range(len(x)):
        if not positives[i] or not negatives[i]:
            continue
        costs = []
        for p in positives[i]:
            same = positives[i] if variant == "supcon" else [p]
            total = sum(e[i, k] for k in same + negatives[i])
            costs.append(-math.log(e[i, p] / total))
        losses.append(sum(costs) / len(costs))
    return sum(losses) / max(len(losses), 1)


def smooth_ap(labels, x, keys=None, temperature=0.01):
    d, positives, negatives = neighbors(labels, x, keys, "cosine")

    def ahead(i, k, p):
        """How much k is nearer to i than p is, from 0 to 1."""
        return 1 / (1 + math.exp((d[i, k] - d[i, p]) / temperature))

    losses = []
    for i in range(len(x)):
        if not positives[i] or not negatives[i]:
            continue
        precisions = []
        for p in positives[i]:
            rank = 1 + sum(ahead(i, k, p) for k in positives[i] if k != p)
            others = sum(ahead(i, k, p) for k in negatives[i])
            precisions.append(rank / (rank + others))
        losses.append(1 - sum(precisions) / len(precisions))
    return sum(losses) / max(len(losses), 1)


def finite_differences(oracle, vectors, step=1e-6):
    """Returns the gradient of `oracle(vectors)`."""
    numeric = np.zeros(vectors.shape)
    for index in np.ndindex(vectors.shape):
        for sign in (1, -1):
            moved = vectors.astype(np.float64)
            moved[index] += sign * step
            numeric[index] += sign * oracle(moved) / (2 * step)
    return numeric
