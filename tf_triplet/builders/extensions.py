"""Code of your own in a config: `loss.name = "my_module:MyLoss"`.

Four fields accept the name of a Python object in place of a built-in choice,
written `module:Name`. The object is called with keyword arguments:

* `loss.name`: called with the fields of `loss.arguments`; returns a
  `tf_triplet.losses.BatchLoss`.
* `model.backbone`: called with `image_size` and `weights`; returns a Keras
  model from `[batch, image_size, image_size, 3]` pixels in [0, 1] to features.
* `model.pooling`: called without arguments; returns a Keras layer from
  `[batch, height, width, channels]` to `[batch, channels]`.
* `data.source`: called with `path`, `seed` and `test_fraction`; returns a
  `tf_triplet.data.Catalog` of all splits.

A config that you pass to training is trusted, and so is a module that you
name with `--import`. The folder of a run may come from somebody else, so a
module that its config or its models name is imported only after `trust`. This
is the one place of the package where text becomes code.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections

FIELDS = ("data.source", "model.backbone", "model.pooling", "loss.name")

_trusted: set[str] = set()
_everything = False


def trust(*modules: str, everything: bool = False) -> None:
    """Allows what the folders of runs and saved models name, for this process.

    The flags `--import` and `--trust_run` of the programs call this function.

    Args:
        *modules: Names of Python modules that may be imported because the
            config of a run, or a model, names them. A package includes its
            modules.
        everything: Whether to allow any module, and models with `Lambda`
            layers, whose code is stored in the file. Do this only if you
            trust the authors of the folder and of the models it uses.

    Example:

    >>> trust("my_layers")
    >>> "my_layers" in model_options()["modules"]
    True
    """
    global _everything
    _trusted.update(modules)
    _everything = _everything or everything


def model_options(everything: bool = False) -> dict[str, Any]:
    """Returns what is trusted, as arguments of `safe_loading.load_model`.

    Args:
        everything: Whether to trust the model file whatever was allowed.

    Returns:
        The arguments `modules` and `safe_mode`.
    """
    return {
        "modules": tuple(sorted(_trusted)),
        "safe_mode": not (_everything or everything),
    }


def program_flags(fields: Mapping[str, Any]) -> list[str]:
    """Returns the flags that let another program read the same run.

    Args:
        fields: The fields of the run's config, by name.

    Returns:
        `--import` with the modules allowed here or named in the config, and
        `--trust_run` if everything is allowed here.
    """
    modules = sorted({*_trusted, *_modules_named(fields).values()})
    flags = [f"--import={','.join(modules)}"] if modules else []
    return [*flags, "--trust_run"] if _everything else flags


def check_trusted(fields: Mapping[str, Any], where: str) -> None:
    """Refuses a config from a run's folder that names strange modules.

    Args:
        fields: The fields of the config, by name.
        where: The file of the config, for the error.

    Raises:
        ValueError: If a field names a module that `trust` has not allowed.
    """
    if _everything:
        return
    for field, module in _modules_named(fields).items():
        if not _is_trusted(module):
            raise ValueError(
                f"{where} names code in `{field}`: {fields[field]!r}. It is "
                "imported only if you say so, because a run's folder may come "
                f"from somebody else. Pass --import={module} to import this "
                "module, or --trust_run to trust the folder (from Python: "
                f"tf_triplet.builders.trust({module!r}))."
            )


def is_extension(value: Any) -> bool:
    """Returns whether a field's value is of the form `module:Name`."""
    return isinstance(value, str) and ":" in value


def is_own_network(backbone: str | None, path: str = "") -> bool:
    """Returns whether the network comes from the user, as code or as a file."""
    if backbone is None:
        return bool(path)
    return backbone == "imported" or is_extension(backbone)


def is_pretrained(config: ml_collections.ConfigDict) -> bool:
    """Tells whether a training begins from a network that has been trained.

    A network of the user's own is taken for one.

    Args:
        config: The config of a run, which may leave fields open.

    Example:

    >>> from tf_triplet import builders, config as configs
    >>> config = configs.base_config()
    >>> config.model.weights = "random"
    >>> builders.is_pretrained(config)
    False
    """
    model = config.model
    own = is_own_network(model.backbone, model.path)
    return own or model.weights != "random"


