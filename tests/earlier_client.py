"""Asks a server which products an image shows. It does not need tf_triplet.

Install tensorflow-serving-api, which brings gRPC, NumPy and the messages of
tensorflow.core, then run it:

    pip install 'tensorflow-serving-api==2.15.*'
    python client.py photo.jpg localhost:8500
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys

# Importing TensorFlow's messages loads its libraries, which log much.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

KNOWN = ("product_ids", "scores", "paths")


def search(
    stub: prediction_service_pb2_grpc.PredictionServiceStub,
    images: list[bytes],
    model: str = "product_search",
    timeout_s: float = 5.0,
    domain: str | None = None,
    category: str | None = None,
    only_domain: str = "",
    only_category: str = "",
) -> list[list[dict]]:
    """Finds the nearest products of image files.

    Args:
        stub: A stub of the server's PredictionService.
        images: The bytes of JPEG, PNG, GIF or BMP files.
        model: The name of the model.
        timeout_s: Seconds to wait for the answer.
        domain: The domain of the images, for a model with a branch for each
            domain.
        category: The category of the images, for a model with a branch for
            each category.
        only_domain: Return only products of this domain. "" means any.
        only_category: Return only products of this category. "" means any.

    Returns:
        A list of neighbors for each image, nearest first. Each neighbor is a
        dict of "product", "score", "path" and the extra columns of the
        export, such as "price".

    Raises:
        grpc.RpcError: The server cannot be reached, or answers with an error.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    named = {"domain": domain, "category": category}
    if only_domain or only_category:
        request.model_spec.signature_name = "encode_and_search_filtered"
        named["domain_filter"] = only_domain
        named["category_filter"] = only_category
    inputs = {"image_bytes": images}
    for name, value in named.items():
        if value is not None:
            inputs[name] = [value.encode()] * len(images)
    for name, values in inputs.items():
        tensor = request.inputs[name]
        tensor.dtype = types_pb2.DT_STRING
        tensor.tensor_shape.dim.add(size=len(values))
        tensor.string_val.extend(values)
    answer = stub.Predict(request, timeout=timeout_s)
    outputs = {name: read(tensor) for name, tensor in answer.outputs.items()}
    return [read_neighbors(outputs, row) for row in range(len(images))]


def read_neighbors(outputs: dict[str, np.ndarray], row: int) -> list[dict]:
    """Returns the neighbors of one image, see `search`."""
    ids, scores, paths = (outputs[name][row] for name in KNOWN)
    extra = sorted(set(outputs) - set(KNOWN))
    return [
        {
            "product": ids[at].decode(),
            "score": float(scores[at]),
            "path": paths[at].decode(),
            **{name: outputs[name][row][at].decode() for name in extra},
        }
        for at in range(len(ids))
        # If fewer than k were found, the rest has a score of -2.
        if scores[at] >= -1.5
    ]


def read(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """Converts a TensorProto of strings or floats to an array."""
    shape = [d.size for d in tensor.tensor_shape.dim]
    if tensor.dtype == types_pb2.DT_STRING:
        return np.array(tensor.string_val, object).reshape(shape)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
    values = np.array(tensor.float_val, np.float32)
    # A TensorProto may hold one value that stands for all of them.
    return (np.resize(values, shape) if values.size else values).reshape(shape)


def main() -> None:
    """Prints the products in an image."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", help="a JPEG, PNG, GIF or BMP file")
    parser.add_argument(
        "server",
        nargs="?",
        default="localhost:8500",
        help="host:port of the gRPC server (default: %(default)s)",
    )
    parser.add_argument(
        "--domain",
        help="the image's domain, for a model with a branch for each domain",
    )
    parser.add_argument(
        "--category",
        help="the image's category, for a model with a branch for each one",
    )
    parser.add_argument(
        "--only_domain", default="", help="find only products of this domain"
    )
    parser.add_argument(
        "--only_category",
        default="",
        help="find only products of this category",
    )
    arguments = parser.parse_args()
    try:
        image = pathlib.Path(arguments.image).read_bytes()
        with grpc.insecure_channel(arguments.server) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            (found,) = search(
                stub,
                [image],
                domain=arguments.domain,
                category=arguments.category,
                only_domain=arguments.only_domain,
                only_category=arguments.only_category,
            )
    except OSError as error:
        sys.exit(f"error: {error}")
    except grpc.RpcError as error:
        sys.exit(
            f"error: {arguments.server}: {error.code().name}: {error.details()}"
        )
    for row in found:
        columns = [row.pop(name) for name in ("score", "product", "path")]
        print("  ".join([f"{columns[0]:.4f}", *columns[1:], *row.values()]))


if __name__ == "__main__":
    main()
