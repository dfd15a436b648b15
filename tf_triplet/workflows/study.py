"""A study: the methods that `tf_triplet.workflows.compare` compares.

A study file defines `get_study()`, which returns a mapping from the name of a
method to a `Method`. The name is the method's row in the table and its folder.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from tf_triplet import builders
from tf_triplet import config as configs

# Methods of one table must agree in these, to have one budget.
_SAME = ("data", "evaluation", "training.steps", "training.mixed_precision")


@dataclasses.dataclass(frozen=True)
class Method:
    """One method of a study, a row of its table.

    Attributes:
        config: The config of its runs. The field `seed` is replaced.
        group: Heading in the table, for instance the question that the method
            answers.
        trained: Whether to train. Otherwise the features of the pretrained
            backbone are scored as they are.

    Example:

    >>> from tf_triplet.config import paper_config
    >>> from tf_triplet.workflows import Method
    >>> study = {}
    >>> for margin in (0.1, 0.2):
    ...     config = paper_config()
    ...     config.loss.margin = margin
    ...     study[f"margin={margin}"] = Method(config, group="Margin")
    >>> study["margin=0.2"].config.loss.margin
    0.2
    """

    config: ml_collections.ConfigDict
    group: str = ""
    trained: bool = True


def read_study(path: str) -> dict[str, Method]:
    """Calls `get_study()` of a Python file.

    Args:
        path: The file. Text behind a colon is passed to `get_study`, as in
            `configs/studies/emoji_methods.py:600`.

    Returns:
        The methods by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a study, or its function does not take
            the argument.

    Example:

    >>> from tf_triplet.workflows import read_study
    >>> list(
    ...     read_study("configs/studies/emoji_ablation.py")
    ... )  # doctest: +SKIP
    ['pretrained', 'random_pairs', 'paper', 'single_category=0.0', ...]
    """
    return dict(_load_function(path, "get_study")())


def read_configs(paths: Iterable[str]) -> dict[str, Method]:
    """Makes a study of config files.

    Args:
        paths: Python files with `get_config()`. Text behind a colon is passed
            to that function, as in `configs/sop.py:smoke`.

    Returns:
        The methods. Each has the name of its file, and the text behind the
        colon if there is one: `sop_smoke`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If two methods have the same name, or a file is not a
            config.

    Example:

    >>> from tf_triplet.workflows import read_configs
    >>> list(
    ...     read_configs(["configs/emoji.py", "configs/sop.py:smoke"])
    ... )  # doctest: +SKIP
    ['emoji', 'sop_smoke']
    """
    study: dict[str, Method] = {}
    for given in paths:
        path, _, argument = given.partition(":")
        name = "_".join(filter(None, (Path(path).stem, argument)))
        if name in study:
            raise ValueError(
                "A method has the name of its config file, so these must "
                f"differ. Received: {name!r} twice"
            )
        study[name] = Method(_load_function(given, "get_config")())
    return study


def choose_methods(
    study: Mapping[str, Method], names: Iterable[str]
) -> dict[str, Method]:
    """Returns the named methods of a study.

    Args:
        study: The methods.
        names: The names of those to keep.

    Returns:
        The methods in the order of `names`.

    Raises:
        ValueError: If a name is not in the study.

    Example:

    >>> from tf_triplet.config import paper_config
    >>> from tf_triplet.workflows import Method, choose_methods
    >>> study = {name: Method(paper_config()) for name in ("a", "b", "c")}
    >>> list(choose_methods(study, ["c", "a"]))
    ['c', 'a']
    """
    names = list(names)
    unknown = set(names) - set(study)
    if unknown:
        raise ValueError(
            f"`methods` must be names of the study: {', '.join(study)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    return {name: study[name] for name in names}


def check_study(
    study: Mapping[str, Method], differ: Iterable[str] = ()
) -> None:
    """Checks that the methods of a study can stand in one table.

    Args:
        study: The methods.
        differ: Fields of data, evaluation and budget in which the methods may
            differ, for instance `training.steps`.

    Raises:
        ValueError: If there is no method, if a name cannot be a folder's, if
            a config is wrong, or if two methods differ in a field that they
            must share.
    """
    if not study:
        raise ValueError("The study holds no method.")
    differ = tuple(differ)
    # A method of 0 steps uses less of any budget, so it fits every one.
    trained = [name for name in study if study[name].config.training.steps]
    first_name = next(iter(trained or study))
    first = _budget(study[first_name].config)
    for name, method in study.items():
        if not re.fullmatch(r"[\w.+=-]+", name):
            raise ValueError(
                "A method's name is also its folder's, so it may hold "
                f"letters, digits and any of . + = - _. Received: {name!r}"
            )
        try:
            builders.validate(method.config)
        except ValueError as error:
            raise ValueError(f"Method {name!r}: {error}") from error
        for field, value in _budget(method.config).items():
            if field == "training.steps" and not value:
                continue
            if value != first[field] and not field.startswith(differ):
                raise ValueError(
                    f"Methods {first_name!r} and {name!r} differ in "
                    f"`{field}`: {first[field]!r} and {value!r}. One table "
                    "needs one data set, protocol and budget. Pass "
                    f"--differ={field} to allow it."
                )


def _budget(config: ml_collections.ConfigDict) -> dict[str, Any]:
    flat = configs.flatten(config.to_dict())
    return {k: v for k, v in flat.items() if k.startswith(_SAME)}


def _load_function(given: str, function: str) -> Callable[[], Any]:
    """Returns a function of a file, with the argument behind the colon."""
    path, colon, argument = given.partition(":")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None:
        raise ValueError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"{path} does not define {function}().")
    made = getattr(module, function)
    if not colon:
        return made
    if not inspect.signature(made).parameters:
        raise ValueError(
            f"{function}() of {path} takes no argument. Received: {argument!r}"
        )
    return functools.partial(made, argument)
