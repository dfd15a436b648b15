"""Reads TensorFlow Serving's configuration files.

The tensorflow-serving-api package defines the message of models.config. It
lacks those of the batching, monitoring and TLS files, so they are defined
here.
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

from tf_triplet.serving import batching, server_metrics

_Field = descriptor_pb2.FieldDescriptorProto
# The type of each field of each message. A capitalized type is another
# message of this table.
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


def _define_messages():
    """Returns the classes of the messages above, by name."""
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


_CLASSES = _define_messages()


@dataclasses.dataclass(frozen=True)
class Tls:
    """The keys for TLS, as PEM texts.

    Attributes:
        key: The server's private key.
        certificate: The server's certificate.
        client_ca: The certificates that sign the clients' certificates.
        verify_client: Whether clients must present a certificate.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes | None = None
    verify_client: bool = False


def read_models(path: str | Path) -> model_server_config_pb2.ModelServerConfig:
    """Reads the file of --model_config_file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be parsed.
    """
    return _parse(path, model_server_config_pb2.ModelServerConfig())


def one_model(
    name: str, model_dir: str | Path
) -> model_server_config_pb2.ModelServerConfig:
    """Returns a config that serves the newest version of one model.

    Args:
        name: The name of the model in requests.
        model_dir: The folder that holds the numbered versions.
    """
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name,
        base_path=str(Path(model_dir).absolute()),
        model_platform="tensorflow",
    )
    return config


def read_batching(path: str | Path) -> batching.Parameters:
    """Reads the file of --batching_parameters_file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be parsed, or a value is out of range.
    """
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
    """Reads the file of --monitoring_config_file.

    Returns:
        The path of the metrics, or `None` if they are not enabled.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be parsed, or the path would hide the models.
    """
    message = _parse(path, _CLASSES["MonitoringConfig"]())
    config = message.prometheus_config
    if not config.enable:
        return None
    served = config.path or server_metrics.PATH
    if not served.startswith("/") or served.startswith("/v1/"):
        raise ValueError(
            f"{path}: `path` must begin with / and not with /v1/. Received: "
            f"{served!r}"
        )
    return served


def read_tls(path: str | Path) -> Tls:
    """Reads the file of --ssl_config_file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be parsed, or a key or certificate is missing.
    """
    message = _parse(path, _CLASSES["SSLConfig"]())
    for name, start in (("server_key", "KEY"), ("server_cert", "CERTIFICATE")):
        if start not in getattr(message, name):
            raise ValueError(
                f"{path}: `{name}` must hold the PEM text itself, not the "
                f"name of a file. Received: {getattr(message, name)[:40]!r}"
            )
    if message.client_verify and not message.custom_ca:
        raise ValueError(
            f"{path}: `client_verify` needs `custom_ca`, the certificate of "
            "the authority that signs the clients' certificates."
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
            f"{path} cannot be parsed, line:column {error}"
        ) from error
