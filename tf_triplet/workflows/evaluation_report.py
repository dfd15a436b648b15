"""The report of an evaluation: on a terminal, as JSON, as images."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tf_triplet import evaluation
from tf_triplet.workflows.evaluation_scope import (
    EvaluationScope,
    format_share,
)
from tf_triplet.workflows.options import EvaluateOptions

if TYPE_CHECKING:
    from tf_triplet.data.catalog import Catalog

# Paths of unreadable images that are printed.
_LISTED = 20
# Domains that the headline names before it only counts them.
_NAMED_DOMAINS = 6


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationReport:
    """What `tf_triplet.workflows.evaluate` has measured and written.

    Attributes:
        workdir: The folder of the run.
        options: The options, all of them given.
        results: The evaluation of each encoder: `baseline`, `trained`, or
            both in this order.
        domains: The evaluation of each pair of query domain and gallery
            domain, by encoder. It is empty if two domains were asked for.
        seconds: Duration of each evaluation.
        scope: What the metrics are of, and how the step was chosen.
        catalog: The images.
        embeddings: Their embeddings by the trained encoder, or by the
            baseline if no other was scored.
        embedding_files: The files of embeddings, one for each encoder.
        gain: Recall@1 of the trained encoder over the baseline, with its
            interval, if both were scored. Each query counts once.
        reranked: The evaluation of the trained encoder, or else of the
            baseline, with re-ranked answers, if `options.rerank` asks for it.

    Example:

    >>> from tf_triplet import workflows
    >>> report = workflows.evaluate("runs/shop")  # doctest: +SKIP
    >>> report.metrics["recall@1"]  # doctest: +SKIP
    0.5468
    >>> report.draw_neighbors(8)  # doctest: +SKIP
    PosixPath('runs/shop/report/neighbours-test.png')
    """

    workdir: Path
    options: EvaluateOptions
    results: dict[str, evaluation.Evaluation]
    domains: dict[str, dict[tuple[str, str], evaluation.Evaluation]]
    seconds: dict[str, float]
    scope: EvaluationScope
    catalog: Catalog
    embeddings: evaluation.Embeddings
    embedding_files: tuple[Path, ...]
    gain: evaluation.Gain | None = None
    reranked: evaluation.Evaluation | None = None

    @property
    def trained(self) -> evaluation.Evaluation | None:
        """The evaluation of the trained encoder, if it was scored."""
        return self.results.get("trained")

    @property
    def baseline(self) -> evaluation.Evaluation | None:
        """The evaluation of the baseline, if it was scored."""
        return self.results.get("baseline")

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the trained encoder, or else of the baseline, by name."""
        return self._main.overall.named()

    @property
    def headline(self) -> str:
        """What the metrics are of: catalog, encoder, protocol and domains."""
        result = self._main
        headline = f"{result.catalog}, {self._subject}: {result.protocol}"
        names = evaluation.named_domains(self._readable)
        if self.options.query_domain or not names:
            return headline
        if len(names) < len(self._readable.domain_names):
            names.append("no domain")
        if len(names) == 1:
            return f"{headline}, of the domain {names[0]}"
        if len(names) > _NAMED_DOMAINS:
            return f"{headline}, of {len(names)} domains"
        return (
            f"{headline}, of the domains {', '.join(names[:-1])} and "
            f"{names[-1]} together"
        )

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader of the metrics must know."""
        notes = list(self.scope.notes)
        bad = len(self.embeddings.skipped)
        if bad:
            images = self.scope.images
            notes.append(
                f"{self._unreadable}: these metrics cover only the readable "
                f"part, {format_share(images - bad, images)} of the split, "
                "and must not be compared with others."
            )
        names = evaluation.named_domains(self._readable)
        pairs = any(self.domains.values())
        if len(names) > 1 and not self.options.query_domain and not pairs:
            notes.append(
                f"No pair of the {len(names)} domains was scored: they have no "
                "product in common, or they are too many. Name two with "
                "--query_domain and --gallery_domain."
            )
        return notes

    @property
    def file(self) -> Path:
        """The JSON file of the metrics.

        It is `options.output`, if that is given. Otherwise it is in the run's
        folder, and its name holds the split and all that differs from an
        ordinary evaluation: `evaluation-test-street-to-shop-last.json`.
        """
        options, suffix = self.options, ""
        if options.checkpoint != "best":
            suffix = f"-{options.checkpoint}"
        if options.checkpoint == "none" and options.baseline != "pretrained":
            suffix += f"-{options.baseline}"
        name = f"evaluation-{self._stem}{suffix}.json"
        return Path(options.output or self.workdir / "report" / name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as types that JSON can hold."""
        unreadable = len(self.embeddings.skipped)
        return {
            **self.scope.to_dict(),
            "headline": self.headline,
            "unreadable": unreadable,
            "unreadable_share": unreadable / self.scope.images,
            "comparable": not unreadable,
            "left_out": self._main.left_out,
            "notes": self.notes,
            "checkpoint": self.options.checkpoint,
            "layer": self.options.layer,
            "baseline_kind": self.options.baseline,
            "seconds": self.seconds,
            **{kind: one.to_dict() for kind, one in self.results.items()},
            "gain": dataclasses.asdict(self.gain) if self.gain else None,
            "reranked": self.reranked.to_dict() if self.reranked else None,
            "domains": {
                " -> ".join(pair): self._pair_to_dict(pair)
                for pair in self._main_domains
            },
        }

    def write(self) -> Path:
        """Writes the metrics as JSON.

        Returns:
            The file, which is `self.file`.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        self.file.write_text(text + "\n")
        return self.file

    def draw_neighbors(self, count: int) -> Path:
        """Draws random queries, each with its five nearest images.

        Args:
            count: Number of queries.

        Returns:
            The PNG file, in the run's folder.
        """
        from tf_triplet.reporting import neighbors

        readable = self._readable
        protocols = evaluation.build_protocols(
            readable, self.options.protocol_spec
        )
        queries, found = neighbors.find_neighbors(
            self.embeddings.vectors, readable, protocols, count
        )
        path = self.workdir / "report" / f"neighbours-{self._stem}.png"
        neighbors.neighbor_grid(
            path, queries, found, title=protocols[0].description
        )
        return path

    def write_projector(self) -> tuple[Path, int]:
        """Writes a map of the embeddings to explore in a browser.

        Returns:
            The HTML file, in the run's folder, and the number of images on
            the map. A large catalog is sampled.

        Raises:
            ValueError: If there are too few images, or a package is missing.
        """
        from tf_triplet.reporting import projector

        readable = self._readable
        path = self.workdir / "report" / f"projector-{self._stem}.html"
        points = projector.write_projector(
            path,
            self.embeddings.vectors,
            readable.paths,
            readable.row_product_ids,
            readable.category_names[readable.categories],
        )
        return path, points

    def show(self) -> None:
        """Prints the metrics as tables, and the names of the files."""
        from rich.console import Console

        from tf_triplet.reporting import tables

        result = self._main
        both = len(self.results) > 1
        before = self.baseline.overall if both else None
        console = Console()
        for path in self.embedding_files:
            print(f"Embeddings: {path}")
        if result.by_category:
            console.print(
                tables.category_table(result.overall, before, "By category")
            )
        console.print(
            tables.overall_table(
                result.overall, before, self.headline, self._caption
            )
        )
        if self._main_domains:
            pairs, earlier = (
                {pair: one.overall for pair, one in found.items()}
                for found in (
                    self._main_domains,
                    self.domains["baseline"] if both else {},
                )
            )
            title = "One domain queries another"
            console.print(tables.domain_table(pairs, earlier, title))
        for name, value in result.clustering.items():
            earlier = self.baseline.clustering[name] if both else None
            change = "" if earlier is None else f" (baseline {earlier:.4f})"
            console.print(f"{name.upper()} of k-means: {value:.4f}{change}")
        if self.gain is not None:
            print(f"Gain in Recall@1 over the baseline: {self.gain}")
        if self.reranked is not None:
            title = f"Re-ranked: {self.options.rerank.replace('_', ' ')}"
            milliseconds = 1e3 * self.seconds["reranked"] / result.queries
            console.print(
                tables.overall_table(
                    self.reranked.overall,
                    result.overall,
                    title,
                    f"beside the same answers as they are; {milliseconds:.1f} "
                    "ms a query, the metrics included",
                )
            )
        for path in result.skipped[:_LISTED]:
            console.print(f"skipped: {path}", markup=False)
        for line in (*self.scope.lines(), *self.notes):
            print(line)
        print(f"Metrics: {self.file}")

    @property
    def _main(self) -> evaluation.Evaluation:
        return self.trained or self.baseline

    @property
    def _main_domains(self) -> dict[tuple[str, str], evaluation.Evaluation]:
        return self.domains["trained" if self.trained else "baseline"]

    def _pair_to_dict(self, pair: tuple[str, str]) -> dict[str, Any]:
        """Returns the metrics of a pair of domains, and the baseline's."""
        result = self._main_domains[pair]
        values = {**result.overall.to_dict(), "gallery": result.gallery}
        if len(self.results) > 1:
            baseline = self.domains["baseline"][pair]
            values["baseline"] = baseline.overall.to_dict()
        return values

    @property
    def _readable(self) -> Catalog:
        return self.catalog.select(self.embeddings.rows)

    @property
    def _unreadable(self) -> str:
        bad, images = len(self.embeddings.skipped), self.scope.images
        noun = "image" if bad == 1 else "images"
        return (
            f"{bad:,} unreadable {noun} of {images:,} "
            f"({format_share(bad, images)})"
        )

    @property
    def _stem(self) -> str:
        """A name for files, such as `test-street-to-shop-per_pair-pool`."""
        options = self.options
        stem = options.split
        if options.query_domain:
            stem += f"-{options.query_domain}-to-{options.gallery_domain}"
        if options.protocol in ("per_pair", "within_category"):
            stem += f"-{options.protocol}"
        if options.layer:
            stem += f"-{options.layer}"
        return clean_file_name(stem)

    @property
    def _subject(self) -> str:
        """What the table is about."""
        if self.trained is None:
            return f"{self.options.baseline.replace('_', ' ')} features"
        if self.options.layer:
            return f"trained encoder, layer {self.options.layer}"
        return "trained encoder"

    @property
    def _caption(self) -> str:
        result = self._main
        caption = (
            f"{result.queries:,} queries ({result.left_out:,} without another "
            "image of their product to find left out), "
            f"{result.gallery:,} images searched, ties "
            f"{result.ties}, {sum(self.seconds.values()):.0f} s"
        )
        if result.skipped:
            caption += f", {self._unreadable} skipped"
        return caption


def clean_file_name(name: str) -> str:
    """Replaces characters that a file name should not hold.

    Args:
        name: Any text; a split or a domain may have any name.

    Returns:
        The text with `_` in their place.
    """
    return re.sub(r"[^\w.-]+", "_", name)
