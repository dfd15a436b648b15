"""The options of the workflows, as one object each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import ml_collections

if TYPE_CHECKING:
    from tf_triplet.retrieval import ProtocolSpec

CHECKPOINTS = ("best", "last")
BASELINES = ("none", "pretrained", "neural_codes")
# Those of `tf_triplet.retrieval.reranking`, which needs SciPy.
RERANKINGS = ("none", "query_expansion", "k_reciprocal")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to publish, for `tf_triplet.workflows.export`.

    A field that is `None` is not given. Its value then comes from the version
    before if that version's encoder is kept (`same_encoder=True`), and from
    the `export` section of the run's config otherwise.

    Attributes:
        checkpoint: The encoder, "best" (the default) or "last".
        layer: Layer of the encoder to serve in place of its embedding, for
            instance "pool". Empty for the embedding itself.
        precision: Arithmetic of the encoder: "float32", "bfloat16" or
            "int8".
        catalog: What to index: a manifest (.csv or .parquet), or a folder that
            has one folder per product. By default, the catalog of the run.
        encoding: Encoding of a catalog that is given and is not UTF-8, for
            instance "cp1252". By default, `data.encoding` of the run.
        split: Split of the catalog to index, several ("val+test"), or "all".
            A `catalog` that is given is indexed whole by default.
        domains: Domains to index. Empty for all domains.
        index: "scann", or "exact" for a model without custom ops.
        k: Number of neighbors in an answer.
        columns: Extra columns of the manifest to answer. Empty for none.
        storage: How ScaNN stores the vectors, "float32" or "int8".
        group_by_product: Whether an answer names each product only once.
        min_recall: Share of the exact nearest neighbors that ScaNN must find,
            in [0, 1]. Nothing is published if it finds fewer.
        keep_versions: Number of the newest versions to keep; older ones are
            removed after publishing, except those that a server on this
            machine has loaded. By default, all are kept.
        allow_unreadable: Whether to publish although more than 5 % of the
            images cannot be read.
        allow_smaller_catalog: Whether to publish although there are fewer than
            half of the images of the version before.

    Example:

    >>> from tf_triplet.workflows import ExportOptions
    >>> ExportOptions(index="exact", columns=["price"]).given()
    {'index': 'exact', 'columns': ('price',)}
    """

    checkpoint: str | None = None
    layer: str | None = None
    precision: str | None = None
    catalog: str | Path | None = None
    encoding: str | None = None
    split: str | None = None
    domains: tuple[str, ...] | None = None
    index: str | None = None
    k: int | None = None
    columns: tuple[str, ...] | None = None
    storage: str | None = None
    group_by_product: bool | None = None
    min_recall: float | None = None
    keep_versions: int | None = None
    allow_unreadable: bool | None = None
    allow_smaller_catalog: bool | None = None

    def __post_init__(self) -> None:
        for name in ("domains", "columns"):
            values = getattr(self, name)
            if isinstance(values, str):
                raise ValueError(
                    f"`{name}` must be a list of strings. Received: {values!r}"
                )
            if values is not None:
                object.__setattr__(self, name, tuple(values))
        if self.keep_versions is not None and self.keep_versions < 1:
            raise ValueError(
                "`keep_versions` must be at least 1, because the newest "
                f"version always stays. Received: {self.keep_versions}"
            )

    def given(self) -> dict[str, object]:
        """Returns the fields that are not `None`, by name."""
        return {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """What to score and how, for `tf_triplet.workflows.evaluate`.

    A field that is `None` is not given. Its value then comes from the
    `evaluation` section of the run's config.

    Attributes:
        checkpoint: The encoder, "best" (of the chosen step) or "last" (of
            the last step). "none" to score the baseline alone.
        layer: Layer of the encoder to score in place of its embedding, for
            instance "pool". Empty for the embedding itself.
        baseline: What to score for comparison: "none", "pretrained" (the
            features of the backbone before any training), or "neural_codes"
            (those features after a PCA-whitening).
        components: Dimensions that the PCA-whitening keeps. By default, the
            embedding size of the run. Needs `baseline="neural_codes"`.
        split: Split of the catalog, several ("val+test"), or "all".
            "validation" stands for the validation products of the run, unless
            the catalog has a split of that name.
        protocol: Name of a `tf_triplet.retrieval.ProtocolSpec`.
        query_domain: Domain of the queries. Empty for all domains.
        gallery_domain: Domain of the images that are searched. Empty for all
            domains.
        ks: Ranks K of Recall@K and Precision@K. They are sorted.
        ties: How equal scores of a right and a wrong image count: "against"
            the encoder, or as the "expected" value of a random order.
        clustering: Whether to compute NMI and F1 of k-means too.
        rerank: How the answers are re-ranked in a second evaluation of the
            trained encoder: "query_expansion", "k_reciprocal", or "none".
        batch_size: Images per forward pass.
        output: The JSON file of the metrics. By default, it is in the run's
            folder.

    Raises:
        ValueError: If two fields contradict each other.

    Example:

    >>> from tf_triplet.workflows import EvaluateOptions
    >>> EvaluateOptions(ks=[10, 1]).ks
    (1, 10)
    >>> EvaluateOptions(checkpoint="none")
    Traceback (most recent call last):
        ...
    ValueError: `checkpoint=none` leaves only a baseline to score. Set \
`baseline` to pretrained or neural_codes. Received: `baseline=none`
    """

    checkpoint: str = "best"
    layer: str = ""
    baseline: str = "none"
    components: int | None = None
    split: str | None = None
    protocol: str | None = None
    query_domain: str | None = None
    gallery_domain: str | None = None
    ks: tuple[int, ...] | None = None
    ties: str | None = None
    clustering: bool | None = None
    rerank: str = "none"
    batch_size: int | None = None
    output: str | Path | None = None

    def __post_init__(self) -> None:
        if self.ks is not None:
            object.__setattr__(self, "ks", tuple(sorted(set(self.ks))))
            if not self.ks or self.ks[0] < 1:
                raise ValueError(
                    "`ks` must be ranks of 1 or more, such as (1, 10). "
                    f"Received: {self.ks}"
                )
        _check_choice("checkpoint", self.checkpoint, (*CHECKPOINTS, "none"))
        _check_choice("baseline", self.baseline, BASELINES)
        _check_choice("rerank", self.rerank, RERANKINGS)
        if self.checkpoint == "none" and self.baseline == "none":
            raise ValueError(
                "`checkpoint=none` leaves only a baseline to score. Set "
                "`baseline` to pretrained or neural_codes. Received: "
                "`baseline=none`"
            )
        if self.checkpoint == "none" and self.layer:
            raise ValueError(
                "`layer` is a layer of the trained encoder, which "
                "`checkpoint=none` leaves out. Leave `layer` empty. "
                f"Received: `layer={self.layer}`"
            )
        if self.components and self.baseline != "neural_codes":
            raise ValueError(
                "`components` needs `baseline=neural_codes`. Received: "
                f"`components={self.components}` and "
                f"`baseline={self.baseline}`"
            )

    @property
    def protocol_spec(self) -> ProtocolSpec:
        """The protocol and its domains, once all fields are given."""
        from tf_triplet.retrieval import ProtocolSpec

        return ProtocolSpec(
            self.protocol, self.query_domain, self.gallery_domain
        )

    def resolve(self, config: ml_collections.ConfigDict) -> EvaluateOptions:
        """Returns the options with every field given.

        Args:
            config: The run's config, which fills in what is `None`.

        Returns:
            A copy in which only `components` and `output` may be `None`.
        """
        missing = {
            name: config.evaluation[name]
            for name in config.evaluation
            if getattr(self, name, "") is None
        }
        return dataclasses.replace(self, **missing)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Received: {value!r}"
        )
