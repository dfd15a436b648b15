"""Scores a run's encoder: `evaluate(workdir)`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections
import numpy as np

from tf_triplet import builders, evaluation
from tf_triplet.workflows.evaluation_report import (
    EvaluationReport,
    clean_file_name,
)
from tf_triplet.workflows.evaluation_scope import find_scope, select_split
from tf_triplet.workflows.options import EvaluateOptions

if TYPE_CHECKING:
    import tensorflow as tf

    from tf_triplet.data.catalog import Catalog

# With more domains, the pairs are not scored unless two domains are named.
_MOST_DOMAINS = 16


def evaluate(
    workdir: str | Path,
    options: EvaluateOptions | None = None,
    *,
    progress: bool = True,
) -> EvaluationReport:
    """Scores a run's encoder on images that it was not trained on.

    Every image of the split queries all others, or one domain queries
    another. If the table has domains and none is named, each domain also
    queries each other one. The search is exact. The report and the embeddings
    are written into the run's folder.

    A table that has changed since the training is accepted, and the report
    says what has changed.

    Args:
        workdir: The folder of a run.
        options: What to score and how. A field that is not given comes from
            the run's config.
        progress: Whether to show the progress.

    Returns:
        The metrics of the encoder and of the baseline. It can draw neighbors
        too.

    Raises:
        FileNotFoundError: If the folder holds no run, or no encoder yet.
        ValueError: If an option is wrong, if the catalog has no such split or
            domain, if no query has another image of its product to find, or
            if a query of a held-out split shows a product that the run was
            trained on.

    Example:

    >>> from tf_triplet import workflows
    >>> options = workflows.EvaluateOptions(baseline="pretrained", ks=[1, 10])
    >>> report = workflows.evaluate("runs/shop", options)  # doctest: +SKIP
    >>> report.trained.overall.recall[1]  # doctest: +SKIP
    0.5468
    >>> report.baseline.overall.recall[1]  # doctest: +SKIP
    0.2652
    """
    workdir = Path(workdir)
    config = builders.load_config(workdir)
    options = (options or EvaluateOptions()).resolve(config)
    whole = builders.build_catalog(config)
    record = builders.RunProducts.read(workdir)
    catalog = select_split(whole, record, options.split)
    # A wrong domain raises now, not after minutes of embedding.
    evaluation.check_protocol(catalog, options.protocol_spec)
    scope = find_scope(config, workdir, whole, catalog, record, options)
    results, domains, seconds, files = {}, {}, {}, []
    embedded = {}
    for kind, build in _encoders(config, workdir, whole, options).items():
        start = time.monotonic()
        embeddings = builders.compute_embeddings(
            config, build(), catalog, options.batch_size, progress
        )
        embedded[kind] = embeddings
        results[kind] = evaluation.evaluate(
            embeddings,
            catalog,
            options.ks,
            options.protocol_spec,
            options.ties,
            options.clustering,
        )
        domains[kind] = _evaluate_domains(embeddings, catalog, options)
        seconds[kind] = round(time.monotonic() - start, 1)
        files.append(
            _save_embeddings(kind, embeddings, catalog, options, workdir)
        )
    start = time.monotonic()
    reranked = _rerank(embeddings, catalog, options)
    if reranked is not None:
        seconds["reranked"] = round(time.monotonic() - start, 1)
    report = EvaluationReport(
        workdir=workdir,
        options=options,
        results=results,
        domains=domains,
        seconds=seconds,
        scope=scope,
        catalog=catalog,
        embeddings=embeddings,
        embedding_files=tuple(files),
        gain=_gain(embedded, catalog, options),
        reranked=reranked,
    )
    report.write()
    return report


def _rerank(
    embeddings: evaluation.Embeddings,
    catalog: Catalog,
    options: EvaluateOptions,
) -> evaluation.Evaluation | None:
    """Scores the last encoder's answers once more, re-ranked."""
    if options.rerank == "none":
        return None
    return evaluation.evaluate(
        embeddings,
        catalog,
        options.ks,
        options.protocol_spec,
        options.ties,
        rerank=options.rerank,
    )


def _gain(
    embedded: dict[str, evaluation.Embeddings],
    catalog: Catalog,
    options: EvaluateOptions,
) -> evaluation.Gain | None:
    """Compares the trained encoder with the baseline, if both were scored."""
    if len(embedded) < 2:
        return None
    before, after = embedded["baseline"], embedded["trained"]
    # A file may have become unreadable between the two passes.
    if not np.array_equal(before.rows, after.rows):
        return None
    return evaluation.measure_gain(
        before,
        after,
        catalog,
        options.protocol_spec,
        options.ties,
    )


def _evaluate_domains(
    embeddings: evaluation.Embeddings,
    catalog: Catalog,
    options: EvaluateOptions,
) -> dict[tuple[str, str], evaluation.Evaluation]:
    """Scores all pairs of domains, unless two domains were asked for."""
    few = len(evaluation.named_domains(catalog)) <= _MOST_DOMAINS
    if options.query_domain or not few:
        return {}
    return evaluation.evaluate_domains(
        embeddings, catalog, options.ks, options.protocol_spec, options.ties
    )


def _encoders(
    config: ml_collections.ConfigDict,
    workdir: Path,
    catalog: Catalog,
    options: EvaluateOptions,
) -> dict[str, Callable[[], tf.keras.Model]]:
    """Returns what builds each encoder: one at a time is in memory."""
    encoders = {}
    if options.baseline == "pretrained":
        encoders["baseline"] = lambda: builders.build_baseline(config)
    if options.baseline == "neural_codes":
        encoders["baseline"] = lambda: builders.build_neural_codes(
            config, catalog, options.components or 0, options.batch_size
        )
    if options.checkpoint != "none":
        encoders["trained"] = lambda: builders.load_encoder(
            workdir, options.checkpoint, options.layer
        )
    return encoders


def _save_embeddings(
    kind: str,
    embeddings: evaluation.Embeddings,
    catalog: Catalog,
    options: EvaluateOptions,
    workdir: Path,
) -> Path:
    name = source = options.baseline
    if kind == "trained":
        name = options.checkpoint
        encoder = builders.encoder_path(workdir, name)
        source = f"sha256:{hashlib.sha256(encoder.read_bytes()).hexdigest()}"
        if options.layer:
            name += f"-{options.layer}"
            source += f", layer {options.layer}"
    file_name = clean_file_name(f"{options.split}-{name}") + ".npz"
    path = workdir / "embeddings" / file_name
    evaluation.save_embeddings(path, embeddings, catalog, source)
    return path
