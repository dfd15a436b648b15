"""The runs of a comparison, and their table.

The table shows mean and standard deviation over the seeds of each method.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import rich.table


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One method with one seed, finished or failed.

    Attributes:
        method: Name of the method in the study.
        group: Heading of the method in the table.
        seed: Seed of weights, sampling and augmentation.
        metrics: Metrics of the last step on the held-out split, by name. They
            are empty if the run failed.
        seconds: Duration of the whole process.
        error: The error of a failed run, otherwise empty.
        config: The fields in which the run's config differs from the defaults.
        curve: Metrics on the validation products, one mapping for each
            evaluation during the training; "step" is its step. It is empty
            without validation products.

    Example:

    >>> from tf_triplet.workflows import StudyRun
    >>> run = StudyRun("paper", "", 0, {"recall@1": 0.5}, 61.0, "", {})
    >>> run.to_dict()["metrics"]
    {'recall@1': 0.5}
    """

    method: str
    group: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str
    config: dict[str, Any]
    curve: Sequence[dict[str, float]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the run as types that JSON can hold.

        `figures` is the former name of `metrics`, kept for older readers.
        """
        return {**dataclasses.asdict(self), "figures": self.metrics}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The runs of a study, and their table.

    Attributes:
        runs: The runs in the order of the study, failed ones among them.
        metrics: The metrics that the table should show.
        planned: Number of runs of the whole study. 0 means that these are all.

    Example:

    >>> from tf_triplet.workflows import Comparison, StudyRun
    >>> runs = [
    ...     StudyRun("paper", "", seed, {"recall@1": value}, 61.0, "", {})
    ...     for seed, value in enumerate([0.5, 0.6])
    ... ]
    >>> print(Comparison(tuple(runs), ("recall@1",)).to_markdown(), end="")
    | method | recall@1 | runs | seconds |
    |---|---:|---:|---:|
    | paper | 0.5500 ± 0.0707 | 2 | 61 |
    """

    runs: tuple[StudyRun, ...]
    metrics: tuple[str, ...]
    planned: int = 0

    @property
    def table(self) -> pd.DataFrame:
        """Mean and standard deviation of every metric, one row per method.

        The columns are `group`, `method`, `runs`, `failed`, `seconds mean`,
        and `<metric> mean` and `<metric> std` of each metric.
        """
        return summarize(self.runs)

    def to_markdown(self) -> str:
        """Returns the table as Markdown, which says if runs are missing."""
        table = self.table
        text = _to_markdown(table, self._known(table))
        missing = [run for run in self.runs if run.error]
        done = len(self.runs) - len(missing)
        planned = self.planned or len(self.runs)
        if done < planned:
            text += f"\nThis table is not complete: {done} of {planned} runs.\n"
        return text

    def curves_to_markdown(self) -> str:
        """Returns the first metric over the steps, a row for each method.

        Returns:
            A table of means over seeds on the validation products, as
            Markdown. It is empty if no run has validation products.
        """
        return _curves_to_markdown(self.runs, self.metrics[0])

    def show(self) -> None:
        """Prints the table on a terminal."""
        from rich.console import Console

        table = self.table
        shown = _to_rich(table, self._known(table))
        Console().print(shown)

    def raise_for_failures(self) -> None:
        """Raises an error if a run failed, or no run has one of the metrics.

        Raises:
            ValueError: If so. The message names the first failed run.
        """
        failed = [run for run in self.runs if run.error]
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(self.runs)} runs failed, the first: "
                f"{failed[0].method}, seed {failed[0].seed}: {failed[0].error}"
            )
        unknown = set(self.metrics) - set(self._known(self.table))
        if unknown:
            raise ValueError(
                "`metrics` must be metrics of the runs: "
                f"{', '.join(self.runs[0].metrics)}. "
                f"Received: {', '.join(sorted(unknown))}"
            )

    def _known(self, table: pd.DataFrame) -> list[str]:
        return [name for name in self.metrics if f"{name} mean" in table]


