"""Compares served requests with the same calls in-process.

Command: python benchmarks/serving.py. Requests hold 1 or 64 images or
embeddings, and come from 1 to 16 clients. For each case, requests per second,
p50 and p99 in milliseconds are printed: in-process, served, and served with
batching. "kept" and "batched" are the shares of the in-process rate. The server
runs in a process of its own on 127.0.0.1. Each client is a thread that sends
one request after the other; the clients share the cores with the server.

"echo" is the rate of a Python gRPC server that does nothing but send a finished
answer of the same size. A Python server cannot be faster than a call and an
echo one after the other. For several clients, this bound is rough, because
their calls and echoes can overlap. "of both" is the share of it that is kept.
"""

import argparse
import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from tf_triplet.data.preprocessing import InputSpec
from tf_triplet.models import build_encoder
from tf_triplet.servable import saved_model, versions
from tf_triplet.serving import loaded_model, server

METHOD = "/tensorflow.serving.PredictionService/Predict"
BATCHING = """
max_batch_size { value: 64 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 2 }
"""


def export(folder, size, image_size, dim):
    encoder = build_encoder(
        "resnet50v2",
        embedding_size=dim,
        weights="random",
        image_size=image_size,
    )
    vectors = np.random.default_rng(0).normal(size=[size, dim])
    vectors = np.float32(vectors / np.linalg.norm(vectors, axis=1)[:, None])
    with versions.publish(folder) as partial:
        saved_model.ServedModel(
            encoder,
            vectors,
            [str(i) for i in range(size)],
            [f"{i}.jpg" for i in range(size)],
            inputs=InputSpec(image_size),
            k=10,
        ).save(partial)


def make_request(kind, rows, image_size, dim):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "shop"
    random = np.random.default_rng(1)
    if kind == "image":
        shape = [rows, 2 * image_size, 2 * image_size, 3]
        pixels = random.integers(0, 255, shape, np.uint8)
        values = [tf.io.encode_jpeg(p).numpy() for p in pixels]
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(values))
    else:
        request.model_spec.signature_name = "search"
        vectors = random.normal(size=[rows, dim]).astype(np.float32)
        request.inputs["embedding"].CopyFrom(tf.make_tensor_proto(vectors))
    return request


def closed_loop(calls, seconds):
    """Repeats one call per client; returns calls/s, p50 and p99 in ms."""
    times, ready = [[] for _ in calls], threading.Barrier(len(calls) + 1)
    end = [float("inf")]

    def client(call, mine):
        call()
        ready.wait()
        while True:
            start = time.perf_counter()
            if start >= end[0]:
                return
            call()
            mine.append(time.perf_counter() - start)

    threads = [
        threading.Thread(target=client, args=pair) for pair in zip(calls, times)
    ]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    end[0] = start + seconds
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    every = np.concatenate(times)
    p50, p99 = 1e3 * np.percentile(every, [50, 99])
    return len(every) / took, p50, p99


def echo(answers_file):
    """Serves finished answers, chosen by the size of the request."""
    answers = dict(pickle.loads(Path(answers_file).read_bytes()))

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: answers[len(request)]
            )

    options = [("grpc.max_receive_message_length", 64 << 20)]
    pool = futures.ThreadPoolExecutor(server.THREADS)
    running = grpc.server(pool, [Handler()], options=options)
    print(f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}", flush=True)
    running.start()
    running.wait_for_termination()


class Served:
    """A server in a process of its own, which first prints its address."""

    def __init__(self, *command):
        self._program = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, text=True
        )
        line = self._program.stdout.readline()
        if "127.0.0.1:" not in line:
            self._program.kill()
            raise SystemExit("The server did not start; see above.")
        self._address = line.split()[-1]
        self._channels = []

    def calls(self, request, clients):
        """Returns one call per client, each on a connection of its own."""
        data, calls = request.SerializeToString(), []
        for _ in range(clients):
            channel = grpc.insecure_channel(
                self._address,
                [
                    ("grpc.max_receive_message_length", 64 << 20),
                    # Channels of one process share a connection otherwise.
                    ("grpc.use_local_subchannel_pool", 1),
                ],
            )
            self._channels.append(channel)
            # Raw bytes, so that the client's side costs as little as possible.
            method = channel.unary_unary(METHOD)
            calls.append(lambda method=method: method(data, timeout=60))
        return calls

    def answers(self, requests):
        """Returns the size of each request, and the bytes of its answer."""
        return [
            (request.ByteSize(), self.calls(request, 1)[0]())
            for request in requests
        ]

    def stop(self):
        for channel in self._channels:
            channel.close()
        self._program.terminate()
        self._program.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.echo:
        echo(arguments.echo)
        return
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "models"
        export(folder, arguments.size, arguments.image_size, arguments.dim)
        config = Path(root) / "batching.config"
        config.write_text(BATCHING)
        model = loaded_model.LoadedModel(folder / "1")
        requests = {
            (kind, rows): make_request(
                kind, rows, arguments.image_size, arguments.dim
            )
            for kind in ("image", "embedding")
            for rows in (1, 64)
        }
        serve = [
            *("-m", "tf_triplet.cli.serve", "--name=shop", "--port=0"),
            *(f"--model_dir={folder}", "--host=127.0.0.1"),
        ]
        with contextlib.ExitStack() as stack:

            def start(*command):
                program = Served(*command)
                stack.callback(program.stop)
                return program

            served = start(*serve)
            batched = start(*serve, f"--batching_parameters_file={config}")
            finished = Path(root) / "answers"
            answers = served.answers(requests.values())
            finished.write_bytes(pickle.dumps(answers))
            echoed = start(__file__, f"--echo={finished}")
            table(arguments, model, requests, (served, batched, echoed))


def table(arguments, model, requests, servers):
    print(
        f"{'input':<10}{'rows':>5}{'clients':>8}"
        + "".join(
            f"{name:>11}{'p50':>8}{'p99':>8}"
            for name in ("in-process", "served", "batched")
        )
        + f"{'kept':>7}{'batched':>8}{'echo':>9}{'of both':>8}"
    )
    for (kind, rows), request in requests.items():
        signature = request.model_spec.signature_name or "serving_default"

        def own(signature=signature, request=request):
            model.run(signature, request.inputs)

        for clients in map(int, arguments.clients.split(",")):
            found = [
                closed_loop(calls, arguments.seconds)
                for calls in (
                    [own] * clients,
                    *(program.calls(request, clients) for program in servers),
                )
            ]
            inside, served, batched, echoed = (rate for rate, _, _ in found)
            cells = "".join(
                f"{rate:>11.1f}{p50:>8.1f}{p99:>8.1f}"
                for rate, p50, p99 in found[:3]
            )
            most = 1 / (1 / inside + 1 / echoed)
            print(
                f"{kind:<10}{rows:>5}{clients:>8}{cells}"
                f"{served / inside:>7.2f}{batched / inside:>8.2f}"
                f"{echoed:>9.1f}{served / most:>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
