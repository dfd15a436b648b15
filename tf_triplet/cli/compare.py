"""Trains several methods under one budget and writes one table.

  tf-triplet-compare --study=configs/studies/emoji_ablation.py \\
      --output=runs/ablation --seeds=0,1,2
  tf-triplet-compare --configs=mine.py,configs/emoji.py --output=runs/mine

A study is a Python file whose get_study() returns {name: Method}; --configs
makes one of config files, each named like its file. What follows a colon goes
to its function: configs/sop.py:smoke, emoji_methods.py:600. Every method
trains with every seed for the same number of steps on the same data; the
metrics are those of the last step on the held-out split. The same command
again goes on where it stopped, and a run that failed is tried again.

Writes to the output folder:
  results.json    every run: metrics, seconds, config, error; and the machine
  table.md        mean and standard deviation over seeds, a row a method
  runs/           config, log and metrics of every run
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import math
import sys
from pathlib import Path

from absl import flags

from tf_triplet.cli import errors

_STUDY = flags.DEFINE_string("study", None, "File with get_study().")
_CONFIGS = flags.DEFINE_list(
    "configs", None, "Config files to compare, in place of --study."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the comparison.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, with commas.")
_METHODS = flags.DEFINE_list(
    "methods", None, "Only these methods of the study, with commas."
)
_METRICS = flags.DEFINE_list(
    "metrics",
    ["recall@1", "recall@10", "map@r"],
    "Columns of the table, with commas; results.json has all.",
)
_DIFFER = flags.DEFINE_list(
    "differ",
    [],
    "Fields of data, evaluation and budget in which methods may differ, for "
    "instance training.steps.",
)
_KEEP_MODELS = flags.DEFINE_bool(
    "keep_models", False, "Keep every run's checkpoints and encoders."
)


@errors.friendly
def main(argv) -> None:
    """Compares."""
    errors.refuse_arguments(argv)
    if not _OUTPUT.value:
        raise ValueError("Pass --output=<folder of the comparison>.")
    seeds = _parse_seeds(_SEEDS.value)
    from tf_triplet.workflows import compare as comparison

    study = _choose(_read_study(), _METHODS.value)
    comparison.check(study, _DIFFER.value)
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    metrics = _METRICS.value
    print(f"{len(study)} methods with {len(seeds)} seeds each.", flush=True)

    def report(run, done, total):
        shown = "  ".join(
            f"{metric} {run.metrics[metric]:.4f}"
            for metric in metrics
            if metric in run.metrics
        )
        print(
            f"[{done}/{total}] {run.method}, seed {run.seed}: "
            f"{run.error or shown} ({run.seconds:.0f} s)",
            flush=True,
        )

    runs = comparison.run(study, seeds, folder, _KEEP_MODELS.value, report)
    table = comparison.summarize(runs)
    known = [m for m in metrics if f"{m} mean" in table]
    (folder / "results.json").write_text(
        json.dumps(
            {
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "machine": comparison.machine(),
                "runs": [run.to_dict() for run in runs],
            },
            indent=2,
        )
        + "\n"
    )
    (folder / "table.md").write_text(markdown(table, known))
    _show(table, known)
    print(f"Written: {folder / 'table.md'} and {folder / 'results.json'}")
    unknown = set(metrics) - set(known)
    failed = [run for run in runs if run.error]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed, the first: "
            f"{failed[0].method}, seed {failed[0].seed}: {failed[0].error}"
        )
    if unknown:
        raise ValueError(
            f"No run has the metrics {', '.join(sorted(unknown))} of "
            f"--metrics. There are: {', '.join(runs[0].metrics)}"
        )


def _parse_seeds(values: list[str]) -> list[int]:
    if not values or not all(value.isdecimal() for value in values):
        raise ValueError(
            "--seeds takes whole numbers with commas between, as in "
            f"--seeds=0,1,2. Received: {','.join(values)!r}"
        )
    return list(dict.fromkeys(map(int, values)))


def _read_study():
    from tf_triplet.workflows import compare as comparison

    if bool(_STUDY.value) == bool(_CONFIGS.value):
        raise ValueError("Pass --study or --configs, and not both.")
    if _STUDY.value:
        return dict(_load(_STUDY.value, "get_study")())
    study = {}
    for given in _CONFIGS.value:
        path, _, argument = given.partition(":")
        name = "_".join(filter(None, (Path(path).stem, argument)))
        if name in study:
            raise ValueError(
                f"Two of --configs are called {name!r}; a method is named "
                "like its file."
            )
        study[name] = comparison.Method(_load(given, "get_config")())
    return study


def _load(given: str, function: str):
    """A function of a file, with what stands behind the file's name."""
    path, colon, argument = given.partition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None:
        raise ValueError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"{path} does not define {function}().")
    made = getattr(module, function)
    if not colon:
        return made
    if not inspect.signature(made).parameters:
        raise ValueError(
            f"{function}() of {path} takes no argument. Received: {argument!r}"
        )
    return functools.partial(made, argument)


def _choose(study, names: list[str] | None):
    unknown = set(names or ()) - set(study)
    if unknown:
        raise ValueError(
            f"--methods must be of {', '.join(study)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    return {name: study[name] for name in (names or study)}


def _cell(row, metric: str) -> str:
    mean, deviation = row[f"{metric} mean"], row[f"{metric} std"]
    if math.isnan(mean):
        return "-"
    if math.isnan(deviation):
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {deviation:.4f}"


def markdown(table, metrics: list[str]) -> str:
    """The table as Markdown, groups as rows in bold."""
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


def _show(table, metrics: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("method", title="mean ± standard deviation over seeds")
    for metric in (*metrics, "runs"):
        shown.add_column(metric, justify="right")
    for group, rows in table.groupby("group", sort=False):
        if group:
            shown.add_section()
            shown.add_row(f"[bold]{group}[/bold]")
        for _, row in rows.iterrows():
            shown.add_row(
                row["method"],
                *(_cell(row, metric) for metric in metrics),
                str(row["runs"]),
            )
    Console().print(shown)


def run() -> None:
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
