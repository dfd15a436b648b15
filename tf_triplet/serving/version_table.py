"""The versions of the models in memory, as requests see them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from tf_triplet.serving import loading, version_policy
from tf_triplet.serving.errors import Code, RequestError
from tf_triplet.serving.loaded_model import LoadedModel

State = get_model_status_pb2.ModelVersionStatus.State


@dataclasses.dataclass
class Version:
    """One version, which stays in the table even after it is unloaded.

    Attributes:
        path: The folder of the version.
        state: What GetModelStatus reports.
        health: The (code, message) of the error that kept it from loading.
        model: The model, while it is in memory.
        users: Number of requests that are running on it.
        stamp: Identifies the state of the files that were last loaded.
        replacement: A version of the same number in another folder, which
            failed to load in place of this one.
    """

    path: Path
    state: int = State.START
    health: tuple[int, str] = loading.OK
    model: LoadedModel | None = None
    users: int = 0
    stamp: tuple = ()
    replacement: Version | None = None


class VersionTable:
    """Lends the versions that are in memory, and reports their states."""

    def __init__(self):
        """Makes an empty table."""
        # Guards the fields below and the versions.
        self._changed = threading.Condition()
        self._models: dict[str, version_policy.Model] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._versions = collections.defaultdict(dict)

    @contextlib.contextmanager
    def lease(
        self, name: str, version: int | None = None, label: str = ""
    ) -> Iterator[LoadedModel]:
        """Lends a version, which stays loaded until the `with` block ends.

        A request must be answered within one lease, because another version
        may be the newest one at the next.

        Args:
            name: The name of the model.
            version: The number of the version. `None` means the highest one
                that is available.
            label: The label of a version, given instead of its number.

        Yields:
            The model.

        Raises:
            RequestError: No such version is available.
        """
        with self._changed:
            lent = self._find(name, version, label)
            lent.users += 1
            model = lent.model
        try:
            yield model
        finally:
            # This reference would keep the version in memory.
            del model
            with self._changed:
                lent.users -= 1
                if not lent.users:
                    self._changed.notify_all()

    def knows(self, name: str) -> bool:
        """Returns whether the config holds a model of this name."""
        return name in self._models

    def statuses(
        self, name: str, version: int | None = None, label: str = ""
    ) -> list[tuple[int, int, tuple[int, str]]]:
        """Reports the states of a model's versions.

        Args:
            name: The name of the model.
            version: The only version to report. `None` reports all.
            label: The label of a version, given instead of its number.

        Returns:
            Tuples of (version, state, (code, message)), newest first.

        Raises:
            RequestError: There is no such model, version or label.
        """
        with self._changed:
            if label:
                version = self._find_label(name, label)
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
        """Returns the versions that can answer, in rising order."""
        with self._changed:
            return sorted(
                number
                for number, one in self._versions.get(name, {}).items()
                if one.state == State.AVAILABLE
            )

    def _find(self, name, version, label) -> Version:
        if not name:
            raise RequestError(
                Code.INVALID_ARGUMENT, "ModelSpec has no name specified."
            )
        if label:
            version = self._find_label(name, label)
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

    def _find_label(self, name, label) -> int:
        try:
            return self._labels[name][label]
        except KeyError:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Unrecognized servable version label: {label}",
            ) from None
