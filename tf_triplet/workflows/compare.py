"""Several methods under one budget: every config with every seed, one table.

A study is a mapping from a method's name to a `Method`. `run` trains each
with each seed as `tf-triplet-train` would, in a process of its own, and
keeps the metrics of the *last* step: none is chosen by its test metrics.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
import pandas as pd

from tf_triplet import builders
from tf_triplet import config as configs

RESULT = "result.json"
# What a method is allowed to differ in, and still be one budget.
_SAME = ("data", "evaluation", "training.steps", "training.mixed_precision")


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        config: Of the run; `seed` is replaced.
        group: The question that it answers, a heading in the table.
        trained: False for the pretrained backbone's features as they are.
    """

    config: ml_collections.ConfigDict
    group: str = ""
    trained: bool = True


@dataclasses.dataclass(frozen=True)
class Run:
    """A method with one seed, done or failed.

    Attributes:
        method: Its name in the study.
        group: Its heading.
        seed: Of weights, sampling and augmentation.
        metrics: Metrics of the last step on the held-out split, by name;
            empty where the run failed.
        seconds: Of the whole process.
        error: What a failed run ended with, else empty.
        config: The fields in which the run differs from the defaults.
    """

    method: str
    group: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    error: str
    config: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns the run in the types that JSON has.

        `figures` is the former name of `metrics`, kept for older readers.
        """
        return {**dataclasses.asdict(self), "figures": self.metrics}


def check(study: Mapping[str, Method], free: Iterable[str] = ()) -> None:
    """Raises ValueError unless the methods can stand in one table.

    Args:
        study: The methods.
        free: Fields that may differ all the same, for instance
            `training.steps`.
    """
    if not study:
        raise ValueError("The study holds no method.")
    free = tuple(free)
    # A method of 0 steps uses less of the budget, whatever that is.
    trained = [n for n in study if study[n].config.training.steps]
    first_name = next(iter(trained or study))
    first = _budget(study[first_name].config)
    for name, method in study.items():
        if not re.fullmatch(r"[\w.+=-]+", name):
            raise ValueError(
                "A method's name is also its folder's: letters, digits and "
                f"any of . + = - _. Received: {name!r}"
            )
        try:
            builders.validate(method.config)
        except ValueError as error:
            raise ValueError(f"Method {name!r}: {error}") from error
        for field, value in _budget(method.config).items():
            if field == "training.steps" and not value:
                continue
            if value != first[field] and not field.startswith(free):
                raise ValueError(
                    f"Methods {first_name!r} and {name!r} differ in "
                    f"`{field}`: {first[field]!r} and {value!r}. One table "
                    "needs one data set, protocol and budget; or allow it by "
                    f"--differ={field}."
                )


def _budget(config: ml_collections.ConfigDict) -> dict[str, Any]:
    flat = configs.flatten(config.to_dict())
    return {k: v for k, v in flat.items() if k.startswith(_SAME)}


def run(
    study: Mapping[str, Method],
    seeds: Iterable[int],
    folder: Path,
    keep_models: bool = False,
    report: Callable[[Run, int, int], None] = lambda run, done, total: None,
) -> list[Run]:
    """Runs what is not done yet, seed by seed.

    Args:
        study: The methods, checked.
        seeds: Every method runs with each.
        folder: Gets `runs/<method>/<seed>/` with config, log, metrics and
            result. A result that is there, of the same config, is taken.
        keep_models: Keep checkpoints and encoders of finished runs.
        report: Told of every run when it is there, with how many are done
            and how many there will be.

    Returns:
        The runs in the study's order, failed ones among them.
    """
    jobs = [(seed, name) for seed in seeds for name in study]
    done = {}
    for i, (seed, name) in enumerate(jobs):
        workdir = folder / "runs" / name / str(seed)
        done[seed, name] = _run_one(
            name, study[name], seed, workdir, keep_models
        )
        report(done[seed, name], i + 1, len(jobs))
    return [done[seed, name] for name in study for seed in seeds]


def _run_one(
    name: str, method: Method, seed: int, workdir: Path, keep_models: bool
) -> Run:
    config = method.config.copy_and_resolve_references()
    config.seed = seed
    text = configs.to_json(config)
    result = workdir / RESULT
    if result.exists() and (workdir / "config.json").read_text() == text:
        found = json.loads(result.read_text())
        # Runs of earlier releases call their metrics figures.
        metrics = found.pop("figures")
        return Run(**{"metrics": metrics, **found, "group": method.group})
    if workdir.exists() and not _same_config(workdir, text):
        shutil.rmtree(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    error = _call(method, config, workdir)
    metrics = {}
    if not error and method.trained:
        metrics, step = _last_metrics(workdir)
        if step != config.training.steps:
            error = f"stopped at step {step} of {config.training.steps}"
    elif not error:
        metrics = _baseline_metrics(workdir)
    one = Run(
        method=name,
        group=method.group,
        seed=seed,
        metrics=metrics,
        seconds=round(time.monotonic() - start, 1),
        error=error,
        config=_from_default(config),
    )
    if not error:
        if not keep_models:
            _remove_models(workdir)
        partial = workdir / f"partial-{RESULT}"
        partial.write_text(json.dumps(one.to_dict(), indent=2) + "\n")
        os.replace(partial, result)
    return one


def _same_config(workdir: Path, text: str) -> bool:
    path = workdir / "config.json"
    return path.exists() and path.read_text() == text


def _call(
    method: Method, config: ml_collections.ConfigDict, workdir: Path
) -> str:
    """Runs the program; returns what it failed with, or nothing."""
    path = workdir / "config.json"
    if method.trained:
        # Beside the workdir: train holds it against the workdir's own.
        path = workdir.with_name(f"{workdir.name}-config.json")
        command = ["train", f"--config={configs.__file__}:{path.resolve()}"]
    else:
        command = ["evaluate", "--checkpoint=none", "--baseline=pretrained"]
    path.write_text(configs.to_json(config))
    command[0] = f"tf_triplet.cli.{command[0]}"
    with (workdir / "log.txt").open("w") as log:
        code = subprocess.run(
            [sys.executable, "-m", *command, f"--workdir={workdir}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if not code:
        return ""
    lines = (workdir / "log.txt").read_text(errors="replace").splitlines()
    told = [line for line in lines if line.startswith("error: ")] or lines[-1:]
    return f"{' '.join(told)} (exit code {code}, {workdir / 'log.txt'})"


def _baseline_metrics(workdir: Path) -> dict[str, float]:
    (path,) = (workdir / "report").glob("evaluation-*.json")
    metrics = json.loads(path.read_text())["baseline"]["overall"]
    return {k: v for k, v in metrics.items() if isinstance(v, float)}


def _last_metrics(workdir: Path) -> tuple[dict[str, float], int]:
    """The last evaluation's metrics, and its step."""
    last, step = {}, 0
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        metrics = {
            key.removeprefix("eval/"): value
            for key, value in values.items()
            if key.startswith("eval/")
        }
        if metrics:
            last, step = metrics, values["step"]
    return last, step


