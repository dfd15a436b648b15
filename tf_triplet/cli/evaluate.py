"""Scores a trained encoder on images of products it never saw.

  tf-triplet-evaluate --workdir=runs/shop
  tf-triplet-evaluate --workdir=runs/shop --baseline=pretrained --neighbours=8
  tf-triplet-evaluate --workdir=runs/shop --layer=pool
  tf-triplet-evaluate --workdir=runs/shop --query_domain=street \\
      --gallery_domain=shop --ks=1,20

Every image of the split queries all others (or one domain queries another);
it is a hit when an image of the same product is among the K nearest. The
search is exact and the query itself is never found. What is not given is
taken from the run's config.

--layer reads a layer before the embedding, which may tell products that were
never seen apart better; its files have the layer's name at the end. To
train a new head on it, see tf-triplet-train --help.

Writes to the workdir:
  report/evaluation-<split>.json           the metrics
  report/neighbours-<split>.png            with --neighbours
  report/projector-<split>.html            with --projector
  embeddings/<split>-<checkpoint>.npz      the vectors, ids and paths
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from absl import flags, logging

from tf_triplet.cli import errors
from tf_triplet.retrieval import protocols

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run of tf-triplet-train."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "best",
    ["best", "last", "none"],
    "The encoder: of the best evaluation, of the last step, or none, to "
    "score the baseline alone.",
)
_BASELINE = flags.DEFINE_enum(
    "baseline",
    "none",
    ["none", "pretrained", "neural_codes"],
    "Score also the pretrained backbone's features without any training of "
    "ours, and show the change; neural_codes: with a PCA-whitening fitted on "
    "the training images.",
)
_COMPONENTS = flags.DEFINE_integer(
    "components",
    None,
    "Components of --baseline=neural_codes. [the run's embedding size]",
    lower_bound=1,
)
_LAYER = flags.DEFINE_string(
    "layer",
    "",
    "Read this layer of the trained encoder, averaged over a map and of unit "
    "length, in place of its embedding; a wrong name lists them.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "A split of the catalog, several (val+test), or all. [config: test]",
)
_QUERY_DOMAIN = flags.DEFINE_string(
    "query_domain",
    None,
    "Domain whose images query, with --gallery_domain. Empty: every "
    "image queries all others.",
)
_GALLERY_DOMAIN = flags.DEFINE_string(
    "gallery_domain", None, "Domain whose images are searched."
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    None,
    list(protocols.PROTOCOLS),
    "leave_one_out: every image queries all others. query_gallery: one "
    "domain queries another. per_pair: so, but a query counts once for each "
    "pair it stands in. within_category: only the query's category is "
    "searched. auto: as the domains say.",
)
_CLUSTERING = flags.DEFINE_bool(
    "clustering",
    None,
    "Also NMI and pairwise F1 of k-means with a cluster a product; minutes "
    "for tens of thousands of products.",
)
_KS = flags.DEFINE_list(
    "ks", None, "Ranks K of Recall@K and Precision@K: --ks=1,10,100."
)
_TIES = flags.DEFINE_enum(
    "ties",
    None,
    ["against", "expected"],
    "Equal scores of a right and a wrong image count against the system, "
    "or as the expected value of a random order.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images a forward pass.", lower_bound=1
)
_NEIGHBORS = flags.DEFINE_integer(
    "neighbours",
    0,
    "Draw so many random queries with their five nearest into a PNG.",
    lower_bound=0,
)
_PROJECTOR = flags.DEFINE_bool(
    "projector",
    False,
    "Write a map of the embeddings as an HTML file (TensorFlow Similarity).",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The JSON file, in place of the one in the workdir."
)


@dataclasses.dataclass(frozen=True)
class _Options:
    """The config's evaluation section, flags applied."""

    split: str
    query_domain: str
    gallery_domain: str
    ks: tuple[int, ...]
    ties: str
    batch_size: int
    protocol: str
    clustering: bool
    layer: str

    @property
    def protocol_spec(self) -> protocols.ProtocolSpec:
        """The protocol and its domains."""
        return protocols.ProtocolSpec(
            self.protocol, self.query_domain, self.gallery_domain
        )

    @property
    def name(self) -> str:
        """For a file: `test`, or `test-street-to-shop-per_pair-pool`."""
        name = self.split
        if self.query_domain:
            name += f"-{self.query_domain}-to-{self.gallery_domain}"
        if self.protocol in ("per_pair", "within_category"):
            name += f"-{self.protocol}"
        if self.layer:
            name += f"-{self.layer}"
        return _file_name(name)


