"""TensorFlow Serving's configuration files, in its own text format.

The stubs on PyPI hold the message of models.config; those of the batching,
monitoring and TLS files they lack, so their fields are declared here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
)
from tensorflow_serving.config import model_server_config_pb2

from tf_triplet.serving import batching
from tf_triplet.serving import server_metrics as metrics

_Field = descriptor_pb2.FieldDescriptorProto
# message: {field: type}; a type in capitals is a message of this table.
_MESSAGES = {
    "Int64Value": {"value": "int64"},
    "StringValue": {"value": "string"},
    "BoolValue": {"value": "bool"},
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "allowed_batch_sizes": "repeated int64",
        "enable_large_batch_splitting": "BoolValue",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
}


def _declare():
    """Classes of the messages above."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tf_triplet/server_config.proto",
        package="tf_triplet",
        syntax="proto3",
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            label = _Field.LABEL_OPTIONAL
            if kind.startswith("repeated "):
                label = _Field.LABEL_REPEATED
            kind = kind.split()[-1]
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = (
                    _Field.TYPE_MESSAGE,
                    f".tf_triplet.{kind}",
                )
            else:
                added.type = getattr(_Field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tf_triplet.{name}")
        )
        for name in _MESSAGES
    }


_CLASSES = _declare()


@dataclasses.dataclass(frozen=True)
class Tls:
    """PEM texts, as gRPC takes them."""

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None
    verify_client: bool = False


def read_models(path: str | Path) -> model_server_config_pb2.ModelServerConfig:
    """Reads --model_config_file."""
    return _parse(path, model_server_config_pb2.ModelServerConfig())


def one_model(
    name: str, model_dir: str | Path
) -> model_server_config_pb2.ModelServerConfig:
    """The config of one model, its newest version served."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name,
        base_path=str(Path(model_dir).absolute()),
        model_platform="tensorflow",
    )
    return config


def read_batching(path: str | Path) -> batching.Parameters:
    """Reads --batching_parameters_file; a field left out has its default."""
    message = _parse(path, _CLASSES["BatchingParameters"]())
    given = {
        field.name: value.value
        for field, value in message.ListFields()
        if field.name != "allowed_batch_sizes"
    }
    try:
        return batching.Parameters(
            **given, allowed_batch_sizes=tuple(message.allowed_batch_sizes)
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_monitoring(path: str | Path) -> str | None:
    """Reads --monitoring_config_file: the path of the metrics, if enabled."""
    message = _parse(path, _CLASSES["MonitoringConfig"]())
    config = message.prometheus_config
    if not config.enable:
        return None
    served = config.path or metrics.PATH
    if not served.startswith("/") or served.startswith("/v1/"):
        raise ValueError(
            f"{path}: `path` must begin with / and not with /v1/. Received: "
            f"{served!r}"
        )
    return served


def read_tls(path: str | Path) -> Tls:
    """Reads --ssl_config_file."""
    message = _parse(path, _CLASSES["SSLConfig"]())
    for name, start in (("server_key", "KEY"), ("server_cert", "CERTIFICATE")):
        if start not in getattr(message, name):
            raise ValueError(
                f"{path}: `{name}` must hold the PEM text itself, not its "
                f"file's name. Received: {getattr(message, name)[:40]!r}"
            )
    if message.client_verify and not message.custom_ca:
        raise ValueError(
            f"{path}: `client_verify` needs `custom_ca`, the authority that "
            "signs the clients' certificates."
        )
    return Tls(
        message.server_key.encode(),
        message.server_cert.encode(),
        message.custom_ca.encode() or None,
        message.client_verify,
    )


def _parse(path, message):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        return text_format.Parse(path.read_text(), message)
    except text_format.ParseError as error:
        raise ValueError(
            f"{path} is not understood, line:column {error}"
        ) from error
