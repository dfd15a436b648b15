"""Asks a server over TF Serving's gRPC, with the official stubs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc

from tf_triplet.data import transcode

MAX_MESSAGE_BYTES = 64 << 20


class QueryError(ValueError):
    """The server could not be asked, or refused."""


class ImageError(QueryError):
    """The server refused what it was sent."""


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """One row of an answer.

    Attributes:
        product_id: of the product.
        score: cosine of the two embeddings.
        path: of its image.
        columns: further ones of the catalog that the model answers.
    """

    product_id: str
    score: float
    path: str
    columns: Mapping[str, str] = dataclasses.field(
        default_factory=dict, hash=False
    )


def read_image(path: str | Path, box: Sequence[float] | None = None) -> bytes:
    """Returns an image file's bytes as a server can decode them.

    Args:
        path: of the file.
        box: `[4]` floats x1, y1, x2, y2 in pixels of the upright image: the
            part to ask for. None: all of it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no image, or the box no box.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path} is empty (0 bytes): not an image.")
    try:
        data = transcode.servable(data)
    except ValueError as error:
        raise ValueError(f"{path} is not an image: {error}") from error
    if box is None:
        return data
    import tensorflow as tf

    from tf_triplet.data import crops

    try:
        return crops.ask_for(data, box)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{path} is not an image: {error.message}") from error


def query(
    images: Sequence[bytes],
    server: str = "localhost:8500",
    model: str = "product_search",
    signature: str = "serving_default",
    timeout_s: float = 30.0,
    domain: str | None = None,
    category: str | None = None,
    ca_file: str | Path | None = None,
    only_domain: str = "",
    only_category: str = "",
) -> list[list[Neighbor]]:
    """Sends image bytes; returns each one's neighbors, nearest first.

    Args:
        images: image files' bytes, as `read_image` gives them.
        server: host:port.
        model: its name.
        signature: one that answers products.
        timeout_s: seconds to wait for the answer.
        domain: of all the images, for a model with a branch a domain; ""
            is the domain that queries. None sends none.
        category: of all the images, for a model with a branch a category.
        ca_file: PEM certificates that the server's is held against; None
            asks without TLS.
        only_domain: answer images of this domain alone; "" of any. With
            it, or the next, serving_default becomes
            encode_and_search_filtered.
        only_category: likewise.

    Raises:
        QueryError: no server, an unknown model, a refused image, a domain
            or category that the model does not take, or a signature that
            answers no products.
    """
    import tensorflow as tf
    from tensorflow_serving.apis import (
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    filtered = bool(only_domain or only_category)
    if filtered and signature == "serving_default":
        signature = "encode_and_search_filtered"
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    request.inputs["image_bytes"].CopyFrom(
        tf.make_tensor_proto(list(images), tf.string, [len(images)])
    )
    inputs = {"domain": domain, "category": category}
    if filtered:
        # A filtering signature wants both; "" is any.
        inputs["domain_filter"] = only_domain
        inputs["category_filter"] = only_category
    for name, value in inputs.items():
        if value is not None:
            values = [value] * len(images)
            request.inputs[name].CopyFrom(
                tf.make_tensor_proto(values, tf.string, [len(images)])
            )
    size = MAX_MESSAGE_BYTES
    options = [
        ("grpc.max_send_message_length", size),
        ("grpc.max_receive_message_length", size),
    ]
    with _channel(server, options, ca_file) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            response = stub.Predict(request, timeout=timeout_s)
        except grpc.RpcError as error:
            kind = QueryError
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                kind = ImageError
            raise kind(_explain(error, server, model)) from error
    names = ("product_ids", "scores", "paths")
    if not set(names) <= set(response.outputs):
        raise QueryError(
            f"Signature {signature} of {model} answers no products, but "
            f"{', '.join(sorted(response.outputs))}."
        )
    ids, scores, paths = (
        tf.make_ndarray(response.outputs[name]) for name in names
    )
    more = {
        name: tf.make_ndarray(response.outputs[name])
        for name in sorted(set(response.outputs) - set(names))
    }
    return [
        [
            Neighbor(
                ids[at].decode(),
                float(scores[at]),
                paths[at].decode(),
                {name: values[at].decode() for name, values in more.items()},
            )
            for at in ((image, rank) for rank in range(scores.shape[1]))
            if scores[at] > -2  # Padding, where fewer than k were found.
        ]
        for image in range(len(images))
    ]


def _channel(server, options, ca_file) -> grpc.Channel:
    if ca_file is None:
        return grpc.insecure_channel(server, options)
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    return grpc.secure_channel(server, credentials, options)


def _explain(error: grpc.RpcError, server: str, model: str) -> str:
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return (
            f"No gRPC server answers at {server}. Start one with "
            "tf-triplet-serve --workdir=..., or pass --server=host:port (of "
            f"gRPC, not of REST, and without http://). {error.details()}"
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{server} did not answer in time."
    text = f"{server} refused: {error.code().name}: {error.details()}"
    if "input size does not match signature" in (error.details() or ""):
        text += (
            " A model with branches needs --domain (empty: the domain that "
            "queries) or --category; another takes neither."
        )
    if error.code() == grpc.StatusCode.NOT_FOUND:
        text += f" Its models are its config's. Received: --model={model}"
    return text
