"""What a config says of a model: its folder, its versions, their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.serving.errors import Code, RequestError


@dataclasses.dataclass(frozen=True)
class Model:
    """One model of models.config.

    Attributes:
        path: The folder that holds the numbered versions.
        latest: How many of the newest versions to serve. If 0, `specific`
            decides.
        specific: The numbers of the versions to serve. `None` means all.
        labels: The version that each label names.
    """

    path: Path
    latest: int = 1
    specific: tuple[int, ...] | None = ()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def choose(self, known: Sequence[int]) -> list[int]:
        """Returns the versions to serve, in rising order.

        Args:
            known: The versions in the folder.
        """
        if self.latest:
            return sorted(known)[-self.latest :]
        if self.specific is None:
            return sorted(known)
        return [number for number in sorted(known) if number in self.specific]


def read(
    config: model_server_config_pb2.ModelServerConfig,
) -> dict[str, Model]:
    """Reads the models of a config.

    Args:
        config: From a file or from a HandleReloadConfigRequest.

    Returns:
        The models, by name.

    Raises:
        RequestError: This server cannot serve the config.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise RequestError(
            Code.INVALID_ARGUMENT,
            "ServerModelConfig type not supported by "
            "HandleReloadConfigRequest. Only ModelConfigList is currently "
            "supported",
        )
    models = {}
    for entry in config.model_config_list.config:
        if not entry.name:
            raise RequestError(
                Code.INVALID_ARGUMENT, "A model of the config has no name"
            )
        if entry.name in models:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Illegal to list model {entry.name} multiple times in config "
                "list",
            )
        if not entry.base_path.startswith("/"):
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Expected model {entry.name} to have an absolute path or "
                f"URI; got base_path()={entry.base_path}",
            )
        if entry.model_platform not in ("", "tensorflow"):
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Model {entry.name} is of platform {entry.model_platform}; "
                "this server loads only tensorflow",
            )
        models[entry.name] = _model(entry)
    return models


def _model(entry) -> Model:
    policy = entry.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    latest, specific = 1, ()
    if kind == "latest":
        # TensorFlow Serving also takes a missing number as 1.
        latest = policy.latest.num_versions or 1
    elif kind == "specific":
        latest, specific = 0, tuple(policy.specific.versions)
        if not specific or min(specific) < 0:
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"Model {entry.name}: a specific policy must name the "
                f"versions to serve. Received: {list(specific)}",
            )
    elif kind == "all":
        latest, specific = 0, None
    return Model(
        Path(entry.base_path), latest, specific, dict(entry.version_labels)
    )
