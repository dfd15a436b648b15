"""Asks a server for the products in an image; needs nothing of tf_triplet.

pip install 'tensorflow-serving-api==2.15.*'  (brings grpc, NumPy and the
messages of tensorflow.core)

python client.py photo.jpg localhost:8500
"""

import argparse
import os
import pathlib
import sys

# TensorFlow's messages come with its libraries, which log as they load.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

KNOWN = ("product_ids", "scores", "paths")


def search(
    stub,
    images,
    model="product_search",
    timeout_s=5.0,
    domain=None,
    category=None,
    only_domain="",
    only_category="",
):
    """Returns, an image, a list of dicts: product, score, path, and what
    extra columns (price, title) the export holds.

    Only a model with branches takes a domain, or a category, of the images.
    Any model answers, if asked, `only_domain` or `only_category`.
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
    further = sorted(set(outputs) - set(KNOWN))
    found = []
    for row in range(len(images)):
        ids, scores, paths = (outputs[name][row] for name in KNOWN)
        found.append(
            [
                {
                    "product": ids[at].decode(),
                    "score": float(scores[at]),
                    "path": paths[at].decode(),
                    **{
                        name: outputs[name][row][at].decode()
                        for name in further
                    },
                }
                for at in range(len(ids))
                # Where fewer than k were found, the rest is padded with -2.
                if scores[at] >= -1.5
            ]
        )
    return found


def read(tensor):
    """A TensorProto of strings or floats as an array."""
    shape = [d.size for d in tensor.tensor_shape.dim]
    if tensor.dtype == types_pb2.DT_STRING:
        return np.array(tensor.string_val, object).reshape(shape)
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
    values = np.array(tensor.float_val, np.float32)
    # One value may stand for all.
    return (np.resize(values, shape) if values.size else values).reshape(shape)


def main():
    """Prints what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", help="JPEG, PNG, GIF or BMP file")
    parser.add_argument("server", nargs="?", default="localhost:8500")
    parser.add_argument("--domain", help="of a model with a branch a domain")
    parser.add_argument("--category", help="of one with a branch a category")
    parser.add_argument("--only_domain", default="", help="to answer")
    parser.add_argument("--only_category", default="", help="to answer")
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
