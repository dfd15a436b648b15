"""Trains several methods under one budget, and writes one table.

  tf-triplet-compare --study=configs/studies/emoji_ablation.py \\
      --output=runs/ablation --seeds=0,1,2
  tf-triplet-compare --configs=mine.py,configs/emoji.py --output=runs/mine

A study is a Python file whose get_study() returns {name: Method}. --configs
makes a study of config files, each method with the name of its file. Text
behind a colon is passed to the file's function: configs/sop.py:smoke,
emoji_methods.py:600. Every method is trained with every seed, for the same
number of steps on the same data. The metrics are those of the last step on the
held-out split. The same command again continues where it stopped, and tries
failed runs again.

Files in the output folder:
  results.json    metrics, seconds, config and error of every run; the machine
  table.md        mean and standard deviation over seeds, one row per method
  runs/           config, log and metrics of every run

In Python: tf_triplet.workflows.compare(study, seeds, folder).
"""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from tf_triplet import workflows
from tf_triplet.cli import program

_STUDY = flags.DEFINE_string("study", None, "Python file with get_study().")
_CONFIGS = flags.DEFINE_list(
    "configs",
    None,
    "Config files to compare in place of --study, separated by commas.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the comparison.")
_SEEDS = flags.DEFINE_list(
    "seeds",
    ["0", "1", "2"],
    "Seeds of weights, sampling and augmentation, separated by commas.",
)
_METHODS = flags.DEFINE_list(
    "methods",
    None,
    "Methods of the study to compare, separated by commas. Default: all.",
)
_METRICS = flags.DEFINE_list(
    "metrics",
    ["recall@1", "recall@10", "map@r"],
    "Columns of the table, separated by commas. results.json has all metrics.",
)
_DIFFER = flags.DEFINE_list(
    "differ",
    [],
    "Fields of data, evaluation and budget in which the methods may differ, "
    "for instance training.steps.",
)
_KEEP_MODELS = flags.DEFINE_bool(
    "keep_models",
    False,
    "Keep the checkpoints and encoders of finished runs.",
)


@program.friendly
def main(argv: list[str]) -> None:
    """Compares."""
    program.refuse_arguments(argv)
    folder = program.require(
        "output", _OUTPUT.value, "folder of the comparison"
    )
    seeds = _parse_seeds(_SEEDS.value)
    if bool(_STUDY.value) == bool(_CONFIGS.value):
        raise ValueError("Pass --study or --configs, and not both.")
    if _STUDY.value:
        study = workflows.read_study(_STUDY.value)
    else:
        study = workflows.read_configs(_CONFIGS.value)
    if _METHODS.value:
        study = workflows.choose_methods(study, _METHODS.value)
    print(f"{len(study)} methods with {len(seeds)} seeds each.", flush=True)
    comparison = workflows.compare(
        study,
        seeds,
        folder,
        metrics=_METRICS.value,
        differ=_DIFFER.value,
        keep_models=_KEEP_MODELS.value,
        on_run=_print_run,
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
    )
    comparison.show()
    files = [str(Path(folder) / f) for f in ("table.md", "results.json")]
    print(f"Written: {' and '.join(files)}")
    comparison.raise_for_failures()


def _print_run(run: workflows.StudyRun, done: int, total: int) -> None:
    shown = "  ".join(
        f"{metric} {run.metrics[metric]:.4f}"
        for metric in _METRICS.value
        if metric in run.metrics
    )
    print(
        f"[{done}/{total}] {run.method}, seed {run.seed}: "
        f"{run.error or shown} ({run.seconds:.0f} s)",
        flush=True,
    )


def _parse_seeds(values: list[str]) -> list[int]:
    if not values or not all(value.isdecimal() for value in values):
        raise ValueError(
            "--seeds must be whole numbers separated by commas, as in "
            f"--seeds=0,1,2. Received: {','.join(values)!r}"
        )
    return list(dict.fromkeys(map(int, values)))


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
