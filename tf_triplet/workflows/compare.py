"""Compares methods under one budget: `compare(study, seeds, folder)`.

Each method is trained with each seed as tf-triplet-train would train it, in a
process of its own, and then scored on the held-out split once. The table shows
the metrics of the *last* step, so no run is chosen by its test metrics.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import logging

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.training import folder_lock, run_files
from tf_triplet.version import __version__
from tf_triplet.workflows import child_programs
from tf_triplet.workflows.comparison import Comparison, StudyRun
from tf_triplet.workflows.study import Method, check_study
from tf_triplet.workflows.train_folder import last_step

__all__ = ["Method", "compare"]

_RESULT = "result.json"


def compare(
    study: Mapping[str, Method],
    seeds: Iterable[int],
    folder: str | Path,
    *,
    metrics: Sequence[str] = ("recall@1", "recall@10", "map@r"),
    differ: Iterable[str] = (),
    keep_models: bool = False,
    on_run: Callable[[StudyRun, int, int], None] | None = None,
    command: Sequence[str] = (),
) -> Comparison:
    """Trains every method with every seed, and writes one table.

    The folder gets `results.json` (every run), `table.md` (mean and standard
    deviation over seeds), `curves.md` (metrics over the steps, where the
    methods have validation products) and `runs/<method>/<seed>/`. All are
    written after each run; a table says if it is not complete. A second call
    continues where the first one stopped, and tries failed runs again. Ctrl-C
    or SIGTERM lets the run under way save a checkpoint first.

    Args:
        study: The methods by name.
        seeds: Seeds of weights, sampling and augmentation.
        folder: Folder of the comparison.
        metrics: Columns of the table. `results.json` holds all metrics.
        differ: Fields of data, evaluation and budget in which the methods may
            differ, for instance `training.steps`.
        keep_models: Whether to keep the checkpoints and encoders of finished
            runs.
        on_run: Called after each run with the run, how many are done, and how
            many there are.
        command: The command to record in `results.json`.

    Returns:
        The runs and their table. A failed run is not an error; see
        `Comparison.raise_for_failures`.

    Raises:
        KeyboardInterrupt: If a signal has stopped the comparison. The
            arguments are its number, and what to do next.
        ValueError: If the methods cannot stand in one table.
        OSError: If another process compares in the folder.

    Example:

    >>> from tf_triplet import workflows
    >>> study = workflows.read_study(
    ...     "configs/studies/emoji_ablation.py"
    ... )  # doctest: +SKIP
    >>> comparison = workflows.compare(
    ...     study, seeds=[0, 1, 2], folder="runs/ablation"
    ... )  # doctest: +SKIP
    >>> comparison.show()  # doctest: +SKIP
    """
    check_study(study, differ)
    folder, seeds = Path(folder), list(seeds)
    jobs = [(seed, name) for seed in seeds for name in study]
    done = {}
    with folder_lock.locked(folder):
        for i, (seed, name) in enumerate(jobs):
            workdir = folder / "runs" / name / str(seed)
            try:
                run = _run_one(name, study[name], seed, workdir, keep_models)
            except KeyboardInterrupt as stop:
                number = stop.args[0] if stop.args else signal.SIGINT
                raise KeyboardInterrupt(
                    number,
                    f"Stopped at {name}, seed {seed} ({i} of {len(jobs)} runs "
                    "are done). The same command continues.",
                ) from stop
            done[seed, name] = run
            comparison = _comparison(study, seeds, done, metrics)
            _write_results(folder, comparison, command)
            if on_run is not None:
                on_run(run, i + 1, len(jobs))
    return _comparison(study, seeds, done, metrics)


def _comparison(
    study: Mapping[str, Method],
    seeds: Sequence[int],
    done: Mapping[tuple[int, str], StudyRun],
    metrics: Sequence[str],
) -> Comparison:
    """Returns the runs so far, in the order of the study."""
    jobs = [(seed, name) for name in study for seed in seeds]
    runs = tuple(done[job] for job in jobs if job in done)
    return Comparison(runs, tuple(metrics), len(jobs))


def _write_results(
    folder: Path, comparison: Comparison, command: Sequence[str]
) -> None:
    results = {
        "command": list(command),
        "machine": _describe_machine(),
        "runs": [run.to_dict() for run in comparison.runs],
    }
    text = json.dumps(results, indent=2)
    run_files.write_text(folder / "results.json", text + "\n")
    run_files.write_text(folder / "table.md", comparison.to_markdown())
    curves = comparison.curves_to_markdown()
    if curves:
        run_files.write_text(folder / "curves.md", curves)


def _run_one(
    name: str, method: Method, seed: int, workdir: Path, keep_models: bool
) -> StudyRun:
    """Runs a method, or reads its result if it has run with this config."""
    given = method.config.copy_and_resolve_references()
    given.seed = seed
    config = builders.resolve_paths(given)
    goes_on = _has_config(workdir, config)
    result = workdir / _RESULT
    if goes_on and result.exists():
        found = _read_result(result, method.group)
        if found is not None:
            return found
    if workdir.exists() and not goes_on:
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    error = _run_programs(method, config, workdir)
    metrics = {}
    if not error:
        metrics, error = _read_metrics(method, config, workdir)
    run = StudyRun(
        method=name,
        group=method.group,
        seed=seed,
        metrics=metrics,
        seconds=round(time.monotonic() - start, 1),
        error=error,
        config=_changes(given),
        curve=_read_curve(workdir),
    )
    if not error:
        if not keep_models:
            _remove_models(workdir)
        run_files.write_text(result, json.dumps(run.to_dict(), indent=2) + "\n")
    return run


def _read_result(path: Path, group: str) -> StudyRun | None:
    """Reads the result of a run; None if the file is damaged."""
    try:
        found = run_files.read_json(path, "The run is repeated.")
        # Runs of earlier releases have only `figures`.
        metrics = found.pop("figures", {})
        return StudyRun(**{"metrics": metrics, **found, "group": group})
    except (ValueError, TypeError) as error:
        logging.warning("%s", error)
        return None


def _has_config(workdir: Path, config: ml_collections.ConfigDict) -> bool:
    """Tells whether a folder holds a run with this config."""
    if not (workdir / "config.json").exists():
        return False
    try:
        saved = builders.read_config(workdir)
    except ValueError as error:
        logging.warning("%s The run begins anew.", error)
        return False
    # What the config leaves open, the run has chosen.
    return not builders.config_changes(saved, builders.fill(config, saved))


def _run_programs(
    method: Method, config: ml_collections.ConfigDict, workdir: Path
) -> str:
    """Trains and evaluates in processes of their own; returns an error."""
    path = workdir / "config.json"
    commands = [["evaluate", "--checkpoint=none", "--baseline=pretrained"]]
    if method.trained:
        # Outside of the folder, where training writes its own config.
        path = workdir.with_name(f"{workdir.name}-config.json")
        commands = [
            ["train", f"--config={configs.__file__}:{path.resolve()}"],
            ["evaluate", "--checkpoint=last"],
        ]
    path.write_text(configs.to_json(config))
    # The code that this process trusts, or that the study names.
    fields = configs.flatten(config.to_dict())
    trusted = builders.program_flags(fields)
    log = workdir / "log.txt"
    log.unlink(missing_ok=True)
    for verb, *flags in commands:
        error = _run_program(verb, [*flags, *trusted], workdir, log)
        if error:
            return error
    return ""


def _run_program(
    verb: str, flags: Sequence[str], workdir: Path, log: Path
) -> str:
    command = [sys.executable, "-m", f"tf_triplet.cli.{verb}", *flags]
    with log.open("a") as file:
        code = child_programs.run(
            [*command, f"--workdir={workdir}"],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if not code:
        return ""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    message = " ".join(errors or lines[-1:])
    return f"{message} (exit code {code}, {log})"


def _read_metrics(
    method: Method, config: ml_collections.ConfigDict, workdir: Path
) -> tuple[dict[str, float], str]:
    """Returns the metrics of a run, and an error if it was stopped."""
    reports = (workdir / "report").glob("evaluation-*.json")
    newest = max(reports, key=lambda path: path.stat().st_mtime)
    kind, error = "baseline", ""
    if method.trained:
        kind, steps = "trained", config.training.steps
        step = last_step(workdir)
        if step != steps:
            error = f"stopped at step {step} of {steps}"
    metrics = json.loads(newest.read_text())[kind]["overall"]
    return {k: v for k, v in metrics.items() if isinstance(v, float)}, error


def _read_curve(workdir: Path) -> list[dict[str, float]]:
    """Returns the evaluations during a training, as in `StudyRun.curve`."""
    curve = []
    for row in run_files.read_rows(workdir / "metrics.jsonl"):
        found = {
            name.removeprefix("eval/"): value
            for name, value in row.items()
            if name.startswith("eval/")
        }
        if found:
            curve.append({"step": row["step"], **found})
    return curve


def _remove_models(workdir: Path) -> None:
    for path in ("checkpoints", "tensorboard", "embeddings"):
        shutil.rmtree(workdir / path, ignore_errors=True)
    for path in workdir.glob("*.keras"):
        path.unlink()


def _changes(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the fields that differ from the defaults, by name."""
    default = configs.flatten(configs.paper_config().to_dict())
    flat = configs.flatten(config.to_dict())
    return {k: v for k, v in flat.items() if v != default.get(k)}


def _describe_machine() -> dict[str, Any]:
    """Returns what the metrics were measured on."""
    import tensorflow as tf

    return {
        "tf_triplet": __version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
