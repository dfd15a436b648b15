"""Asks a server for the products in images, over TensorFlow Serving's gRPC.

It works with TensorFlow Serving as well as with tf-triplet-serve.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from tf_triplet import grpc_channel
from tf_triplet.data import transcode
from tf_triplet.grpc_channel import QueryError

if TYPE_CHECKING:
    from tensorflow_serving.apis import predict_pb2

__all__ = [
    "MAX_MESSAGE_BYTES",
    "ImageError",
    "Neighbor",
    "QueryError",
    "find_unknown_filters",
    "query",
    "query_files",
    "read_image",
]

MAX_MESSAGE_BYTES = 64 << 20
_OUTPUTS = ("product_ids", "scores", "paths")
_STATUS = "status"
# Milliseconds between two attempts to connect. gRPC would wait for up to two
# minutes, and notice a server that has started too late.
_RECONNECT_MS = 500
# A score below that of any cosine pads an answer of fewer than k neighbors.
_PADDING = -2


class ImageError(QueryError):
    """The server refused an image or another input of the request."""


@dataclasses.dataclass(frozen=True)
class Neighbor:
    """One of the products that a server answers.

    Attributes:
        product_id: The product's id in the catalog.
        score: Cosine similarity of the two embeddings, from -1 to 1.
        path: Path of the product's image in the catalog.
        columns: Extra columns of the catalog that the model answers, by name.

    Example:

    >>> from tf_triplet.client import Neighbor
    >>> found = Neighbor("p7", 0.93, "images/7.jpg", {"price": "9.50"})
    >>> found.columns["price"]
    '9.50'
    """

    product_id: str
    score: float
    path: str
    columns: Mapping[str, str] = dataclasses.field(
        default_factory=dict, hash=False
    )


def read_image(
    path: str | Path,
    box: Sequence[float] | None = None,
    max_megapixels: float = 32.0,
) -> bytes:
    """Reads an image file in a format that any server can decode.

    JPEG, PNG, GIF and most BMP files are returned unchanged. Other formats,
    such as WebP and TIFF, are converted to PNG.

    Args:
        path: The image file.
        box: `[4]` floats x1, y1, x2, y2, the part of the image to ask for, in
            pixels of the upright image. By default, the whole image.
        max_megapixels: Millions of pixels that are converted at most.

    Returns:
        The bytes to send.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an image, or the box is not a valid
            rectangle within it.

    Example:

    >>> import tempfile
    >>> from PIL import Image
    >>> from tf_triplet.client import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 8)).save(f"{folder}/photo.webp")
    ...     data = read_image(f"{folder}/photo.webp")
    >>> data[1:4]
    b'PNG'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}.")
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{path} is empty (0 bytes): not an image.")
    try:
        data = transcode.servable(data, max_megapixels)
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if box is None:
        return data
    import tensorflow as tf

    from tf_triplet.data import crops

    try:
        return crops.crop_checked(data, box, max_megapixels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except tf.errors.InvalidArgumentError as error:
        cause = grpc_channel.plain_text(error.message)
        raise _unreadable(path, cause) from error


def _unreadable(path: Path, cause: str) -> ValueError:
    if "megapixels" in cause or "cannot be converted" in cause:
        # The field of a run's config is an argument here.
        return ValueError(f"{path}: {cause.replace('data.max', 'max')}")
    return ValueError(f"{path} is not an image: {cause}")


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
    """Asks for the products in some images, in one request.

    Args:
        images: Bytes of image files, from `read_image`.
        server: Address of gRPC, `host:port`.
        model: Name of the model.
        signature: A signature that answers products. `encode_and_search_exact`
            searches by all dot products.
        timeout_s: Seconds to wait for the answer. A server that is still
            starting is waited for as long, too.
        domain: Domain of the images, for a model with one branch per domain.
            Empty for the domain that queries. `None` sends none.
        category: Category of the images, for a model with one branch per
            category. `None` sends none.
        ca_file: File with the PEM certificates that the server's certificate
            is checked with. `None` connects without TLS.
        only_domain: Search only the images of this domain. Empty for all. A
            filter always searches by all dot products.
        only_category: Search only the images of this category. Empty for all.

    Returns:
        The neighbors of each image, nearest first. A model answers k of them,
        or fewer if it finds fewer.

    Raises:
        ImageError: If the server cannot decode an image, or refuses a domain
            or a category. `query_files` returns the other answers.
        QueryError: If there is no server in time, if it has no such model, or
            if the signature answers no products.

    Example:

    >>> from tf_triplet import client
    >>> images = [client.read_image("photo.jpg")]  # doctest: +SKIP
    >>> (neighbors,) = client.query(images)  # doctest: +SKIP
    >>> neighbors[0].product_id  # doctest: +SKIP
    'p7'
    """
    found, failures = _query_rows(
        *(images, server, model, signature, timeout_s, domain, category),
        *(ca_file, only_domain, only_category),
    )
    for place, failure in enumerate(failures):
        if failure:
            raise ImageError(f"Image {place + 1} of {len(images)}: {failure}")
    return found


def _query_rows(
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
) -> tuple[list[list[Neighbor]], list[str]]:
    """Returns what `query` does, and why an image could not be decoded."""
    request = grpc_channel.build_request(
        images, model, signature, domain, category, only_domain, only_category
    )
    options = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
    ]
    deadline = time.monotonic() + timeout_s
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    with grpc_channel.connect(server, options, ca_file) as channel:
        grpc_channel.wait_for_server(channel, server, timeout_s)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        left = max(deadline - time.monotonic(), 0.0)
        try:
            response = stub.Predict(request, timeout=left, wait_for_ready=True)
        except grpc.RpcError as error:
            kind = QueryError
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                kind = ImageError
            raise kind(
                grpc_channel.explain_error(error, server, model)
            ) from error
    return _read_response(response, request.model_spec.signature_name, model)


