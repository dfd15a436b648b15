"""One version of a model in memory, as TensorFlow Serving holds it.

Each version has its own session instead of using `tf.saved_model.load`. The
session owns its resources: closing it frees variables, tables and ScaNN's C++
index, and two versions never share an index. In the eager context an index
lives as long as the process unless it is destroyed by its name.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.saved_model import loader_impl

from tf_triplet.servable import scann_index, versions
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
        """Loads the SavedModel.

        Args:
            path: The folder of the version, `<model>/<number>`.
            scheduler: Batches the requests. `None` runs each by itself.
        """
        self.path = Path(path)
        self.version = int(self.path.name)
        meta = loader_impl.parse_saved_model(str(path)).meta_graphs[0]
        if any(
            "Scann" in op.name for op in meta.meta_info_def.stripped_op_list.op
        ):
            scann_index.register_op()
        # Until the end, `tf-triplet-index --keep_versions` leaves the files.
        self._held = contextlib.ExitStack()
        self._held.enter_context(versions.hold(path))
        graph = tf.Graph()
        with graph.as_default():
            self._session = tf.compat.v1.Session(graph=graph)
            try:
                # The public name of this class warns at each load.
                meta = loader_impl.SavedModelLoader(str(path)).load(
                    self._session, [tf.saved_model.SERVING]
                )
            except BaseException:
                self._session.close()
                self._held.close()
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
        """Runs a signature on the tensors of one request.

        Args:
            signature: The name of a signature, a key of `signature_defs`.
            inputs: The tensors, by name.
            deadline: When the client stops waiting, on the clock of
                `time.monotonic`. Nothing is run after it.
            alone: Whether to run the request by itself, without batching
                and without a limit on its rows.

        Returns:
            The outputs, by name.

        Raises:
            RequestError: The inputs do not fit the signature, the deadline
                passed, or the model failed.
        """
        arrays = self._read(signature, inputs)
        if deadline is not None and time.monotonic() >= deadline:
            raise RequestError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
        sizes = {len(a) if a.ndim else 0 for a in arrays.values()}
        # Only inputs with one common, positive number of rows can be batched.
        batched = signature in self._queues and not alone
        if batched and len(sizes) == 1 and sizes != {0}:
            outputs = self._queues[signature].run(arrays, deadline)
            if "image_bytes" not in arrays or not _are_all_bad(outputs):
                return outputs
            # The batch had good images of other requests. By itself, this one
            # is an error.
        return self.compute(signature, arrays)

    def compute(
        self, signature: str, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Runs the graph without batching.

        Unlike `run`, it does not check shapes and types first.

        Args:
            signature: The name of a signature, a key of `signature_defs`.
            arrays: The inputs, by name.

        Returns:
            The outputs, by name.

        Raises:
            RequestError: The graph failed.
        """
        definition = self.signature_defs[signature]
        try:
            outputs = self._calls[signature](
                *(arrays[name] for name in definition.inputs)
            )
        except tf.errors.OpError as error:
            raise from_tensorflow(error) from error
        except (ValueError, TypeError) as error:
            # The session itself checks shapes and types.
            raise RequestError(Code.INVALID_ARGUMENT, str(error)) from error
        return dict(zip(definition.outputs, map(np.asarray, outputs)))

    def release(self) -> None:
        """Frees all memory of the version, including ScaNN's index."""
        for queue in self._queues.values():
            queue.close()
        self._session.close()
        self._held.close()
        self._calls, self._queues, self._session = {}, {}, None
        # A graph holds references to itself, which only this collects.
        gc.collect()

    def _make_call(self, signature):
        """Returns a function from input arrays to output arrays, in order.

        The public `Session.make_callable` looks up all names again at each
        call, which takes as long as searching for one embedding.
        """
        options = config_pb2.CallableOptions(
            feed=[info.name for info in signature.inputs.values()],
            fetch=[info.name for info in signature.outputs.values()],
        )
        return self._session._make_callable_from_options(options)

    def _read(self, signature, inputs):
        """Converts the tensors to arrays, after comparing with the signature.

        The texts are TensorFlow Serving's, unless a comment says otherwise.
        """
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
            # Before allocating: a few bytes may declare gigabytes.
            sizes = [dim.size for dim in inputs[key].tensor_shape.dim]
            shape = self._shapes[signature][key]
            if min(sizes, default=0) < 0 or not shape.is_compatible_with(sizes):
                # TensorFlow Serving leaves this check to the ops. Its code is
                # the same; its text depends on which op fails first.
                raise RequestError(
                    Code.INVALID_ARGUMENT,
                    f"Input {key} must be of shape {shape}. Received: "
                    f"{tuple(sizes)}",
                )
            try:
                arrays[key] = tf.make_ndarray(inputs[key])
            except (ValueError, TypeError, MemoryError) as error:
                # The contents of the message contradict its shape.
                raise RequestError(
                    Code.INVALID_ARGUMENT, f"tensor parsing error: {key}"
                ) from error
        return arrays


def _are_all_bad(outputs: Mapping[str, np.ndarray]) -> bool:
    """Tells whether no image of a request could be decoded.

    Args:
        outputs: What a signature that takes images answers.
    """
    if set(outputs) == {"embedding"}:
        # All others are of unit length.
        return outputs["embedding"].size and not outputs["embedding"].any()
    if not {"status", "product_ids"} <= set(outputs):
        return False
    status, ids = outputs["status"], outputs["product_ids"]
    # In earlier versions, a column of the catalog may have this name.
    return status.size and (status != b"").all() and not (ids != b"").any()


def _name(dtype: int) -> str:
    """Returns the name of a type in C++ (double, not float64)."""
    if dtype not in types_pb2.DataType.values():
        return f"unknown dtype enum ({dtype})"
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()
