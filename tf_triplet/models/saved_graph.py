"""Runs the signature of any SavedModel as a layer of a Keras model.

A SavedModel that Keras has not written, such as one that Keras 3, PyTorch's
converters or TensorFlow Hub have, is a graph and its variables. The layer keeps
both, so that an encoder that is built on it is saved as one `.keras` file.
"""

from __future__ import annotations

import base64
import zlib
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.python.framework import convert_to_constants

_SIGNATURE = "serving_default"
# Arrays of fewer numbers stay in the graph.
_WEIGHTS = 16


@tf.keras.saving.register_keras_serializable("tf_triplet")
class SavedGraph(tf.keras.layers.Layer):
    """Features of images by a graph whose weights stay as they are.

    The graph was saved for inference: it has no gradient that may be relied
    on, and its batch normalization keeps its statistics. Training learns the
    layers that follow.

    Args:
        graph: The graph, as `load_signature` encodes it.
        variables: `shape` and `dtype` of each array of weights.
        captures: The name of the graph's placeholder for each of them.
        input_name: The name of the graph's placeholder for images.
        input_dtype: The type of the images.
        output_name: The name of the graph's tensor of features.
        output_shape: The shape of the features. `None` for the batch.
        **kwargs: Arguments of `tf.keras.layers.Layer`.

    Example:

    >>> import tempfile
    >>> class Twice(tf.Module):
    ...     @tf.function(
    ...         input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32)]
    ...     )
    ...     def __call__(self, images):
    ...         return {"features": 2 * tf.reduce_sum(images, [1, 2])}
    >>> module = Twice()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     signatures = {"serving_default": module.__call__}
    ...     tf.saved_model.save(module, folder, signatures=signatures)
    ...     model = load_signature(folder)
    >>> model(tf.ones([1, 4, 4, 3])).numpy().tolist()
    [[32.0, 32.0, 32.0]]
    """

    def __init__(
        self,
        graph: str,
        variables: list[dict[str, Any]],
        captures: list[str],
        input_name: str,
        input_dtype: str,
        output_name: str,
        output_shape: list[int | None],
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "trainable": False})
        self._config = {
            "graph": graph,
            "variables": variables,
            "captures": captures,
            "input_name": input_name,
            "input_dtype": input_dtype,
            "output_name": output_name,
            "output_shape": output_shape,
        }
        self._graph_def = tf.compat.v1.GraphDef.FromString(
            zlib.decompress(base64.b64decode(graph))
        )
        self._variables = [
            self.add_weight(
                name=f"variable_{i}",
                shape=variable["shape"],
                dtype=variable["dtype"],
                initializer="zeros",
                trainable=False,
                # Training in half precision must not round them.
                experimental_autocast=False,
            )
            for i, variable in enumerate(variables)
        ]
        self._run = tf.function(self._import)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Computes features.

        Args:
            inputs: `[batch, height, width, 3]` pixels.
        """
        images = tf.cast(inputs, tf.float32)
        dtype = tf.as_dtype(self._config["input_dtype"])
        if dtype.is_integer:
            images = tf.round(images)
        weights = [tf.convert_to_tensor(weight) for weight in self._variables]
        features = self._run(tf.cast(images, dtype), weights)
        features = tf.ensure_shape(features, self._config["output_shape"])
        return tf.cast(tf.stop_gradient(features), self.compute_dtype)

    def _import(self, images: tf.Tensor, weights: list) -> tf.Tensor:
        inputs = dict(zip(self._config["captures"], weights, strict=True))
        inputs[self._config["input_name"]] = images
        (features,) = tf.graph_util.import_graph_def(
            self._graph_def,
            input_map=inputs,
            return_elements=[self._config["output_name"]],
            name="saved",
        )
        return features

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that build the layer again."""
        config = super().get_config()
        config.pop("trainable", None)
        return {**config, **self._config}


