"""Talks to a server over gRPC, and explains what went wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from absl import logging

if TYPE_CHECKING:
    from tensorflow_serving.apis import predict_pb2

# Seconds without a server after which a message says so.
_PATIENCE_S = 1.0

# Signatures that one with filters can replace.
_SEARCH = ("serving_default", "encode_and_search_exact")

# What TensorFlow adds to a message for programmers.
_NOISE = (
    re.compile(r"\{\{(?:function_)?node [^}]*\}\}\s*"),
    re.compile(r"\s*\[\[[^\]]*\]\]"),
    re.compile(r"\s*\[Op:\w+\](?: name: ?\S*)?"),
)


class QueryError(ValueError):
    """The server could not be reached, or refused the request."""


def connect(
    server: str, options: list[tuple[str, int]], ca_file: str | Path | None
) -> grpc.Channel:
    """Opens a channel.

    Args:
        server: The address, host:port.
        options: Options of gRPC.
        ca_file: PEM file of certificates, for a server with TLS. None connects
            without TLS.

    Returns:
        The channel, which connects when it is used.
    """
    if ca_file is None:
        return grpc.insecure_channel(server, options)
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    return grpc.secure_channel(server, credentials, options)


def wait_for_server(
    channel: grpc.Channel, server: str, timeout_s: float
) -> None:
    """Waits until a server accepts the connection.

    Args:
        channel: The channel to the server.
        server: The address, for messages.
        timeout_s: Number of seconds to wait.

    Raises:
        QueryError: If the server does not accept it in time.
    """
    if server.startswith(("http://", "https://")):
        raise QueryError(
            f"`server` must be host:port, without http://. Received: {server!r}"
        )
    ready = grpc.channel_ready_future(channel)
    patience = min(_PATIENCE_S, timeout_s)
    try:
        try:
            ready.result(patience)
            return
        except grpc.FutureTimeoutError:
            if timeout_s > patience:
                logging.warning(
                    "No gRPC server answers at %s yet. Waiting for up to %g s.",
                    *(server, timeout_s),
                )
        ready.result(timeout_s - patience)
    except grpc.FutureTimeoutError as error:
        raise QueryError(
            f"No gRPC server answers at {server} within {timeout_s:g} s. Start "
            "one with tf-triplet-serve --workdir=..., or pass "
            "--server=host:port (the port of gRPC, not of REST). A server "
            "with TLS also needs --ca_file."
        ) from error
    finally:
        ready.cancel()


def plain_text(message: str) -> str:
    """Removes the names of TensorFlow's operations from a message.

    Args:
        message: The text of an error.

    Returns:
        The text, without the names, which mean nothing to a reader.

    Example:

    >>> plain_text("{{function_node __wrapped__Cast}} bad image [Op:Cast]")
    'bad image'
    """
    for noise in _NOISE:
        message = noise.sub("", message)
    return message.strip()


def explain_error(error: grpc.RpcError, server: str, model: str) -> str:
    """Returns a message that says how to fix an error.

    Args:
        error: The error of a call.
        server: The address that was called.
        model: The name of the model that was asked for.
    """
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"{server} did not answer in time. Pass a longer --timeout_s if "
            "the server is busy."
        )
    details = plain_text(error.details() or "")
    text = f"{server} refused: {error.code().name}: {details}"
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        text += " It is overloaded, or has just stopped. Try again."
    if "input size does not match signature" in (error.details() or ""):
        text += (
            " A model with branches needs --domain (empty: the domain that "
            "queries) or --category. A model without branches takes neither."
        )
    if error.code() == grpc.StatusCode.NOT_FOUND:
        text += (
            f" The server's config names its models. Received: --model={model}"
        )
    return text


def build_request(
    images: Sequence[bytes],
    model: str,
    signature: str,
    domain: str | None,
    category: str | None,
    only_domain: str,
    only_category: str,
) -> predict_pb2.PredictRequest:
    """Returns the request that asks for the products in some images.

    The arguments are those of `tf_triplet.client.query`. With a filter, a
    signature that searches is replaced by the one that filters.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    inputs = {"domain": domain, "category": category}
    if only_domain or only_category:
        # A signature that filters needs both; an empty one matches all.
        inputs["domain_filter"] = only_domain
        inputs["category_filter"] = only_category
        if signature in _SEARCH:
            signature = "encode_and_search_filtered"
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["image_bytes"].CopyFrom(
        tf.make_tensor_proto(list(images), tf.string, [len(images)])
    )
    for name, value in inputs.items():
        if value is not None:
            values = [value] * len(images)
            request.inputs[name].CopyFrom(
                tf.make_tensor_proto(values, tf.string, [len(images)])
            )
    return request
