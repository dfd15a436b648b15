"""Tables of metrics for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from tf_triplet.retrieval.metrics import RetrievalMetrics

_TITLES = {"map@r": "MAP@R", "r_precision": "R-Precision"}


def overall_table(
    metrics: RetrievalMetrics,
    baseline: RetrievalMetrics | None = None,
    title: str = "",
    caption: str = "",
) -> Table:
    """Makes a table with one row per metric.

    Args:
        metrics: The metrics to show.
        baseline: Metrics to compare with, for instance those of the untrained
            features. With a baseline, the table shows the value before, the
            value after, and the change.
        title: Title above the table.
        caption: Caption below the table.

    Returns:
        A table that `rich` can print.
    """
    table = Table(
        # Catalog names can contain brackets, which Rich reads as markup.
        title=escape(title) or None,
        caption=escape(caption) or None,
    )
    table.add_column("metric")
    columns = ("value",) if baseline is None else ("before", "after", "change")
    for column in columns:
        table.add_column(column, justify="right")
    before = {} if baseline is None else baseline.named()
    for name, value in metrics.named().items():
        cells = [format_value(value)]
        if baseline is not None:
            earlier = before.get(name, math.nan)
            cells.insert(0, format_value(earlier))
            cells.append(format_change(value - earlier))
        table.add_row(format_metric(name), *cells)
    return table


def category_table(
    metrics: RetrievalMetrics,
    baseline: RetrievalMetrics | None = None,
    title: str = "",
) -> Table:
    """Makes a table with one row per category, and a last row for all.

    The columns are the number of queries, Recall@K and MAP@R.

    Args:
        metrics: The metrics to show, including `by_group`.
        baseline: Metrics to compare with. With a baseline, each cell shows
            the change in parentheses.
        title: Title above the table.

    Returns:
        A table that `rich` can print.
    """
    table = Table(title=escape(title) or None)
    table.add_column("category")
    table.add_column("queries", justify="right")
    table.add_column("left out", justify="right")
    names = [f"recall@{k}" for k in metrics.recall] + ["map@r"]
    for name in names:
        table.add_column(format_metric(name), justify="right")
    groups = {} if baseline is None else baseline.by_group
    rows = [*metrics.by_group.items(), (None, metrics)]
    for category, row in rows:
        earlier = baseline if category is None else groups.get(category)
        before = earlier.named() if earlier else {}
        values = row.named()
        cells = []
        for name in names:
            cell = format_value(values[name])
            if name in before:
                change = format_change(values[name] - before[name])
                cell = f"{cell} ({change})"
            cells.append(cell)
        if category is None:
            table.add_section()
        table.add_row(
            "all" if category is None else escape(str(category)) or "(none)",
            f"{row.queries:,}",
            f"{row.left_out:,}",
            *cells,
        )
    return table


def domain_table(
    pairs: Mapping[tuple[str, str], RetrievalMetrics],
    baselines: Mapping[tuple[str, str], RetrievalMetrics] | None = None,
    title: str = "",
) -> Table:
    """Makes a table of how well each domain finds products in each other one.

    Two domains have one column per direction, with the number of queries and
    all metrics. More domains have one row per query domain and one
    column per gallery domain, with Recall@K of the smallest K.

    Args:
        pairs: Metrics by pair of query domain and gallery domain.
        baselines: Metrics to compare with, by the same pairs. With them, each
            cell shows the change in parentheses.
        title: Title above the table.

    Returns:
        A table that `rich` can print. A pair without metrics shows a dash.
    """
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    first = next(iter(pairs.values()))
    if len(names) > 2:
        metric = next(iter(first.named()))
        return _domain_matrix(pairs, baselines, title, metric)
    table = Table(title=escape(title) or None)
    table.add_column("metric")
    for pair in pairs:
        table.add_column(escape(" -> ".join(pair)), justify="right")
    counts = {
        "queries": [f"{one.queries:,}" for one in pairs.values()],
        "left out": [f"{one.left_out:,}" for one in pairs.values()],
    }
    for name, cells in counts.items():
        table.add_row(name, *cells)
    for name in first.named():
        cells = [_pair_cell(pairs, baselines, pair, name) for pair in pairs]
        table.add_row(format_metric(name), *cells)
    return table


def _domain_matrix(
    pairs: Mapping[tuple[str, str], RetrievalMetrics],
    baselines: Mapping[tuple[str, str], RetrievalMetrics] | None,
    title: str,
    metric: str,
) -> Table:
    names = sorted({name for pair in pairs for name in pair})
    table = Table(
        title=escape(f"{title}, {format_metric(metric)}".lstrip(", ")),
        caption="rows query, columns are searched",
    )
    table.add_column("")
    for name in names:
        table.add_column(escape(name), justify="right")
    for query in names:
        table.add_row(
            escape(query),
            *(
                _pair_cell(pairs, baselines, (query, gallery), metric)
                for gallery in names
            ),
        )
    return table


def _pair_cell(
    pairs: Mapping[tuple[str, str], RetrievalMetrics],
    baselines: Mapping[tuple[str, str], RetrievalMetrics] | None,
    pair: tuple[str, str],
    metric: str,
) -> str:
    if pair not in pairs:
        return "-"
    value = pairs[pair].named()[metric]
    if not baselines or pair not in baselines:
        return format_value(value)
    change = format_change(value - baselines[pair].named()[metric])
    return f"{format_value(value)} ({change})"


def format_metric(name: str) -> str:
    """Returns the title of a metric: `Recall@1` for `recall@1`."""
    return _TITLES.get(name, name.capitalize())


def format_value(value: float) -> str:
    """Formats a value with three decimals, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def format_change(value: float) -> str:
    """Formats a difference with sign and three decimals; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:+.3f}"
