"""Keeps the right versions of the models in memory.

A new version is loaded and warmed up while the old one still answers. The
old one is unloaded when its last request has ended. A version that does not
load is reported, and the old one continues to answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from tf_triplet.servable import versions
from tf_triplet.serving import (
    batching,
    loading,
    server_metrics,
    version_policy,
)
from tf_triplet.serving.errors import BY_NUMBER, Code, RequestError
from tf_triplet.serving.version_table import State, Version, VersionTable


class ModelManager(VersionTable):
    """Loads and unloads the versions that the config asks for."""

    def __init__(
        self,
        scheduler: batching.BatchScheduler | None = None,
        metrics: server_metrics.Metrics | None = None,
        labels_of_unavailable: bool = False,
    ):
        """Makes a manager without models. Call `configure` to add them.

        Args:
            scheduler: Batches the requests. `None` runs each by itself.
            metrics: Counts the versions that are loaded.
            labels_of_unavailable: Whether a label may name a version that is
                not loaded.
        """
        super().__init__()
        self._scheduler = scheduler
        self._metrics = metrics or server_metrics.Metrics()
        self._labels_of_unavailable = labels_of_unavailable
        self._unreadable: dict[str, str] = {}
        # Held by the one thread that loads and unloads versions.
        self._changing = threading.RLock()
        self._watcher, self._ended = None, threading.Event()

    def configure(
        self,
        models: dict[str, version_policy.Model],
        waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        """Applies a config, and returns when its versions are available.

        Args:
            models: The models, by name.
            waiting: Called while a model has no version yet. It returns
                whether to wait longer.

        Raises:
            RequestError: None of the versions that a policy names exists
                (NOT_FOUND; the old config stays), a version does not load
                (UNKNOWN), no version appeared in time (DEADLINE_EXCEEDED),
                or a label names a version that is not loaded
                (FAILED_PRECONDITION).
        """
        for name, model in models.items():
            known = versions.list_versions(model.path)
            if known and not model.choose(known):
                raise RequestError(
                    Code.NOT_FOUND,
                    f"Model {name} has none of the versions that its policy "
                    f"names ({', '.join(map(str, model.specific))}): "
                    f"{model.path} holds {', '.join(map(str, known))}",
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
                Code.DEADLINE_EXCEEDED,
                f"There is no version of {', '.join(missing)}",
            )
        self.take_labels(models)

    def take_labels(self, models: dict[str, version_policy.Model]) -> None:
        """Applies the labels of a config, all of them or none.

        Args:
            models: The models, by name.

        Raises:
            RequestError: A labeled version is not available
                (FAILED_PRECONDITION).
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
        """Reads the folders once, then loads and unloads what has changed."""
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
        """Starts a thread that polls.

        Args:
            seconds: Time between two polls.
        """

        def run():
            while not self._ended.wait(seconds):
                try:
                    self.poll()
                except Exception:
                    # The folders may be readable again at the next poll.
                    logging.exception("Polling the model folders failed.")

        self._watcher = threading.Thread(target=run, daemon=True)
        self._watcher.start()

    def release(self) -> None:
        """Stops polling and unloads all versions."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._changing:
            with self._changed:
                self._models = {}
            self.poll()

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
                if (failed := one.replacement or one).health != loading.OK
                and number in model.choose(versions.list_versions(model.path))
            ]

    def _try_to_update(self, name, model) -> None:
        """Updates one model, whose folder may not be readable."""
        try:
            self._update(name, model)
            self._unreadable.pop(name, None)
        except OSError as error:
            # Logged once, not at every poll.
            if self._unreadable.get(name) != str(error):
                logging.error(
                    "The folder of model %s cannot be read: %s", name, error
                )
            self._unreadable[name] = str(error)

    def _update(self, name, model) -> None:
        chosen = model.choose(versions.list_versions(model.path))
        for number in chosen:
            self._load(name, number, model.path / str(number))
        # If the folder is empty or all new versions are broken, the old ones
        # stay.
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
            known.replacement = None
            return
        stamp = loading.stamp(path)
        tried = known.replacement if serving else known
        # A broken version is tried again only when its files change.
        if (
            tried is not None
            and tried.health != loading.OK
            and (tried.path, tried.stamp) == (path, stamp)
        ):
            return
        version = Version(path, State.LOADING, stamp=stamp)
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
                # The version that serves has the same number and stays.
                known.replacement = version
        if not model:
            logging.error(
                "Version %d of %s failed to load: %s", number, name, health[1]
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