def query_files(
    paths: Sequence[str],
    box: Sequence[float] | None = None,
    max_megapixels: float = 32.0,
    **options: Any,
) -> tuple[dict[str, list[Neighbor]], dict[str, ImageError]]:
    """Asks for the products in some image files.

    Models of earlier releases refuse a whole request for one bad image, and do
    not say which one. The images are then asked for one by one.

    Args:
        paths: The image files.
        box: The part of the image to ask for, see `read_image`.
        max_megapixels: See `read_image`.
        **options: Arguments of `query` except `images`.

    Returns:
        The neighbors of each image that the server accepts, and the error of
        each that it refuses, by path.

    Raises:
        FileNotFoundError: If one of the files does not exist.
        ValueError: If one of the files is not an image.
        QueryError: If the request fails for another reason than an image.

    Example:

    >>> from tf_triplet import client
    >>> found, refused = client.query_files(
    ...     ["photo.jpg"], server="localhost:8500"
    ... )  # doctest: +SKIP
    >>> found["photo.jpg"][0].product_id  # doctest: +SKIP
    'p7'
    """
    images = [read_image(path, box, max_megapixels) for path in paths]
    try:
        found, failures = _query_rows(images, **options)
    except ImageError as error:
        if len(paths) == 1:
            return {}, {paths[0]: error}
    else:
        rows = list(zip(paths, found, failures))
        return (
            {path: neighbors for path, neighbors, why in rows if not why},
            {path: ImageError(why) for path, _, why in rows if why},
        )
    answers, refused = {}, {}
    for path, image in zip(paths, images):
        try:
            (answers[path],) = query([image], **options)
        except ImageError as error:
            refused[path] = error
    return answers, refused


def find_unknown_filters(
    image: bytes,
    only_domain: str = "",
    only_category: str = "",
    **options: Any,
) -> dict[str, str]:
    """Tells which filters match no image that is indexed.

    A server answers an unknown name with no products, as it does if nothing
    is indexed under two names together.

    Args:
        image: The bytes of any image that the server accepts.
        only_domain: The domain of a query that found nothing.
        only_category: The category of that query.
        **options: Other arguments of `query`.

    Returns:
        Those of the filters that find nothing even alone, as
        `{"only_category": name}`.

    Raises:
        QueryError: As `query`.

    Example:

    >>> from tf_triplet import client
    >>> image = client.read_image("photo.jpg")  # doctest: +SKIP
    >>> client.find_unknown_filters(
    ...     image, only_category="hat"
    ... )  # doctest: +SKIP
    {'only_category': 'hat'}
    """
    given = {"only_domain": only_domain, "only_category": only_category}
    return {
        name: value
        for name, value in given.items()
        if value and not query([image], **{name: value}, **options)[0]
    }


def _read_response(
    response: predict_pb2.PredictResponse, signature: str, model: str
) -> tuple[list[list[Neighbor]], list[str]]:
    """Returns the neighbors of each image, and why there are none, or ""."""
    import tensorflow as tf

    outputs = {
        name: tf.make_ndarray(value) for name, value in response.outputs.items()
    }
    if not set(_OUTPUTS) <= set(outputs):
        raise QueryError(
            f"Signature {signature} of {model} answers no products, but "
            f"{', '.join(sorted(outputs))}."
        )
    ids, scores, paths = (outputs.pop(name) for name in _OUTPUTS)
    is_found = scores > _PADDING
    failures = [""] * len(scores)
    status = outputs.get(_STATUS)
    # In versions of earlier releases, it may be a column of the catalog.
    if status is not None and not (status[is_found] != b"").any():
        del outputs[_STATUS]
        failures = [row[0].decode(errors="replace") for row in status]
    found = [
        [
            Neighbor(
                ids[at].decode(),
                float(scores[at]),
                paths[at].decode(),
                {name: outputs[name][at].decode() for name in sorted(outputs)},
            )
            for at in ((image, rank) for rank in range(scores.shape[1]))
            if is_found[at]
        ]
        for image in range(len(scores))
    ]
    return found, failures