def summarize(runs: Iterable[StudyRun]) -> pd.DataFrame:
    """Computes mean and standard deviation over the seeds of each method.

    Args:
        runs: The runs, failed ones among them.

    Returns:
        One row per method, in the order of the runs. The columns are `group`,
        `method`, `runs` (the number of finished runs), `failed` and
        `seconds mean`, and for every metric `<metric> mean` and `<metric>
        std`. The latter is the sample standard deviation, NaN for one run.
    """
    import pandas as pd

    members: dict[tuple[str, str], list[StudyRun]] = {}
    for run in runs:
        members.setdefault((run.group, run.method), []).append(run)
    rows = []
    for (group, method), own in members.items():
        finished = [run for run in own if not run.error]
        frame = pd.DataFrame([run.metrics for run in finished], dtype=float)
        row = {
            "group": group,
            "method": method,
            "runs": len(finished),
            "failed": len(own) - len(finished),
        }
        for metric in frame:
            row[f"{metric} mean"] = frame[metric].mean()
            row[f"{metric} std"] = frame[metric].std(ddof=1)
        seconds = [run.seconds for run in finished]
        row["seconds mean"] = (
            sum(seconds) / len(seconds) if seconds else math.nan
        )
        rows.append(row)
    return pd.DataFrame(rows)


def _to_markdown(table: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Formats the table as Markdown, with the groups as headings in bold.

    Args:
        table: The table, from `summarize`.
        metrics: The metrics to show.

    Returns:
        The lines of the table.
    """
    lines = [
        f"| method | {' | '.join(metrics)} | runs | seconds |",
        f"|---|{'---:|' * (len(metrics) + 2)}",
    ]
    for group, rows in table.groupby("group", sort=False):
        if group:
            lines.append(f"| **{group}** |{' |' * (len(metrics) + 2)}")
        for _, row in rows.iterrows():
            cells = " | ".join(_cell(row, metric) for metric in metrics)
            lines.append(
                f"| {row['method']} | {cells} | {row['runs']} | "
                f"{row['seconds mean']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def _curves_to_markdown(runs: Sequence[StudyRun], metric: str) -> str:
    values: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        for point in run.curve:
            if metric in point and not run.error:
                steps = values.setdefault(run.method, {})
                steps.setdefault(int(point["step"]), []).append(point[metric])
    if not values:
        return ""
    steps = sorted(
        {step for of_method in values.values() for step in of_method}
    )
    lines = [
        f"{metric} on the validation products, by step:",
        "",
        f"| method | {' | '.join(map(str, steps))} |",
        f"|---|{'---:|' * len(steps)}",
    ]
    for method, of_method in values.items():
        cells = (
            f"{sum(found) / len(found):.4f}" if found else "-"
            for found in (of_method.get(step, []) for step in steps)
        )
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _to_rich(table: pd.DataFrame, metrics: Sequence[str]) -> rich.table.Table:
    """Formats the table for a terminal.

    Args:
        table: The table, from `summarize`.
        metrics: The metrics to show.

    Returns:
        A table that Rich prints.
    """
    from rich.markup import escape
    from rich.table import Table

    shown = Table("method", title="mean ± standard deviation over seeds")
    for metric in (*metrics, "runs"):
        shown.add_column(metric, justify="right")
    for group, rows in table.groupby("group", sort=False):
        if group:
            shown.add_section()
            shown.add_row(f"[bold]{escape(group)}[/bold]")
        for _, row in rows.iterrows():
            shown.add_row(
                row["method"],
                *(_cell(row, metric) for metric in metrics),
                str(row["runs"]),
            )
    return shown


def _cell(row: pd.Series, metric: str) -> str:
    mean, deviation = row[f"{metric} mean"], row[f"{metric} std"]
    if math.isnan(mean):
        return "-"
    if math.isnan(deviation):
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {deviation:.4f}"
