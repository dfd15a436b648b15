"""Asks a server for the products in images.

tf-triplet-query --image=photo.jpg,other.webp --server=localhost:8500

Of a model with branches: --domain=street, --domain= (the domain that queries)
or --category=hats, which all the images are of. Any model narrows its answer
down by --only_category=hats or --only_domain=shop, exactly.

A shopper's photo of many things: --box=40,10,300,420 asks for that part.
"""

from __future__ import annotations

import dataclasses
import functools
import json

from absl import flags

from tf_triplet.cli import errors

_IMAGE = flags.DEFINE_list("image", [], "Image files, comma-separated.")
_SERVER = flags.DEFINE_string("server", "localhost:8500", "host:port")
_MODEL = flags.DEFINE_string("model", "product_search", "Name of the model.")
_DOMAIN = flags.DEFINE_string(
    "domain",
    None,
    "Domain of the images, for a model with a branch a domain; empty: the "
    "one that queries.",
)
_CATEGORY = flags.DEFINE_string(
    "category",
    None,
    "Category of the images, for a model with a branch a category.",
)
_ONLY_DOMAIN = flags.DEFINE_string(
    "only_domain", "", "Answer images of this domain alone; empty: of any."
)
_ONLY_CATEGORY = flags.DEFINE_string(
    "only_category",
    "",
    "Answer images of this category alone; empty: of any.",
)
_BOX = flags.DEFINE_list(
    "box",
    None,
    "x1,y1,x2,y2 in pixels: ask for this part of the image, of one image.",
)
_CA = flags.DEFINE_string(
    "ca_file", None, "PEM certificates, for a server with TLS."
)
_ROWS = flags.DEFINE_integer(
    "rows", 5, "Neighbors shown an image; the export holds k.", 1
)
_EXACT = flags.DEFINE_bool("exact", False, "Search by brute force.")
_TIMEOUT = flags.DEFINE_float("timeout_s", 30.0, "Seconds to wait.", 0.001)
_JSON = flags.DEFINE_bool("json", False, "Print JSON, not a table.")


@errors.friendly
def main(argv) -> None:
    """Prints a table an image."""
    paths = _IMAGE.value + argv[1:]
    if not paths:
        raise ValueError("Pass --image=<image>[,<image>...].")
    from tf_triplet import client

    box = _read_box(paths)
    images = [client.read_image(path, box) for path in paths]
    filtered = _ONLY_DOMAIN.value or _ONLY_CATEGORY.value
    signature = "serving_default"
    if _EXACT.value and not filtered:  # A filter searches exactly anyway.
        signature = "encode_and_search_exact"
    ask = functools.partial(
        client.query,
        server=_SERVER.value,
        model=_MODEL.value,
        signature=signature,
        timeout_s=_TIMEOUT.value,
        domain=_DOMAIN.value,
        category=_CATEGORY.value,
        ca_file=_CA.value,
        only_domain=_ONLY_DOMAIN.value,
        only_category=_ONLY_CATEGORY.value,
    )
    answers, refused = _ask(ask, paths, images)
    shown = {
        path: [dataclasses.asdict(n) for n in answer[: _ROWS.value]]
        for path, answer in answers.items()
    }
    if _JSON.value:
        print(json.dumps(shown, indent=2))
    else:
        for path, rows in shown.items():
            _print_table(path, rows)
    if refused:
        raise ValueError("\n".join(refused))


def _ask(ask, paths, images) -> tuple[dict, list[str]]:
    """The answers by path, and the refusals of images, each with its path.

    A server refuses a request for one bad image in it, and does not say
    which: they are then asked for one by one.
    """
    from tf_triplet import client

    try:
        return dict(zip(paths, ask(images))), []
    except client.ImageError as error:
        if len(paths) == 1:
            return {}, [f"{paths[0]}: {error}"]
    answers, refused = {}, []
    for path, image in zip(paths, images):
        try:
            (answers[path],) = ask([image])
        except client.ImageError as error:
            refused.append(f"{path}: {error}")
    return answers, refused


def _read_box(paths) -> list[float] | None:
    if _BOX.value is None:
        return None
    if len(paths) > 1:
        raise ValueError(
            "--box is a part of one image. Received: --box and "
            f"{len(paths)} images. Ask for one at a time."
        )
    try:
        return [float(side) for side in _BOX.value]
    except ValueError as error:
        raise ValueError(
            "--box must be four numbers, x1,y1,x2,y2. Received: "
            f"--box={','.join(_BOX.value)}"
        ) from error


def _print_table(path: str, rows) -> None:
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
    """The console script."""
    errors.start(main)


if __name__ == "__main__":
    run()
