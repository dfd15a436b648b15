"""Runs the signature of any SavedModel as a layer of a Keras model.

A SavedModel that Keras has not written, such as one that Keras 3, PyTorch's
converters or TensorFlow Hub have, is a graph and its variables. The layer keeps
both, so that an encoder that is built on it is saved as one `.keras` file.
"""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

_SIGNATURE = "serving_default"


@tf.keras.saving.register_keras_serializable("tf_triplet")
class SavedGraph(tf.keras.layers.Layer):
    """Features of images by a graph whose weights stay as they are.

    The graph was saved for inference: it has no gradient that may be relied
    on, and its batch normalization keeps its statistics. Training learns the
    layers that follow.

    Args:
        graph: The graph, as `load_signature` encodes it.
        variables: `shape` and `dtype` of each variable of the graph.
        captures: The name of the graph's placeholder for each variable.
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
        features = self._run(tf.cast(images, dtype))
        features = tf.ensure_shape(features, self._config["output_shape"])
        return tf.cast(tf.stop_gradient(features), self.compute_dtype)

    def _import(self, images: tf.Tensor) -> tf.Tensor:
        graph = tf.compat.v1.get_default_graph()
        inputs = {self._config["input_name"]: images}
        names = self._config["captures"]
        for name, variable in zip(names, self._variables, strict=True):
            inputs[name] = graph.capture(variable.handle)
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
        loaded = tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError, KeyError) as error:
        text = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path} is a SavedModel that TensorFlow {tf.__version__} cannot "
            f"load: {text}"
        ) from error
    function = _choose_signature(path, dict(loaded.signatures))
    name, spec = _choose_input(path, function)
    output = _choose_output(path, function, output)
    variables, names = _match_variables(path, function)
    graph_def = function.graph.as_graph_def(add_shapes=False)
    layer = SavedGraph(
        graph=base64.b64encode(
            zlib.compress(graph_def.SerializeToString())
        ).decode(),
        variables=[
            {"shape": list(v.shape), "dtype": v.dtype.name} for v in variables
        ],
        captures=names,
        input_name=name,
        input_dtype=spec.dtype.name,
        # Tensors of a dictionary are in the order of their names.
        output_name=function.outputs[
            sorted(function.structured_outputs).index(output)
        ].name,
        output_shape=_output_shape(function, output),
        name="saved_graph",
    )
    layer.set_weights([variable.numpy() for variable in variables])
    logging.info(
        "%s is a SavedModel that Keras has not written. Its output %r gives "
        "the features, and its %d weights are not trained.",
        *(path, output, len(variables)),
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


def _choose_input(path: str | Path, function: Any) -> tuple[str, tf.TensorSpec]:
    """Returns the placeholder's name of the images, and their type."""
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
    # The arguments come first, and what the graph captures after them.
    return function.graph.inputs[0].name, spec


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


def _match_variables(
    path: str | Path, function: Any
) -> tuple[list[tf.Variable], list[str]]:
    """Returns the variables, and the placeholder of each in the graph."""
    by_handle = {id(v.handle): v for v in function.variables}
    count = len(function.captured_inputs)
    placeholders = function.graph.inputs[len(function.graph.inputs) - count :]
    variables, names = [], []
    for handle, placeholder in zip(
        function.captured_inputs, placeholders, strict=True
    ):
        variable = by_handle.get(id(handle))
        if variable is None:
            raise ValueError(
                f"The signature of {path} uses a table or another resource "
                f"({placeholder.name}), which cannot be copied into an "
                "encoder. Save a signature that maps images to features by "
                "variables alone."
            )
        variables.append(variable)
        names.append(placeholder.name)
    return variables, names


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
