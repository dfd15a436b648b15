"""Swaps versions under load, and counts lost and mixed answers and memory.

Command: python benchmarks/swaps.py. First, 8 clients send 10,000 requests
during 20 swaps. Every answer must hold the ids of one catalog, that of the
version which the answer names. Then versions are swapped with hardly any
requests, and the memory of this process is measured after 5 and after 50
swaps. Client and server share the process.
"""

import argparse
import os
import resource
import shutil
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.servable import saved_model, versions
from tf_triplet.serving import batching, server, server_config

NAMES = "ab"


def export(folder, name, size, dim, index):
    """Exports a catalog whose ids begin with `name`."""
    inputs = tf.keras.Input([8, 8, 3])
    pooled = tf.keras.layers.GlobalAveragePooling2D()(inputs)
    dense = tf.keras.layers.Dense(dim)(pooled)
    encoder = tf.keras.Model(inputs, tf.keras.layers.UnitNormalization()(dense))
    vectors = np.random.default_rng(0).normal(size=[size, dim])
    vectors = np.float32(vectors / np.linalg.norm(vectors, axis=1)[:, None])
    saved_model.ServedModel(
        encoder,
        vectors,
        [f"{name}{i}" for i in range(size)],
        [f"{name}{i}.jpg" for i in range(size)],
        inputs=InputSpec(image_size=8),
        k=5,
        index=index,
    ).save(folder)


class Shop:
    """Two catalogs, published in turn as the versions of one model."""

    def __init__(self, root, size, dim, index):
        self._exports = [Path(root) / name for name in NAMES]
        for path, name in zip(self._exports, NAMES):
            export(path, name, size, dim, index)
        self.folder, self.dim = Path(root) / "models", dim
        self.published = 0
        self.publish()

    def publish(self):
        """Publishes the next version; odd ones are those of "a"."""
        with versions.publish(self.folder) as partial:
            source = self._exports[self.published % 2]
            shutil.copytree(source, partial, dirs_exist_ok=True)
        self.published += 1
        # Old versions are deleted, to save disk space.
        shutil.rmtree(self.folder / str(self.published - 2), True)

    def serve(self, batched):
        parameters = batching.Parameters(32, 1000) if batched else None
        return server.Server(
            server_config.one_model("shop", self.folder),
            server.Options(port=0, poll_seconds=0, batching=parameters),
        )

    def swap(self, models):
        """Publishes, and waits until the old version is unloaded."""
        self.publish()
        models.poll()
        assert models.available("shop") == [self.published]


def ask(stub, i, dim):
    """Sends a request; returns version and first letters of the ids."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "shop"
    if i % 2:
        image = tf.io.encode_png(np.full([8, 8, 3], i % 251, np.uint8))
        request.inputs["image_bytes"].CopyFrom(
            tf.make_tensor_proto([image.numpy()])
        )
    else:
        request.model_spec.signature_name = "search"
        vector = np.random.default_rng(i).normal(size=[1, dim])
        request.inputs["embedding"].CopyFrom(
            tf.make_tensor_proto(np.float32(vector))
        )
    answer = stub.Predict(request, timeout=60)
    found = [
        {text.decode()[:1] for text in tf.make_ndarray(answer.outputs[n])[0]}
        for n in ("product_ids", "paths")
    ]
    return answer.model_spec.version.value, found


def swap_under_load(shop, requests, swaps, clients, batched):
    """Returns counts of answers, and the versions that answered."""
    running, done = shop.serve(batched), threading.Event()
    counts = {"answers": 0, "failed": 0, "mixed": 0}
    seen, lock, ended = set(), threading.Lock(), [0]

    def client(number):
        with grpc.insecure_channel(f"localhost:{running.port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            i = number
            # Requests continue until the last swap, even past their number.
            while i < requests or not done.is_set():
                try:
                    version, found = ask(stub, i, shop.dim)
                except grpc.RpcError as error:
                    print(error.code(), error.details())
                    kind = "failed"
                else:
                    seen.add(version)
                    right = {NAMES[(version - 1) % 2]}
                    same = all(one == right for one in found)
                    kind = "answers" if same else "mixed"
                with lock:
                    counts[kind] += 1
                    ended[0] += 1
                i += clients

    with futures.ThreadPoolExecutor(clients) as pool:
        started = [pool.submit(client, n) for n in range(clients)]
        try:
            for swap in range(swaps):
                # The swaps are spread over the requests.
                while ended[0] < requests * swap / swaps:
                    time.sleep(0.005)
                shop.swap(running.models)
        finally:
            done.set()
        for one in started:
            one.result()
    running.stop()
    return counts, seen


def memory_after(shop, marks):
    """Swaps versions; returns the MB of this process at the marks."""
    running, found = shop.serve(False), {}
    with grpc.insecure_channel(f"localhost:{running.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for swap in range(1, max(marks) + 1):
            shop.swap(running.models)
            for i in range(4):
                ask(stub, i, shop.dim)
            if swap in marks:
                found[swap] = resident_mb()
    running.stop()
    return found


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--size", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=128)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        shop = Shop(root, arguments.size, arguments.dim, "scann")
        for batched in (False, True):
            start = time.monotonic()
            counts, seen = swap_under_load(
                shop, arguments.requests, arguments.swaps, 8, batched
            )
            print(
                f"{'batched' if batched else 'unbatched'}: {counts}, versions "
                f"that answered: {len(seen)}, "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
        found = memory_after(shop, {5, 20, 35, 50})
        told = ", ".join(f"{mb:.0f} after {n}" for n, mb in found.items())
        print(f"MB resident: {told}; 50 over 5: {found[50] / found[5]:.3f}")


if __name__ == "__main__":
    main()