def _file_name(name: str) -> str:
    """A split may be called anything."""
    return re.sub(r"[^\w.-]+", "_", name)


@errors.friendly
def main(argv) -> None:
    """Evaluates a run."""
    errors.refuse_arguments(argv)
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of the run>.")
    if _CHECKPOINT.value == "none" and _BASELINE.value == "none":
        raise ValueError(
            "--checkpoint=none leaves only a baseline to score: add "
            "--baseline=pretrained."
        )
    if _CHECKPOINT.value == "none" and _LAYER.value:
        raise ValueError(
            "--layer reads the trained encoder, which --checkpoint=none "
            f"leaves out. Received: --layer={_LAYER.value}"
        )
    if _COMPONENTS.value and _BASELINE.value != "neural_codes":
        raise ValueError(
            "--components are those of --baseline=neural_codes. Received: "
            f"--components={_COMPONENTS.value} --baseline={_BASELINE.value}"
        )
    ks = _parse_ks(_KS.value)
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)  # How far the embedding is.
    from tf_triplet import builders, evaluation

    workdir = Path(_WORKDIR.value)
    config = builders.load_config(workdir)
    options = _read_options(config, ks)
    whole = builders.build_catalog(config)
    catalog = whole.split(options.split)
    # Before the minutes that embedding takes.
    evaluation.check_protocol(catalog, options.protocol_spec)
    encoders = _encoders(workdir, config, whole, options)
    results, seconds = {}, {}
    for kind, load in encoders.items():
        start = time.monotonic()
        embeddings, results[kind] = _score(load(), catalog, config, options)
        seconds[kind] = round(time.monotonic() - start, 1)
        _save(workdir, kind, embeddings, catalog, options)
    _show(results, seconds)
    _write_json(workdir, results, seconds, options)
    # Of the trained encoder, which comes last where there is one.
    _write_images(workdir, embeddings, catalog, options)


def _encoders(workdir: Path, config, catalog, options: _Options) -> dict:
    """What is scored, in order: a function that makes each."""
    from tf_triplet import builders

    encoders = {}
    if _BASELINE.value == "pretrained":
        encoders["baseline"] = lambda: builders.build_baseline(config)
    if _BASELINE.value == "neural_codes":
        encoders["baseline"] = lambda: builders.build_neural_codes(
            config, catalog, _COMPONENTS.value or 0, options.batch_size
        )
    if _CHECKPOINT.value != "none":
        encoders["trained"] = lambda: builders.load_encoder(
            workdir, _CHECKPOINT.value, options.layer
        )
    return encoders


def _parse_ks(values: list[str] | None) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not values or not all(re.fullmatch("0*[1-9][0-9]*", v) for v in values):
        raise ValueError(
            "--ks takes positive ranks with commas between, as in "
            f"--ks=1,10,100. Received: {','.join(values)!r}"
        )
    return tuple(sorted(set(map(int, values))))


def _read_options(config, ks: tuple[int, ...] | None) -> _Options:
    given = {
        "split": _SPLIT.value,
        "query_domain": _QUERY_DOMAIN.value,
        "gallery_domain": _GALLERY_DOMAIN.value,
        "ks": ks,
        "ties": _TIES.value,
        "batch_size": _BATCH_SIZE.value,
        "protocol": _PROTOCOL.value,
        "clustering": _CLUSTERING.value,
    }
    return _Options(
        layer=_LAYER.value,
        **{
            name: config.evaluation[name] if value is None else value
            for name, value in given.items()
        },
    )


