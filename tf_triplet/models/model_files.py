"""Tells what a file of a model is before Keras tries to load it.

Keras answers most files that it cannot load with an error about its own
insides. This module names the format, the version or the damage instead, and
how to get a file that can be loaded.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HOW_TO_EXPORT = (
    "In the environment that has saved it, run `model.export('folder')`, which "
    "writes a SavedModel that any version can run, and pass that folder. Or "
    "build the model there with tf_keras (Keras 2), load these weights into "
    "it, and save it as .keras."
)
_HOW_TO_SAVE = "Save the whole model: `model.save('model.keras')`."
# How files of other programs begin, or what they are called.
_OTHER_STARTS = (
    (b"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\x93NUMPY", "a NumPy array, not a model"),
    (b"<", "an HTML or XML page, perhaps that of a failed download"),
    (b"{", "JSON, not a model with its weights"),
)
_OTHER_SUFFIXES = {
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".bin": "PyTorch",
    ".ckpt": "a checkpoint, which holds weights only",
    ".index": "a checkpoint, which holds weights only",
    ".safetensors": "weights in the format safetensors",
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
    ".pb": "a graph of TensorFlow: pass the folder of the SavedModel",
    ".npz": "NumPy arrays: weights only",
}
_UNKNOWN_OBJECT = re.compile(
    r"(?:Unknown \w+:? ?|Could not (?:locate|find|interpret) (?:class|function|"
    r"object)?[^']{0,20})'([\w>.:]+)'"
)
_NOISE = re.compile(r"<_io\.\w+ object at 0x[0-9a-f]+>|<tensorflow\.[^>]*>")


def check_model(path: Path) -> None:
    """Refuses a file or folder that Keras 2 cannot load as a model.

    Args:
        path: The file, or the folder of a SavedModel.

    Raises:
        ValueError: If it is something else. The message names what it is, and
            how to get a model.

    Example:

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "net.keras")
    >>> _ = file.write_bytes(b"")
    >>> check_model(file)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: ...net.keras is empty (0 bytes). Copy the file again.
    """
    if path.is_dir():
        _check_folder(path)
        return
    with open(path, "rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path} is empty (0 bytes). Copy the file again.")
    if start.startswith(_HDF5):
        _check_hdf5(path)
    elif start.startswith(b"PK"):
        _check_archive(path)
    else:
        raise ValueError(_explain_other(path, start))


def is_plain_saved_model(path: Path) -> bool:
    """Tells whether a folder is a SavedModel that Keras has not saved.

    Args:
        path: The folder.
    """
    return (path / "saved_model.pb").is_file() and not (
        path / "keras_metadata.pb"
    ).is_file()


def _check_folder(path: Path) -> None:
    if (path / "saved_model.pb").is_file():
        return
    names = sorted(p.name for p in path.iterdir())
    inside = sorted(path.glob("*/saved_model.pb")) + sorted(
        path.glob("*/*/saved_model.pb")
    )
    hint = ""
    if inside:
        hint = f" Did you mean {str(inside[-1].parent)!r}?"
    elif any(name.endswith((".safetensors", ".bin")) for name in names):
        hint = " It looks like a model of PyTorch; export it as a SavedModel."
    elif {"config.json", "metadata.json"} <= set(names):
        hint = " It looks like an unpacked .keras file; pass the file itself."
    raise ValueError(
        f"{path} is not the folder of a SavedModel, because it holds no "
        f"saved_model.pb.{hint} It holds: {', '.join(names[:10]) or 'nothing'}"
    )


def _explain_other(path: Path, start: bytes) -> str:
    for mark, name in _OTHER_STARTS:
        if start.lstrip().startswith(mark):
            return f"{path} is not a model, but {name}."
    name = _OTHER_SUFFIXES.get(path.suffix.lower(), "")
    if name:
        return (
            f"{path} is a file of {name}. A model must be a .keras or .h5 "
            "file of Keras 2, or the folder of a SavedModel; convert it first."
        )
    return (
        f"{path} is neither a .keras nor an .h5 file: it begins with "
        f"{start[:12]!r}. The file is damaged, or is no model."
    )


def _check_archive(path: Path) -> None:
    """Checks a zip archive, which a .keras file is."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
            metadata, config = (
                json.loads(archive.read(name)) if name in names else None
                for name in ("metadata.json", "config.json")
            )
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is cut short or damaged: its archive cannot be read "
            f"({error}). Copy the file again."
        ) from error
    if damaged:
        raise ValueError(
            f"{path} is damaged: {damaged} in it cannot be read. Copy the "
            "file again."
        )
    _check_version(path, (metadata or {}).get("keras_version", ""))
    if config is None:
        what = "an archive that is not a .keras file"
        if any("weights" in n or n.endswith(".npy") for n in names):
            what = "weights without the model that they belong to"
        elif any(n.endswith("data.pkl") for n in names):
            what = "a file of PyTorch"
        raise ValueError(f"{path} holds {what}. {_HOW_TO_SAVE}")
    if path.suffix != ".keras":
        raise ValueError(
            f"{path} is a .keras file with another name. Rename it to "
            f"{path.stem}.keras."
        )


def _check_hdf5(path: Path) -> None:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version", "")
            has_model = "model_config" in file.attrs
            names = list(file)
    except OSError as error:
        raise ValueError(
            f"{path} is cut short or damaged: its HDF5 cannot be read "
            f"({error}). Copy the file again."
        ) from error
    if not isinstance(version, str):
        version = bytes(version).decode()
    _check_version(path, version)
    if not has_model:
        shown = ", ".join(names[:5])
        raise ValueError(
            f"{path} holds weights without the model that they belong to "
            f"({shown}). {_HOW_TO_SAVE} Weights of a built-in backbone are "
            "passed as --config.model.weights."
        )
    if path.suffix == ".keras":
        raise ValueError(
            f"{path} is an HDF5 file with another name. Rename it to "
            f"{path.stem}.h5."
        )


def _check_version(path: Path, version: str) -> None:
    if version and not re.match(r"[012]\.", version):
        raise ValueError(
            f"{path} was saved by Keras {version}. This program loads models "
            f"of Keras 2; Keras 3 has another format. {_HOW_TO_EXPORT}"
        )


def explain_failure(path: Path, error: Exception) -> str:
    """Returns the message for an error that Keras has raised.

    Args:
        path: The file of the model.
        error: The error.
    """
    text = plain_error(error)
    unknown = _UNKNOWN_OBJECT.search(str(error))
    if unknown:
        name = unknown[1].split(">")[-1]
        return (
            f"{path} has a layer or function of its own, {name!r}, which is "
            "not known here. Name the Python module that defines and "
            "registers it: --import=<module>. Or export the model as a "
            "SavedModel (`model.export('folder')`), which needs no code."
        )
    return f"Keras could not load a model from {path}: {text}"


def plain_error(error: Exception) -> str:
    """Returns the text of an error without addresses of objects.

    Args:
        error: The error.
    """
    text = _NOISE.sub("the file", str(error)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:600].rstrip(".") + "."