def load_signature(path: str | Path, output: str = "") -> tf.keras.Model:
    """Makes a Keras model of the signature of a SavedModel.

    Args:
        path: The folder of the SavedModel.
        output: The name of the signature's output to use. It may be empty if
            there is only one.

    Returns:
        A model from `[batch, height, width, 3]` images to features. Its
        weights are not trained.

    Raises:
        ValueError: If the SavedModel has no signature, or if its signature
            does not map images to features.
    """
    try:
        # In a thread of its own, because variables that are loaded within a
        # distribution strategy's scope have no handle there.
        with futures.ThreadPoolExecutor(1) as pool:
            loaded = pool.submit(tf.saved_model.load, str(path)).result()
    except (OSError, ValueError, tf.errors.OpError, KeyError) as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path} is a SavedModel that TensorFlow {tf.__version__} cannot "
            f"load: {text}"
        ) from error
    function = _choose_signature(path, dict(loaded.signatures))
    spec = _choose_input(path, function)
    output = _choose_output(path, function, output)
    place = sorted(function.structured_outputs).index(output)
    shape = _output_shape(function, output)
    graph_def, weights, ends = _take_weights(path, function)
    layer = SavedGraph(
        graph=base64.b64encode(
            zlib.compress(graph_def.SerializeToString())
        ).decode(),
        variables=[
            {"shape": list(array.shape), "dtype": array.dtype.name}
            for array in weights.values()
        ],
        captures=list(weights),
        input_name=ends.inputs[0].name,
        input_dtype=spec.dtype.name,
        # Tensors of a dictionary are in the order of their names.
        output_name=ends.outputs[place].name,
        output_shape=shape,
        name="saved_graph",
    )
    layer.set_weights(list(weights.values()))
    logging.info(
        "%s is a SavedModel that Keras has not written. Its output %r gives "
        "the features, and its %d weights are not trained.",
        *(path, output, len(weights)),
    )
    pixels = tf.keras.Input(tuple(spec.shape[1:]), name="images")
    return tf.keras.Model(pixels, layer(pixels))


def _choose_signature(path: str | Path, signatures: dict) -> Any:
    if _SIGNATURE in signatures:
        return signatures[_SIGNATURE]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    raise ValueError(
        f"{path} is a SavedModel that Keras has not written, and it has no "
        f"signature {_SIGNATURE!r} to run. Its signatures: "
        f"{', '.join(signatures) or 'none'}. Save it with "
        "tf.saved_model.save(model, folder, signatures=...)."
    )


def _choose_input(path: str | Path, function: Any) -> tf.TensorSpec:
    """Returns the shape and type of the images."""
    specs = function.structured_input_signature[1]
    shown = ", ".join(
        f"{name}: {spec.dtype.name} {spec.shape}"
        for name, spec in specs.items()
    )
    spec = next(iter(specs.values()), None)
    if (
        len(specs) != 1
        or spec.dtype.name not in ("float32", "float16", "uint8", "int32")
        or spec.shape.rank != 4
    ):
        raise ValueError(
            f"The signature of {path} must take one batch of images, "
            "[batch, height, width, 3] numbers. It takes "
            f"{shown or 'nothing'}."
        )
    return spec


def _choose_output(path: str | Path, function: Any, wanted: str) -> str:
    outputs = {
        name: tensor
        for name, tensor in function.structured_outputs.items()
        if tensor.dtype.is_floating and tensor.shape.rank in (2, 4)
    }
    if wanted in outputs:
        return wanted
    if len(outputs) == 1 and not wanted:
        return next(iter(outputs))
    raise ValueError(
        f"The signature of {path} has "
        f"{f'no output {wanted!r}' if wanted else 'several outputs or none'} "
        "that could be features, [batch, size] or [batch, height, width, "
        f"channels]. Pass --config.model.layer with one of: "
        f"{', '.join(outputs) or 'none'}."
    )


def _take_weights(
    path: str | Path, function: Any
) -> tuple[tf.compat.v1.GraphDef, dict[str, np.ndarray], Any]:
    """Separates a graph from its weights.

    Returns:
        The graph, with a placeholder for each array of weights; the arrays by
        the name of their placeholder; and the function that the names of
        inputs and outputs are of.
    """
    known = {id(variable.handle) for variable in function.variables}
    if any(id(handle) not in known for handle in function.captured_inputs):
        raise ValueError(
            f"The signature of {path} uses a table or another resource, which "
            "cannot be copied into an encoder. Save a signature that maps "
            "images to features by variables alone."
        )
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        function, aggressive_inlining=True
    )
    graph_def = frozen.graph.as_graph_def()
    weights = {}
    for node in graph_def.node:
        if node.op != "Const":
            continue
        tensor = node.attr["value"].tensor
        if not tf.as_dtype(tensor.dtype).is_floating:
            continue
        array = tf.make_ndarray(tensor)
        if array.size >= _WEIGHTS:
            weights[f"{node.name}:0"] = array
            node.op = "Placeholder"
            del node.attr["value"]
            shape = tf.TensorShape(array.shape).as_proto()
            node.attr["shape"].shape.CopyFrom(shape)
    return graph_def, weights, frozen


def _output_shape(function: Any, output: str) -> list[int | None]:
    """Returns the shape of the features, of which the last must be known."""
    shape = function.structured_outputs[output].shape.as_list()
    if shape[-1] is None:
        spec = next(iter(function.structured_input_signature[1].values()))
        sides = [side or 224 for side in spec.shape[1:3]]
        sample = tf.zeros([1, *sides, spec.shape[3] or 3], spec.dtype)
        name = next(iter(function.structured_input_signature[1]))
        shape[-1] = int(function(**{name: sample})[output].shape[-1])
    return [None, *shape[1:]]
