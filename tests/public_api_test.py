"""Every public name is annotated, documented and shown in an example.

The public names of a package are the `__all__` of its `__init__.pyi` (of
`__init__.py` where there is no stub). Check one of them while you write it:

    python -m pytest tests/public_api_test.py -k TripletLoss
"""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import docstring_parser
import numpy
import pytest
import tensorflow

import tf_triplet

ROOT = Path(__file__).parent.parent / "tf_triplet"
PACKAGES = (
    "losses",
    "models",
    "retrieval",
    "data",
    "training",
    "evaluation",
    "workflows",
)
DOCTEST_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_names(folder):
    """Reads `__all__` without importing the package."""
    stub = folder / "__init__.pyi"
    source = stub if stub.exists() else folder / "__init__.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    return []


NAMES = [
    f"{package}.{name}"
    for package in PACKAGES
    for name in public_names(ROOT / package)
]
MODULES = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
)


def resolve(name):
    package, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"tf_triplet.{package}"), attribute)


def is_ours(thing):
    return getattr(thing, "__module__", "").startswith("tf_triplet")


def callables_of(thing):
    """Yields `(name, function, docstring)` for all that a caller may call.

    A class gives its constructor, documented by the class, and its public
    methods. The docstring is None where a method overrides a documented one
    of a base class, because the reader finds it there.
    """
    if not inspect.isclass(thing):
        yield thing.__name__, inspect.unwrap(thing), thing.__doc__ or ""
        return
    own = [base for base in thing.__mro__ if is_ours(base)]
    constructor = next(
        (
            vars(base)[method]
            for base in own
            for method in ("__init__", "__new__")
            if method in vars(base)
        ),
        None,
    )
    if constructor is not None and not getattr(thing, "_is_protocol", False):
        # A NamedTuple's `__new__` is a static method.
        constructor = getattr(constructor, "__func__", constructor)
        text = inspect.getdoc(thing) or ""
        init = inspect.cleandoc(constructor.__doc__ or "")
        yield thing.__name__, constructor, f"{text}\n\n{init}"
    for base in own:
        for name, value in vars(base).items():
            method = getattr(value, "fget", None) or getattr(
                value, "__func__", value
            )
            if name.startswith("_") or not inspect.isfunction(method):
                continue
            overrides = any(
                getattr(getattr(parent, name, None), "__doc__", None)
                for parent in base.__mro__[1:]
            )
            text = None if overrides else method.__doc__ or ""
            yield f"{thing.__name__}.{name}", method, text


def arguments(function):
    parameters = inspect.signature(function).parameters.values()
    return [p for p in parameters if p.name not in ("self", "cls", "_cls")]


def parse(text):
    return docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)


def documented(text):
    """The names below `Args:` and `Attributes:`."""
    return {
        entry.arg_name.partition(" ")[0].lstrip("*")
        for entry in parse(text).params
    }


def untidy_entries(text):
    """The section entries that are not sentences: `Upper case ... stop.`"""
    for entry in parse(text).meta:
        kind = entry.args[0]
        sentence = (entry.description or "").strip()
        if kind not in ("param", "attribute", "returns", "raises", "yields"):
            continue
        if not sentence or sentence[0].islower() or sentence[-1] not in ".!?":
            yield " ".join(entry.args) + ": " + " ".join(sentence.split())


@pytest.mark.parametrize("name", public_names(ROOT))
def test_root_names_resolve(name):
    assert getattr(tf_triplet, name) is not None
    assert name in dir(tf_triplet)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_lists_its_names(package):
    module = importlib.import_module(f"tf_triplet.{package}")
    names = public_names(ROOT / package)
    assert names
    assert names == sorted(names)
    assert sorted(module.__all__) == names


@pytest.mark.parametrize("name", NAMES)
def test_annotated(name):
    missing = []
    for called, function, _ in callables_of(resolve(name)):
        signature = inspect.signature(function)
        missing += [
            f"{called}({p.name})"
            for p in arguments(function)
            if p.annotation is p.empty
        ]
        constructor = function.__name__ in ("__init__", "__new__")
        if not constructor and signature.return_annotation is signature.empty:
            missing.append(f"{called}() -> ?")
    assert not missing, "\n".join(["", *missing])


@pytest.mark.parametrize("name", NAMES)
def test_documented(name):
    missing = []
    for called, function, text in callables_of(resolve(name)):
        if text is None:
            continue
        if not text.strip():
            missing.append(f"{called} has no docstring")
            continue
        known = documented(text)
        missing += [
            f"{called} does not document `{p.name}`"
            for p in arguments(function)
            if p.name not in known
        ]
        missing += [f"{called}: {entry}" for entry in untidy_entries(text)]
    assert not missing, "\n".join(["", *missing])


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What the API reference tells readers to import.
    package = importlib.import_module(f"tf_triplet.{name.partition('.')[0]}")
    names = {"np": numpy, "tf": tensorflow, "tf_triplet": tf_triplet}
    names |= {public: getattr(package, public) for public in package.__all__}
    found = doctest.DocTestFinder().find(resolve(name), name, globs=names)
    examples = [
        test
        for test in found
        if not all(doctest.SKIP in line.options for line in test.examples)
    ]
    assert examples, "Write a short `Example:` of `>>>` lines."
    log = []
    for test in examples:
        doctest.DocTestRunner(optionflags=DOCTEST_FLAGS).run(
            test, out=log.append
        )
    assert not log, "".join(log)


@pytest.mark.parametrize("path", MODULES)
def test_entries_are_sentences(path):
    untidy = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            text = ast.get_docstring(node) or ""
            untidy += [f"{node.name}: {e}" for e in untidy_entries(text)]
    assert not untidy, "\n".join(["", *untidy])