def _remove_models(workdir: Path) -> None:
    for path in ("checkpoints", "tensorboard", "embeddings"):
        shutil.rmtree(workdir / path, ignore_errors=True)
    for path in workdir.glob("*.keras"):
        path.unlink()


def _from_default(config: ml_collections.ConfigDict) -> dict[str, Any]:
    default = configs.flatten(configs.base_config().to_dict())
    flat = configs.flatten(config.to_dict())
    return {k: v for k, v in flat.items() if v != default[k]}


def summarize(runs: Iterable[Run]) -> pd.DataFrame:
    """A row a method in the order of the runs.

    Returns:
        Columns group, method, runs (finished), failed, and for every
        metric `<metric> mean` and `<metric> std`, the sample standard
        deviation (n - 1) over seeds, NaN for one run.
    """
    rows = []
    for (group, method), members in _by_method(runs).items():
        finished = [m for m in members if not m.error]
        frame = pd.DataFrame([m.metrics for m in finished], dtype=float)
        row = {
            "group": group,
            "method": method,
            "runs": len(finished),
            "failed": len(members) - len(finished),
        }
        for metric in frame:
            row[f"{metric} mean"] = frame[metric].mean()
            row[f"{metric} std"] = frame[metric].std(ddof=1)
        row["seconds mean"] = (
            sum(m.seconds for m in finished) / len(finished)
            if finished
            else float("nan")
        )
        rows.append(row)
    return pd.DataFrame(rows)


def _by_method(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    members: dict[tuple[str, str], list[Run]] = {}
    for one in runs:
        members.setdefault((one.group, one.method), []).append(one)
    return members


def machine() -> dict[str, Any]:
    """What the metrics were measured on."""
    import tensorflow as tf

    from tf_triplet.version import __version__

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
