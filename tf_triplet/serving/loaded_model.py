"""One version of a model in memory, as TensorFlow Serving holds it.

A session of its own, not `tf.saved_model.load`: the session owns its
resources, so that closing it frees variables, tables and ScaNN's C++ index,
and two versions cannot meet in one index. In the eager context an index stays
for as long as the process, unless it is destroyed by its name.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.saved_model import loader_impl

from tf_triplet.servable import scann_index
from tf_triplet.serving import batching
from tf_triplet.serving.errors import Code, RequestError, from_tensorflow

METHOD = "tensorflow/serving/predict"


class LoadedModel:
    """Runs the signatures of one SavedModel."""

    def __init__(
        self,
        path: str | Path,
        scheduler: batching.BatchScheduler | None = None,
    ):
        """Loads it.

        Args:
            path: of the version, `<model>/<number>`.
            scheduler: makes batches of requests; None runs each by itself.
        """
        self.path = Path(path)
        self.version = int(self.path.name)
        meta = loader_impl.parse_saved_model(str(path)).meta_graphs[0]
        if any(
            "Scann" in op.name for op in meta.meta_info_def.stripped_op_list.op
        ):
            scann_index.register_op()
        graph = tf.Graph()
        with graph.as_default():
            self._session = tf.compat.v1.Session(graph=graph)
            try:
                # Not the public name, which warns at each load.
                meta = loader_impl.SavedModelLoader(str(path)).load(
                    self._session, [tf.saved_model.SERVING]
                )
            except BaseException:
                self._session.close()
                raise
        self.signature_defs = {
            name: signature
            for name, signature in meta.signature_def.items()
            if signature.method_name == METHOD
        }
        self._calls, self._queues, self._shapes = {}, {}, {}
        for name, signature in self.signature_defs.items():
            self._calls[name] = self._make_call(signature)
            self._shapes[name] = {
                key: tf.TensorShape(info.tensor_shape)
                for key, info in signature.inputs.items()
            }
            if scheduler is not None:
                self._queues[name] = scheduler.queue(
                    lambda inputs, name=name: self.compute(name, inputs)
                )

    def run(
        self,
        signature: str,
        inputs: Mapping[str, tensor_pb2.TensorProto],
        deadline: float | None = None,
        alone: bool = False,
    ) -> dict[str, np.ndarray]:
        """Runs one request's tensors.

        Args:
            signature: its name, one of `signature_defs`.
            inputs: by name.
            deadline: on `time.monotonic`'s clock; past it nothing is run.
            alone: not in a batch with others, however many rows.

        Raises:
            RequestError: for the client.
        """
        arrays = self._read(signature, inputs)
        if deadline is not None and time.monotonic() >= deadline:
            raise RequestError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        sizes = {len(a) if a.ndim else 0 for a in arrays.values()}
        # An empty batch, or one of several lengths, is not for company.
        batched = signature in self._queues and not alone
        if batched and len(sizes) == 1 and sizes != {0}:
            return self._queues[signature].run(arrays, deadline)
        return self.compute(signature, arrays)

    def compute(
        self, signature: str, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs the graph on what fits its inputs. Raises RequestError.

        Unlike `run` it does not look at shapes and types.
        """
        definition = self.signature_defs[signature]
        try:
            outputs = self._calls[signature](
                *(arrays[name] for name in definition.inputs)
            )
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        except (ValueError, TypeError) as error:
            # The session's own look at shapes and types.
            raise RequestError(Code.INVALID_ARGUMENT, str(error)) from error
        return dict(zip(definition.outputs, map(np.asarray, outputs)))

    def release(self) -> None:
        """Frees everything it holds, ScaNN's index too."""
        for queue in self._queues.values():
            queue.close()
        self._session.close()
        self._calls, self._queues, self._session = {}, {}, None
        # Graphs refer to themselves.
        gc.collect()

    def _make_call(self, signature):
        """From arrays of the inputs to arrays of the outputs, in order.

        The public `make_callable` looks all names up again at each call,
        which takes as long as the search of an embedding.
        """
        options = config_pb2.CallableOptions(
            feed=[info.name for info in signature.inputs.values()],
            fetch=[info.name for info in signature.outputs.values()],
        )
        return self._session._make_callable_from_options(options)

    def _read(self, signature, inputs):
        """TensorProtos to arrays, held against the signature."""
        expected = self.signature_defs[signature].inputs
        if set(inputs) != set(expected):
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f"input size does not match signature: {len(inputs)}!="
                f"{len(expected)} len({{{','.join(inputs)}}}) != "
                f"len({{{','.join(expected)}}}).",
            )
        arrays = {}
        for position, (key, info) in enumerate(expected.items()):
            received = inputs[key].dtype
            if received != info.dtype:
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"Expects arg[{position}] to be {_name(info.dtype)} "
                    f"but {_name(received)} is provided",
                )
            # Before it is filled in: a few bytes may announce gigabytes.
            sizes = [dim.size for dim in inputs[key].tensor_shape.dim]
            shape = self._shapes[signature][key]
            if min(sizes, default=0) < 0 or not shape.is_compatible_with(sizes):
                # TensorFlow Serving lets an op find this out: the same code,
                # but one of several messages, whichever op is first.
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"Input {key} must be of shape {shape}. Received: "
                    f"{tuple(sizes)}",
                )
            try:
                arrays[key] = tf.make_ndarray(inputs[key])
            except (ValueError, TypeError, MemoryError) as error:
                # Contents and shape of the message contradict each other.
                raise RequestError(
                    Code.INVALID_ARGUMENT, f"tensor parsing error: {key}"
                ) from error
        return arrays


def _name(dtype: int) -> str:
    """The type's name in C++ (double, not float64)."""
    if dtype not in types_pb2.DataType.values():
        return f"unknown dtype enum ({dtype})"
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
