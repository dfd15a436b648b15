"""Asks a server for the products in images.

  tf-triplet-query --image=photo.jpg --image=other.webp --server=localhost:8500

Images may also be given without --image, or separated by commas. A comma that
belongs to the name of an existing file separates nothing.

A model with branches needs to know the domain of the images, --domain=street
(--domain= for the domain that queries), or their category, --category=hats.
Any model can search a part of the catalog: --only_category=hats or
--only_domain=shop. A name that matches no indexed image is an error.

A server that is still starting is waited for, up to --timeout_s.

If a photo shows many things, --box=40,10,300,420 asks for that part of it.

In Python: tf_triplet.client.query(images, server).
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

from absl import flags

from tf_triplet.cli import program

if TYPE_CHECKING:
    from tf_triplet import client

_IMAGE = flags.DEFINE_multi_string(
    "image",
    [],
    "Image file. Repeat it for several images, or separate them by commas.",
)
_SERVER = flags.DEFINE_string(
    "server", "localhost:8500", "Address of the server's gRPC, host:port."
)
_MODEL = flags.DEFINE_string("model", "product_search", "Name of the model.")
_DOMAIN = flags.DEFINE_string(
    "domain",
    None,
    "Domain of the images, for a model with one branch per domain. Empty for "
    "the domain that queries.",
)
_CATEGORY = flags.DEFINE_string(
    "category",
    None,
    "Category of the images, for a model with one branch per category.",
)
_ONLY_DOMAIN = flags.DEFINE_string(
    "only_domain",
    "",
    "Search only the images of this domain. Empty for all.",
)
_ONLY_CATEGORY = flags.DEFINE_string(
    "only_category",
    "",
    "Search only the images of this category. Empty for all.",
)
_BOX = flags.DEFINE_list(
    "box",
    None,
    "Part of the image to ask for, x1,y1,x2,y2 in pixels. It needs a single "
    "image.",
)
_MEGAPIXELS = flags.DEFINE_float(
    "max_megapixels",
    32.0,
    "Millions of pixels that are converted or cropped at most. The limit of "
    "the server is data.max_megapixels of its run.",
    0.0,
)
_CA = flags.DEFINE_string(
    "ca_file",
    None,
    "File with PEM certificates, for a server with TLS. Default: no TLS.",
)
_ROWS = flags.DEFINE_integer(
    "rows",
    5,
    "Number of neighbors to show for each image, at most the k of the export.",
    1,
)
_EXACT = flags.DEFINE_bool(
    "exact", False, "Search by all dot products in place of ScaNN."
)
_TIMEOUT = flags.DEFINE_float(
    "timeout_s",
    30.0,
    "Seconds to wait for the answer, and for a server that is starting.",
    0.001,
)
_JSON = flags.DEFINE_bool("json", False, "Print JSON in place of tables.")


@program.friendly
def main(argv: list[str]) -> None:
    """Prints one table per image."""
    paths = [path for text in _IMAGE.value for path in split_paths(text)]
    paths = list(dict.fromkeys(paths + argv[1:]))
    if not paths:
        raise ValueError("Pass --image=<image>, once for each image.")
    from tf_triplet import client

    box = _read_box(paths)
    options = {
        "server": _SERVER.value,
        "model": _MODEL.value,
        "signature": "encode_and_search_exact"
        if _EXACT.value
        else "serving_default",
        "timeout_s": _TIMEOUT.value,
        "domain": _DOMAIN.value,
        "category": _CATEGORY.value,
        "ca_file": _CA.value,
        "only_domain": _ONLY_DOMAIN.value,
        "only_category": _ONLY_CATEGORY.value,
    }
    answers, refused = client.query_files(
        paths, box, _MEGAPIXELS.value, **options
    )
    _show(answers)
    errors = [f"{path}: {error}" for path, error in refused.items()]
    empty = [path for path, answer in answers.items() if not answer]
    if empty:
        image = client.read_image(empty[0], box, _MEGAPIXELS.value)
        unknown = client.find_unknown_filters(image, **options)
        errors += [
            f"No indexed image matches --{name}={value}. Names are compared "
            "exactly, with upper and lower case."
            for name, value in unknown.items()
        ]
    if errors:
        raise ValueError("\n".join(errors))


def split_paths(text: str) -> list[str]:
    """Splits paths at the commas that are in the name of no file.

    Args:
        text: Paths separated by commas. A path in double quotes may contain
            any.

    Returns:
        The paths. Of the files that exist, the longest names count.
    """
    if os.path.exists(text):
        return [text]
    parts, paths = text.split(","), []
    while parts:
        for end in range(len(parts), 0, -1):
            path = ",".join(parts[:end])
            if end > 1 and path[:1] == path[-1:] == '"':
                path = path[1:-1]
            if end == 1 or os.path.exists(path):
                break
        if not os.path.exists(path) and path[:1] == path[-1:] == '"':
            path = path[1:-1]
        paths.append(path)
        parts = parts[end:]
    return [path for path in paths if path]


def _show(answers: dict[str, list[client.Neighbor]]) -> None:
    shown = {
        path: [dataclasses.asdict(n) for n in answer[: _ROWS.value]]
        for path, answer in answers.items()
    }
    if _JSON.value:
        print(json.dumps(shown, indent=2))
        return
    for path, rows in shown.items():
        _print_table(path, rows)


def _read_box(paths: list[str]) -> list[float] | None:
    if _BOX.value is None:
        return None
    if len(paths) > 1:
        raise ValueError(
            "--box is a part of one image. Received: --box and "
            f"{len(paths)} images. Ask for one image at a time."
        )
    try:
        return [float(side) for side in _BOX.value]
    except ValueError as error:
        raise ValueError(
            "--box must be four numbers, x1,y1,x2,y2. Received: "
            f"--box={','.join(_BOX.value)}"
        ) from error


def _print_table(path: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = list(rows[0]["columns"]) if rows else []
    table = Table("product", "score", "image", *columns, title=escape(path))
    for row in rows:
        cells = [row["product_id"], f"{row['score']:.4f}", row["path"]]
        cells += [row["columns"][name] for name in columns]
        table.add_row(*map(escape, cells))
    if not rows:
        table.caption = "Nothing found."
    Console().print(table)


def run() -> None:
    """Runs the program; its console script calls this."""
    program.start(main)


if __name__ == "__main__":
    run()