def resolve(field: str, value: str) -> Callable[..., Any]:
    """Imports what a field names, and trusts its module from then on.

    Args:
        field: Name of the field, for errors.
        value: `module:Name`. Both parts may contain dots.

    Returns:
        The function or class.

    Raises:
        ValueError: If the module cannot be imported, has no such name, or
            the object cannot be called.

    Example:

    >>> resolve("loss.name", "collections:OrderedDict").__name__
    'OrderedDict'
    """
    module_name, _, name = value.partition(":")
    parts = (*module_name.split("."), *name.split("."))
    if not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"`{field}` must be one of the built-in choices, or module:Name "
            f"for code of your own. Received: {value!r}"
        )
    module = import_module(module_name, f"`{field}={value}`")
    trust(module_name)
    try:
        found = operator.attrgetter(name)(module)
    except AttributeError as error:
        known = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(
            f"`{field}={value}`: the module {module_name!r} "
            f"({_file(module)}) has no {name!r}. It has: "
            f"{', '.join(sorted(known)) or 'nothing public'}"
        ) from error
    if not callable(found):
        raise ValueError(
            f"`{field}={value}` must be a function or a class. Received: "
            f"{found!r} of type {type(found).__name__}"
        )
    return found


def make(
    field: str,
    value: str,
    kind: type,
    kind_name: str,
    arguments: Mapping[str, Any],
) -> Any:
    """Calls what a field names, and checks what it returns.

    Args:
        field: Name of the field, for errors.
        value: `module:Name`.
        kind: The class of which the result must be an instance.
        kind_name: Its name for errors, for instance "a tf.keras.Model".
        arguments: Keyword arguments for the call.

    Returns:
        The object that was made.

    Raises:
        ValueError: If the object cannot be imported, does not take these
            arguments, or returns something else.
    """
    function = resolve(field, value)
    _check_arguments(field, value, function, arguments)
    try:
        made = function(**arguments)
    except TypeError as error:
        raise ValueError(
            f"`{field}={value}`: the call with the keyword arguments "
            f"{dict(arguments)} failed with TypeError: {error}. Set "
            "TF_TRIPLET_DEBUG=1 to see where."
        ) from error
    if not isinstance(made, kind):
        raise ValueError(
            f"`{field}={value}` must return {kind_name}. Received: an object "
            f"of type {type(made).__module__}.{type(made).__qualname__}"
        )
    return made


def import_module(name: str, asked_by: str = "--import") -> Any:
    """Imports a module of the user's own; the current folder is searched too.

    Args:
        name: Name of the module, with dots.
        asked_by: What names the module, for errors.

    Returns:
        The module.

    Raises:
        ValueError: If there is no such module, or if importing it fails.
    """
    # `python -m` searches the current folder, an installed program does not.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except Exception as error:  # A module may raise anything.
        missing = getattr(error, "name", None) or ""
        is_missing = isinstance(error, ModuleNotFoundError)
        if is_missing and f"{name}.".startswith(f"{missing}."):
            raise ValueError(
                f"{asked_by}: there is no module {name!r}. Python searched "
                f"the current folder ({os.getcwd()}) and the rest of sys.path. "
                "Run the command in the folder that holds the module, add "
                "that folder to the environment variable PYTHONPATH, or "
                "install the package."
            ) from error
        raise ValueError(
            f"{asked_by}: importing the module {name!r} failed with "
            f"{type(error).__name__}: {error}. Set TF_TRIPLET_DEBUG=1 to see "
            "where."
        ) from error


def _check_arguments(field, value, function, arguments) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Some classes written in C have none.
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(
            f"`{field}={value}` is called with the keyword arguments "
            f"{dict(arguments)}: {error}. It takes {signature}."
        ) from error


def _modules_named(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns the module that each field names, if it names one."""
    return {
        field: fields[field].partition(":")[0]
        for field in FIELDS
        if is_extension(fields[field])
    }


def _is_trusted(module: str) -> bool:
    return any(f"{module}.".startswith(f"{known}.") for known in _trusted)


def _file(module: Any) -> str:
    return getattr(module, "__file__", None) or "no file"
