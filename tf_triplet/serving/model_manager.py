"""Which versions of which models are in memory.

A new version is loaded and warmed beside the old one, then answers; the old
one is let go when its last request has ended. A version that does not load is
reported, and what serves goes on serving.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from tf_triplet.servable import versions
from tf_triplet.serving import batching, loading, version_policy
from tf_triplet.serving import server_metrics as metrics_lib
from tf_triplet.serving.errors import BY_NUMBER, Code, RequestError
from tf_triplet.serving.loaded_model import LoadedModel

State = get_model_status_pb2.ModelVersionStatus.State


@dataclasses.dataclass
class _Version:
    """One version, from its first sight on; it is remembered at its END."""

    path: Path
    state: int = State.START
    health: tuple[int, str] = loading.OK
    model: LoadedModel | None = None
    users: int = 0
    stamp: tuple = ()
    # What should take its place, of another folder, and does not load.
    instead: _Version | None = None


class ModelManager:
    """Loads, lends and unloads versions."""

    def __init__(
        self,
        scheduler: batching.BatchScheduler | None = None,
        metrics: metrics_lib.Metrics | None = None,
        labels_of_unavailable: bool = False,
    ):
        """Knows no model yet; see `configure`.

        Args:
            scheduler: makes batches of requests.
            metrics: counts loads.
            labels_of_unavailable: lets a label name a version that is not
                loaded.
        """
        self._scheduler = scheduler
        self._metrics = metrics or metrics_lib.Metrics()
        self._labels_of_unavailable = labels_of_unavailable
        self._models: dict[str, version_policy.Model] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._versions = collections.defaultdict(dict)
        self._unread: dict[str, str] = {}
        # The first guards what is above, the second is for who loads.
        self._changed = threading.Condition()
        self._changing = threading.RLock()
        self._watcher, self._ended = None, threading.Event()

    # Requests.

    @contextlib.contextmanager
    def lease(
        self, name: str, version: int | None = None, label: str = ""
    ) -> Iterator[LoadedModel]:
        """Lends a version; it stays loaded until it is given back.

        Args:
            name: of the model.
            version: None for the highest that is available.
            label: in place of a version.

        Raises:
            RequestError: there is no such version in memory.
        """
        with self._changed:
            lent = self._find(name, version, label)
            lent.users += 1
            model = lent.model
        try:
            yield model
        finally:
            # A version must not outlive its last request by a reference.
            del model
            with self._changed:
                lent.users -= 1
                if not lent.users:
                    self._changed.notify_all()

    def knows(self, name: str) -> bool:
        """Is it a model of the config?"""
        return name in self._models

    def statuses(
        self, name: str, version: int | None = None, label: str = ""
    ) -> list[tuple[int, int, tuple[int, str]]]:
        """Returns rows of (version, state, (code, message)), newest first."""
        with self._changed:
            if label:
                version = self._labeled(name, label)
            known = self._versions.get(name, {})
            if version is not None and version not in known:
                raise RequestError(
                    Code.NOT_FOUND,
                    f"Could not find version {version} of model {name}",
                )
            if not known:
                raise RequestError(
                    Code.NOT_FOUND,
                    f"Could not find any versions of model {name}",
                )
            return [
                (number, known[number].state, known[number].health)
                for number in sorted(known, reverse=True)
                if version in (None, number)
            ]

    def available(self, name: str) -> list[int]:
        """Returns the versions that answer, rising."""
        with self._changed:
            return sorted(
                number
                for number, one in self._versions.get(name, {}).items()
                if one.state == State.AVAILABLE
            )

    # Configuration.

    def configure(
        self,
        models: dict[str, version_policy.Model],
        waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        """Takes a config, and returns when its versions are available.

        Args:
            models: by name.
            waiting: asked while a model has no version yet: wait longer?

        Raises:
            RequestError: A policy names versions, and none of them exists
                (NOT_FOUND; the old config stays); a version does not load
                (UNKNOWN); a label names a version that is not loaded
                (FAILED_PRECONDITION).
        """
        for name, model in models.items():
            known = versions.list_versions(model.path)
            if known and not model.choose(known):
                raise RequestError(
                    Code.NOT_FOUND,
                    f"No version of model {name} that its policy names "
                    f"({', '.join(map(str, model.specific))}) is in "
                    f"{model.path}, which holds {', '.join(map(str, known))}",
                )
        with self._changing:
            with self._changed:
                self._models = dict(models)
        self.poll()
        while self._without_version() and waiting():
            time.sleep(0.05)
            self.poll()
        broken = self._broken()
        if broken:
            raise RequestError(
                Code.UNKNOWN,
                f"{len(broken)} servable(s) did not become available: "
                f"{{{', '.join(broken)}}}",
            )
        missing = self._without_version()
        if missing:
            raise RequestError(
                Code.DEADLINE_EXCEEDED, f"No version of {', '.join(missing)}"
            )
        self.take_labels(models)

    def take_labels(self, models: dict[str, version_policy.Model]) -> None:
        """Points the labels where a config says; all of them or none.

        Raises:
            RequestError: FAILED_PRECONDITION, a version is not available.
        """
        with self._changed:
            for name, model in models.items():
                for number in model.labels.values():
                    known = self._versions[name].get(number)
                    if not self._labels_of_unavailable and (
                        known is None or known.state != State.AVAILABLE
                    ):
                        raise RequestError(
                            Code.FAILED_PRECONDITION,
                            f"Request to assign label to version {number} of "
                            f"model {name}, which is not currently available "
                            "for inference",
                        )
            self._labels = {n: dict(m.labels) for n, m in models.items()}

    def poll(self) -> None:
        """Looks at the folders once; loads and unloads as the config says."""
        with self._changing:
            with self._changed:
                models = dict(self._models)
                served = set(self._versions) | set(models)
            for name in sorted(served):
                if name in models:
                    self._try_to_update(name, models[name])
                else:
                    for number in self.available(name):
                        self._unload(name, number)

    def watch(self, seconds: float) -> None:
        """Polls again and again, in a thread."""

        def run():
            while not self._ended.wait(seconds):
                try:
                    self.poll()
                except Exception:
                    # A folder that is away for a moment is no reason to end.
                    logging.exception("Polling the models failed.")

        self._watcher = threading.Thread(target=run, daemon=True)
        self._watcher.start()

    def release(self) -> None:
        """Stops watching, and unloads everything."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._changing:
            with self._changed:
                self._models = {}
            self.poll()

    # Inside.

    def _find(self, name, version, label) -> _Version:
        if not name:
            raise RequestError(
                Code.INVALID_ARGUMENT, "ModelSpec has no name specified."
            )
        if label:
            version = self._labeled(name, label)
        known = self._versions.get(name, {})
        wanted = version
        if wanted is None:
            wanted = max(
                (n for n, v in known.items() if v.state == State.AVAILABLE),
                default=None,
            )
        found = known.get(wanted)
        if found is None or found.state != State.AVAILABLE:
            which = (
                f"Latest({name})"
                if version is None
                else f"Specific({name}, {version})"
            )
            raise RequestError(
                Code.NOT_FOUND, f"Servable not found for request: {which}"
            )
        return found

    def _labeled(self, name, label) -> int:
        try:
            return self._labels[name][label]
        except KeyError:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {label}",
            ) from None

    def _without_version(self) -> list[str]:
        with self._changed:
            return [n for n in self._models if not self._versions.get(n)]

    def _broken(self) -> list[str]:
        with self._changed:
            return [
                f"{{{{name: {name} version: {number}}} due to error: "
                f"{BY_NUMBER[failed.health[0]].name}: {failed.health[1]}}}"
                for name, model in self._models.items()
                for number, one in self._versions.get(name, {}).items()
                if (failed := one.instead or one).health != loading.OK
                and number in model.choose(versions.list_versions(model.path))
            ]

    def _try_to_update(self, name, model) -> None:
        """One model's folder that cannot be read must not hide the others."""
        try:
            self._update(name, model)
            self._unread.pop(name, None)
        except OSError as error:
            # Once, not at every look.
            if self._unread.get(name) != str(error):
                logging.error("Model %s cannot be looked at: %s", name, error)
            self._unread[name] = str(error)

    def _update(self, name, model) -> None:
        chosen = model.choose(versions.list_versions(model.path))
        for number in chosen:
            self._load(name, number, model.path / str(number))
        # An empty folder, or broken versions alone: keep what answers.
        available = self.available(name)
        if set(chosen) & set(available):
            for number in available:
                if number not in chosen:
                    self._unload(name, number)

    def _load(self, name, number, path) -> None:
        with self._changed:
            known = self._versions[name].get(number)
        serving = known is not None and known.state == State.AVAILABLE
        if serving and known.path == path:
            known.instead = None
            return
        stamp = loading.stamp(path)
        tried = known.instead if serving else known
        # A broken one is tried again when its files change.
        if (
            tried is not None
            and tried.health != loading.OK
            and (tried.path, tried.stamp) == (path, stamp)
        ):
            return
        version = _Version(path, State.LOADING, stamp=stamp)
        if not serving:
            with self._changed:
                self._versions[name][number] = version
        model, health = loading.load(path, self._scheduler, self._metrics)
        with self._changed:
            version.model, version.health = model, health
            version.state = State.AVAILABLE if model else State.END
            if model:
                self._versions[name][number] = version
            elif serving:
                # The same number of another folder answers on.
                known.instead = version
        if not model:
            logging.error(
                "Version %d of %s does not load: %s", number, name, health[1]
            )
            return
        logging.info("Version %d of %s is available.", number, name)
        if serving:
            self._end(known)

    def _unload(self, name, number) -> None:
        with self._changed:
            version = self._versions[name][number]
        self._end(version)
        logging.info("Version %d of %s is unloaded.", number, name)

    def _end(self, version) -> None:
        with self._changed:
            version.state = State.UNLOADING
            self._changed.wait_for(lambda: not version.users)
            model, version.model = version.model, None
        model.release()
        with self._changed:
            version.state = State.END
