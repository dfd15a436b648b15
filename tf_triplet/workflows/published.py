"""What was published, and how it differs from the version before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_triplet import builders
from tf_triplet.workflows.embed_catalog import EmbeddingCounts

# Paths of unreadable images that are printed.
_LISTED = 20
# Ids that a line names before it only counts.
_NAMED = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """A version that was published.

    Attributes:
        folder: The folder of the version.
        record: Its fingerprint, as in `assets.extra/fingerprint.json`: what
            is indexed, and what was measured.
        skipped: Paths of images that could not be read.
        changes: The products that are new, gone or changed since the version
            before. `None` if there is none, or if it does not record its
            products.
        removed: Numbers of the old versions that were removed.
        left: The reason for each version that should have been removed and
            was not, by its number.

    Example:

    >>> from tf_triplet import workflows
    >>> published = workflows.export("runs/shop")  # doctest: +SKIP
    >>> published.record["parity"]["recall"]  # doctest: +SKIP
    0.9975
    """

    folder: Path
    record: dict[str, Any]
    skipped: tuple[str, ...]
    changes: builders.TableDifference | None = None
    removed: tuple[int, ...] = ()
    left: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def describe(self) -> str:
        """Returns what was published and measured, as a few lines of text."""
        lines = [f"skipped: {path}" for path in self.skipped[:_LISTED]]
        more = len(self.skipped) - _LISTED
        if more > 0:
            lines.append(f"skipped: {more:,} more")
        lines += [*self._describe_products(), *self._describe_index()]
        lines.append(f"Published: {self.folder}")
        if self.removed:
            numbers = ", ".join(map(str, self.removed))
            lines.append(f"Removed old versions: {numbers}")
        for number, reason in self.left.items():
            lines.append(f"The old version {number} stays: {reason}.")
        return "\n".join(lines)

    def _describe_products(self) -> list[str]:
        """Returns what was indexed, and what is new in it."""
        record = self.record
        work = dict(record["work"])
        work.pop("pictures", None)
        lines = [EmbeddingCounts(**work).describe()]
        since = record["since_version"]
        if self.changes is not None:
            lines.append(_describe_changes(self.changes, since))
        elif since is not None:
            lines.append(
                f"Version {since} does not record its products, so what has "
                "changed is not known."
            )
        trained = record["trained_products"]
        lines.append(
            "The run does not record which products it was trained on."
            if trained is None
            else f"{trained:,} of the {record['products']:,} indexed products "
            "were trained on."
        )
        return lines

    def _describe_index(self) -> list[str]:
        """Returns what the checks measured."""
        record = self.record
        parity, tuning = record["parity"], record["tuning"]
        lines = [
            f"{record['images']} images of {record['products']} products; "
            f"served = evaluated to {parity['largest_difference']:.1e} on "
            f"{parity['images']} images; {record['index']} finds "
            f"{parity['recall']:.4f} of the exact {parity['k']} nearest."
        ]
        if tuning.get("leaves"):
            lines.append(
                f"ScaNN searches {tuning['leaves_to_search']} of "
                f"{tuning['leaves']} leaves and scores {tuning['reorder']} "
                "candidates again."
            )
        if "precision" in record:
            from tf_triplet.servable import precision_cost

            lines.append(precision_cost.describe(record["precision"]))
        if "recall_cost" in tuning:
            lines.append(
                f"int8 storage costs {tuning['recall_cost']:.4f} of recall."
            )
        return lines


def count_changes(
    changes: builders.TableDifference | None,
) -> dict[str, int] | None:
    """Returns how many products are new, gone and changed, for a record."""
    if changes is None:
        return None
    return {
        "new": len(changes.added),
        "gone": len(changes.removed),
        "changed": len(changes.replaced),
    }


def name_some(ids: Sequence[str]) -> str:
    """Returns the first few of some product ids, as one text."""
    names = ", ".join(ids[:_NAMED])
    return names + ", ..." if len(ids) > _NAMED else names


def _describe_changes(changes: builders.TableDifference, since: int) -> str:
    groups = {
        "new": changes.added,
        "gone": changes.removed,
        "changed": changes.replaced,
    }
    counts = [
        f"{len(ids):,} {word}" + (f" ({name_some(ids)})" if ids else "")
        for word, ids in groups.items()
    ]
    return f"Products since version {since}: {', '.join(counts)}."
