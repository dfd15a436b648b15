"""Trains again on all training products, up to the step chosen first.

The second run lies in `<workdir>/refit`. Its encoder becomes `encoder.keras`
of the first run's folder, whose own is kept as `encoder_first.keras`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import ml_collections
from absl import logging

from tf_triplet import builders
from tf_triplet import config as configs
from tf_triplet.training import run_files

_FIRST = "encoder_first.keras"
_KEPT = "encoder.keras"


def train_again(
    workdir: Path,
    config: ml_collections.ConfigDict,
    run: Callable[..., int],
) -> None:
    """Trains again with the validation products, and keeps that encoder.

    A second call goes on where the first one stopped.

    Args:
        workdir: The folder of a run that is complete.
        config: The config of the run.
        run: Trains one run: `run(config, workdir, init_from=...,
            stop_at=...)`. If a signal stops it, it raises an error.

    Raises:
        ValueError: If an earlier version began the run.
    """
    record = builders.RunProducts.read(workdir)
    if record is None:
        raise ValueError(
            f"`refit` needs a run that has chosen its step by validation "
            f"products. Received: {str(workdir)!r}, a run of an earlier "
            "version, which has none."
        )
    if not record.validation or record.validation_split != "train":
        print(
            "There is nothing to train again: no training product was set "
            f"aside. {record.how}"
        )
        return
    best = run_files.read_best(workdir)
    if not best["step"]:
        print(
            "There is nothing to train again: no step was better than the "
            "encoder before training, which is kept."
        )
        return
    whole = config.copy_and_resolve_references()
    whole.data.validation_fraction = 0.0
    folder = workdir / "refit"
    _keep_only(folder, whole, best["step"], record.table)
    run(whole, folder, init_from=record.init_from, stop_at=best["step"])
    _keep_encoder(workdir, folder, record, best)


def restore_first(workdir: Path) -> None:
    """Makes the first encoder `encoder.keras` again, as the run goes on.

    Args:
        workdir: The folder of a run.
    """
    record = builders.RunProducts.read(workdir)
    if record is None or not record.refit:
        return
    best = run_files.read_best(workdir)
    _copy(workdir / _FIRST, workdir / _KEPT)
    if best:
        best.pop("refit", None)
        _write(workdir / "best.json", {**best, "sentence": record.how})
    dataclasses.replace(record, refit=False).write(workdir)


def _keep_only(
    folder: Path, config: ml_collections.ConfigDict, step: int, table: str
) -> None:
    """Deletes the second run if it was begun for another step or table."""
    aim = {"step": step, "table": table, "config": configs.to_json(config)}
    path = folder / "aim.json"
    # As JSON has it: lists in place of tuples.
    if _read_aim(path) != json.loads(json.dumps(aim)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _write(path, aim)


def _read_aim(path: Path) -> dict | None:
    """Reads what the second run was begun for; None if that is not known."""
    if not path.exists():
        return None
    try:
        return run_files.read_json(path, "The second training begins anew.")
    except ValueError as error:
        logging.warning("%s", error)
        return None


def _keep_encoder(
    workdir: Path, folder: Path, record: builders.RunProducts, best: dict
) -> None:
    """Replaces the encoder; after a kill, a second call completes it."""
    if not best.get("refit"):
        _copy(workdir / _KEPT, workdir / _FIRST)
    # The record comes first. After a kill it names too many products as
    # trained on, and never too few.
    dataclasses.replace(record, refit=True).write(workdir)
    products = len(record.train) + len(record.validation)
    sentence = (
        f"{record.how} The encoder was then trained again for as many steps "
        f"on all {products} training products."
    )
    _write(workdir / "best.json", {**best, "refit": True, "sentence": sentence})
    _copy(folder / _KEPT, workdir / _KEPT)


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f"partial-{target.name}")
    shutil.copyfile(source, partial)
    os.replace(partial, target)


def _write(path: Path, values: dict) -> None:
    run_files.write_text(path, json.dumps(values, indent=2) + "\n")