def _score(encoder, catalog, config, options: _Options):
    from tf_triplet import builders, evaluation

    embeddings = builders.compute_embeddings(
        config, encoder, catalog, options.batch_size
    )
    result = evaluation.evaluate(
        embeddings,
        catalog,
        options.ks,
        options.protocol_spec,
        options.ties,
        options.clustering,
    )
    return embeddings, result


def _save(workdir: Path, kind: str, embeddings, catalog, options) -> None:
    from tf_triplet import builders, evaluation

    name = source = _BASELINE.value
    if kind == "trained":
        name = _CHECKPOINT.value
        encoder = workdir / builders.CHECKPOINTS[name]
        source = f"sha256:{hashlib.sha256(encoder.read_bytes()).hexdigest()}"
        if options.layer:
            name += f"-{options.layer}"
            source += f", layer {options.layer}"
    file_name = f"{_file_name(f'{options.split}-{name}')}.npz"
    path = workdir / "embeddings" / file_name
    evaluation.save_embeddings(path, embeddings, catalog, source)
    print(f"Embeddings: {path}")


def _show(results: dict[str, Any], seconds: dict[str, float]) -> None:
    from rich.console import Console

    from tf_triplet.reporting import tables

    last = list(results)[-1]
    result = results[last]
    before = results["baseline"].overall if len(results) > 1 else None
    caption = (
        f"{result.queries:,} queries ({result.left_out:,} without a second "
        f"image left out), {result.gallery:,} images searched, ties "
        f"{result.ties}, {sum(seconds.values()):.0f} s"
    )
    if result.skipped:
        caption += f", {len(result.skipped):,} unreadable images skipped"
    console = Console()
    if result.by_category:
        console.print(
            tables.category_table(result.overall, before, "By category")
        )
    what = "trained encoder"
    if last == "baseline":
        what = f"{_BASELINE.value.replace('_', ' ')} features"
    elif _LAYER.value:
        what += f", layer {_LAYER.value}"
    title = f"{result.catalog}, {what}: {result.protocol}"
    console.print(tables.overall_table(result.overall, before, title, caption))
    for name, value in result.clustering.items():
        earlier = results["baseline"].clustering[name] if before else None
        change = "" if earlier is None else f" (baseline {earlier:.4f})"
        console.print(f"{name.upper()} of k-means: {value:.4f}{change}")
    for path in result.skipped[:20]:
        console.print(f"skipped: {path}", markup=False)


def _write_json(workdir: Path, results, seconds, options: _Options) -> None:
    suffix = "" if _CHECKPOINT.value == "best" else f"-{_CHECKPOINT.value}"
    if suffix == "-none" and _BASELINE.value != "pretrained":
        suffix += f"-{_BASELINE.value}"
    path = workdir / "report" / f"evaluation-{options.name}{suffix}.json"
    if _OUTPUT.value:
        path = Path(_OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "split": options.split,
        "checkpoint": _CHECKPOINT.value,
        "layer": options.layer,
        "baseline_kind": _BASELINE.value,
        "seconds": seconds,
        **{kind: result.to_dict() for kind, result in results.items()},
    }
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    print(f"Metrics: {path}")


def _write_images(workdir: Path, embeddings, catalog, options) -> None:
    if not _NEIGHBORS.value and not _PROJECTOR.value:
        return
    from tf_triplet import evaluation

    readable = catalog.select(embeddings.rows)
    report = workdir / "report"
    if _NEIGHBORS.value:
        from tf_triplet.reporting import neighbors as neighbors

        applied = evaluation.build_protocols(readable, options.protocol_spec)
        queries, found = neighbors.find_neighbors(
            embeddings.vectors, readable, applied, _NEIGHBORS.value
        )
        path = report / f"neighbours-{options.name}.png"
        neighbors.neighbor_grid(
            path, queries, found, title=applied[0].description
        )
        print(f"Neighbors: {path}")
    if _PROJECTOR.value:
        from tf_triplet.reporting import projector

        path = report / f"projector-{options.name}.html"
        points = projector.write_projector(
            path,
            embeddings.vectors,
            readable.paths,
            readable.row_product_ids,
            readable.category_names[readable.categories],
        )
        print(f"Projector: {path} ({points:,} images)")


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
