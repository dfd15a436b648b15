"""Scores a trained encoder on images of products that it has never seen.

  tf-triplet-evaluate --workdir=runs/shop
  tf-triplet-evaluate --workdir=runs/shop --baseline=pretrained --neighbors=8
  tf-triplet-evaluate --workdir=runs/shop --layer=pool
  tf-triplet-evaluate --workdir=runs/shop --query_domain=street \\
      --gallery_domain=shop --ks=1,20
  tf-triplet-evaluate --workdir=runs/shop --rerank=k_reciprocal

Every image of the split queries all others, or one domain queries another. A
query is a hit if an image of the same product is among its K nearest. The
search is exact, and a query never finds itself. An option that is not given is
taken from the run's config. If the table has domains, each of them also queries
each other one.

A query of a held-out split must not show a product that the run was trained on.
--split=train and --split=all accept such queries and count them. A table that
has changed since the training is accepted, and the report says what changed.

--layer scores a layer before the embedding, which sometimes tells unseen
products apart better. The layer's name is added to the names of the files. To
train a new head on such a layer, see tf-triplet-train --help.

Files in the run's folder:
  report/evaluation-<split>.json           the metrics
  report/neighbours-<split>.png            with --neighbors
  report/projector-<split>.html            with --projector
  embeddings/<split>-<checkpoint>.npz      the vectors, ids and paths

In Python: tf_triplet.workflows.evaluate(workdir, options).
"""

from __future__ import annotations

import re

from absl import flags

from tf_triplet import builders, workflows
from tf_triplet.cli import program

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of a run of tf-triplet-train."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "best",
    ["best", "last", "none"],
    "Which encoder to score: that of the chosen step (best), that of the "
    "last step (last), or only the baseline (none).",
)
_BASELINE = flags.DEFINE_enum(
    "baseline",
    "none",
    ["none", "pretrained", "neural_codes"],
    "What to score for comparison: the features of the pretrained backbone "
    "(pretrained), or those features after a PCA-whitening that is fitted on "
    "the training images (neural_codes).",
)
_COMPONENTS = flags.DEFINE_integer(
    "components",
    None,
    "Number of dimensions that --baseline=neural_codes keeps. Default: the "
    "embedding size of the run.",
    lower_bound=1,
)
_LAYER = flags.DEFINE_string(
    "layer",
    "",
    "Score this layer of the trained encoder in place of its embedding. A "
    "feature map is averaged, and vectors get unit length. A wrong name lists "
    "the layers.",
)
_SPLIT = flags.DEFINE_string(
    "split",
    None,
    "Split of the catalog to score, several (val+test), or all. validation "
    "stands for the products by which the run chose its step. Default: "
    "evaluation.split of the config.",
)
_QUERY_DOMAIN = flags.DEFINE_string(
    "query_domain",
    None,
    "Domain of the queries. It needs --gallery_domain. Default: "
    "evaluation.query_domain of the config; if that is empty, every image "
    "queries all others.",
)
_GALLERY_DOMAIN = flags.DEFINE_string(
    "gallery_domain",
    None,
    "Domain of the images that are searched. Default: "
    "evaluation.gallery_domain of the config.",
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    None,
    builders.CHOICES["evaluation.protocol"],
    "Who queries whom. leave_one_out: every image queries all others. "
    "query_gallery: one domain queries another. per_pair: the same, but a "
    "query counts once for each pair that it belongs to. within_category: a "
    "query searches only its own category. auto: query_gallery if domains are "
    "given, otherwise leave_one_out. Default: evaluation.protocol of the "
    "config.",
)
_CLUSTERING = flags.DEFINE_bool(
    "clustering",
    None,
    "Also compute NMI and pairwise F1 of k-means with one cluster per "
    "product. This takes minutes for tens of thousands of products. Default: "
    "evaluation.clustering of the config.",
)
_KS = flags.DEFINE_list(
    "ks",
    None,
    "Ranks K of Recall@K and Precision@K, separated by commas: --ks=1,10,100. "
    "Default: evaluation.ks of the config.",
)
_TIES = flags.DEFINE_enum(
    "ties",
    None,
    builders.CHOICES["evaluation.ties"],
    "How equal scores of a right and a wrong image count: against the "
    "encoder, or as the expected value of a random order. Default: "
    "evaluation.ties of the config.",
)
_RERANK = flags.DEFINE_enum(
    "rerank",
    "none",
    ["none", "query_expansion", "k_reciprocal"],
    "Also score re-ranked answers. query_expansion searches again with the "
    "query moved toward its nearest images. k_reciprocal prefers images that "
    "share their neighbors with the query.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Number of images per forward pass. Default: evaluation.batch_size of the "
    "config.",
    lower_bound=1,
)
_NEIGHBORS = flags.DEFINE_integer(
    "neighbors",
    0,
    "Number of random queries to draw into a PNG, each with its five nearest "
    "images.",
    lower_bound=0,
)
flags.DEFINE_alias("neighbours", "neighbors")
_PROJECTOR = flags.DEFINE_bool(
    "projector",
    False,
    "Write an HTML file with a map of the embeddings (by TensorFlow "
    "Similarity).",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "JSON file of the metrics. Default: report/evaluation-<split>.json in "
    "the run's folder.",
)


@program.friendly
def main(argv: list[str]) -> None:
    """Evaluates a run."""
    program.refuse_arguments(argv)
    workdir = program.require("workdir", _WORKDIR.value, "folder of the run")
    options = workflows.EvaluateOptions(
        checkpoint=_CHECKPOINT.value,
        layer=_LAYER.value,
        baseline=_BASELINE.value,
        components=_COMPONENTS.value,
        split=_SPLIT.value,
        protocol=_PROTOCOL.value,
        query_domain=_QUERY_DOMAIN.value,
        gallery_domain=_GALLERY_DOMAIN.value,
        ks=_parse_ks(_KS.value),
        ties=_TIES.value,
        clustering=_CLUSTERING.value,
        rerank=_RERANK.value,
        batch_size=_BATCH_SIZE.value,
        output=_OUTPUT.value,
    )
    program.log_progress()
    report = workflows.evaluate(workdir, options)
    report.show()
    if _NEIGHBORS.value:
        print(f"Neighbors: {report.draw_neighbors(_NEIGHBORS.value)}")
    if _PROJECTOR.value:
        path, points = report.write_projector()
        print(f"Projector: {path} ({points:,} images)")


def _parse_ks(values: list[str] | None) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not values or not all(re.fullmatch("0*[1-9][0-9]*", v) for v in values):
        raise ValueError(
            "--ks must be positive ranks separated by commas, as in "
            f"--ks=1,10,100. Received: {','.join(values)!r}"
        )
    return tuple(map(int, values))


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
