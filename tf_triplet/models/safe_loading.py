"""Loads Keras models without running code that their files name or hold.

A saved Keras model can make the program that loads it run code in three ways.
A `Lambda` layer holds the bytecode of a Python function. A layer that is not
part of Keras is named by its module, which Keras imports. Weights in the NumPy
format may hold pickled objects. Keras's safe mode refuses the first in a
`.keras` file, and neither of the others; this module refuses all three.

A model that is loaded may still run any TensorFlow operation, and some of
these read and write files. A file from somebody you do not trust needs a
sandbox, whatever loads it.
"""

from __future__ import annotations

import builtins
import importlib
import json
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
from keras.src.saving import serialization_lib

from tf_triplet.models import model_files

# The modules that register layers of this package. Importing one registers
# them.
LAYER_MODULES = (
    *("branches", "keras_layers", "multitask", "pooling", "saved_graph"),
)
# The modules whose classes a model may always name.
_CLASS_MODULES = ("keras", "tf_triplet.models")
# Those whose functions it may: activations, such as `tf.nn.gelu`.
_FUNCTION_MODULES = ("keras.activations", "tensorflow.python.ops")
_HOW_TO_TRUST = (
    "If you trust its author, pass --trust_run (from Python: "
    "tf_triplet.builders.trust(everything=True))."
)


def load_model(
    path: str | Path,
    modules: Collection[str] = (),
    safe_mode: bool = True,
) -> tf.keras.Model:
    """Loads a Keras model, without its optimizer and losses.

    Args:
        path: A `.keras` or `.h5` file, or the folder of a SavedModel.
        modules: Names of Python modules whose layers the model may use,
            beside the layers of Keras and those registered with
            `tf.keras.saving.register_keras_serializable`. They are imported
            if a `.keras` file names them.
        safe_mode: Whether to refuse a model that makes Python run code of the
            file, or import a module that is not in `modules`.

    Returns:
        The model. A `Lambda` layer of a SavedModel is replaced by the graph
        that was saved with it.

    Raises:
        ValueError: If the file is refused, if it is no model of Keras 2, or
            if Keras cannot load it.
    """
    path = Path(path)
    model_files.check_model(path)
    for name in LAYER_MODULES:
        importlib.import_module(f"tf_triplet.models.{name}")
    objects = {}
    if _is_archive(path):
        if safe_mode:
            check_weights(path)
        objects = _import_objects(path, modules, safe_mode)
    try:
        # Keras's own argument reaches `.keras` files only.
        with serialization_lib.SafeModeScope(safe_mode):
            return tf.keras.models.load_model(
                path, objects, compile=False, safe_mode=safe_mode
            )
    except Exception as error:  # Keras raises many kinds here.
        if "safe_mode=False" in str(error):
            raise ValueError(
                f"{path} holds a Lambda layer: a Python function, stored as "
                "bytecode, which would run in this program. "
                f"{_HOW_TO_TRUST} Or save the model with a registered layer "
                "in place of the Lambda layer."
            ) from error
        raise ValueError(model_files.explain_failure(path, error)) from error


def check_weights(path: str | Path) -> None:
    """Refuses a `.keras` file whose weights may hold pickled objects.

    Args:
        path: Any file; only `.keras` archives are looked into.

    Raises:
        ValueError: If loading the weights would unpickle them.
    """
    path = Path(path)
    if not _is_archive(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    # Keras reads this file only if there is none in the HDF5 format.
    if "model.weights.h5" not in names and "model.weights.npz" in names:
        raise ValueError(
            f"{path} holds its weights in the NumPy format, which may contain "
            "pickled objects: code that runs when they are read. Save the "
            "model again with h5py installed."
        )


def _is_archive(path: Path) -> bool:
    """Whether Keras reads the file in its own format, as Keras decides it."""
    return (
        path.suffix == ".keras" and path.is_file() and zipfile.is_zipfile(path)
    )


def _import_objects(
    path: Path, modules: Collection[str], safe_mode: bool
) -> dict[str, Any]:
    """Imports the classes and functions that a model names, if allowed.

    Keras finds some of them itself, but not the layers of a model, unless
    they are registered.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    # Optimizer and losses are not loaded.
    config.pop("compile_config", None)
    objects = {}
    for node in _named_objects(config):
        if _is_known(node):
            continue
        module, name = str(node["module"]), _object_name(node)
        if safe_mode and not _is_within(module, modules):
            raise ValueError(
                f"{path} uses {name!r} of the Python module {module!r}, which "
                "is neither a part of Keras nor registered. If you trust this "
                f"module, pass --import={module} (from Python: import it, and "
                f"call tf_triplet.builders.trust({module!r}))."
            )
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{path} uses {name!r} of the Python module {module!r}, which "
                f"cannot be imported: {error}. Run the command in the folder "
                "that holds the module, or add that folder to the environment "
                "variable PYTHONPATH."
            ) from error
        objects[name] = objects[node.get("registered_name") or name] = found
    return objects


def _named_objects(config: Any) -> Iterator[dict[str, Any]]:
    """Yields every part of a model's config that names a module."""
    if isinstance(config, dict):
        if "class_name" in config and config.get("module"):
            yield config
        for value in config.values():
            yield from _named_objects(value)
    elif isinstance(config, list):
        for value in config:
            yield from _named_objects(value)


def _object_name(node: dict[str, Any]) -> str:
    if node["class_name"] == "function":
        return str(node.get("config"))
    # A type specification names its class in another field.
    return str(node.get("spec_name", node["class_name"]))


def _is_known(node: dict[str, Any]) -> bool:
    """Whether Keras has the object, without importing a strange module."""
    module, name = str(node["module"]), _object_name(node)
    is_function = node["class_name"] == "function"
    registered = name if is_function else node.get("registered_name", name)
    if registered and tf.keras.saving.get_registered_object(registered):
        return True
    if is_function and module == "builtins":
        # Keras's own functions, unless it is one of Python's: `eval`.
        return not hasattr(builtins, name)
    known = _FUNCTION_MODULES if is_function else _CLASS_MODULES
    return _is_within(module, known)


def _is_within(module: str, packages: Collection[str]) -> bool:
    return any(
        module == package or module.startswith(f"{package}.")
        for package in packages
    )
