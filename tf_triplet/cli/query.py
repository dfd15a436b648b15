"""Asks a server for the products in pictures.

tf-triplet-query --image=photo.jpg,other.webp --server=localhost:8500

Of a model with branches: --domain=street, --domain= (the domain that queries)
or --category=hats, which all the pictures are of.
"""

from __future__ import annotations

import dataclasses
import json

from absl import app, flags

from tf_triplet.cli import errors

_IMAGE = flags.DEFINE_list("image", [], "Picture files, comma-separated.")
_SERVER = flags.DEFINE_string("server", "localhost:8500", "host:port")
_MODEL = flags.DEFINE_string("model", "product_search", "Name of the model.")
_DOMAIN = flags.DEFINE_string(
    "domain",
    None,
    "Domain of the pictures, for a model with a branch a domain; empty: the "
    "one that queries.",
)
_CATEGORY = flags.DEFINE_string(
    "category",
    None,
    "Category of the pictures, for a model with a branch a category.",
)
_CA = flags.DEFINE_string(
    "ca_file", None, "PEM certificates, for a server with TLS."
)
_ROWS = flags.DEFINE_integer("rows", 5, "Neighbours shown a picture.")
_EXACT = flags.DEFINE_bool("exact", False, "Search by brute force.")
_JSON = flags.DEFINE_bool("json", False, "Print JSON, not a table.")


@errors.friendly
def main(argv) -> None:
    """Prints a table a picture."""
    paths = _IMAGE.value + argv[1:]
    if not paths:
        raise ValueError("Pass --image=<picture>[,<picture>...].")
    from rich.console import Console
    from rich.table import Table

    from tf_triplet.serving import client

    images = [client.read_picture(path) for path in paths]
    signature = "encode_and_search_exact" if _EXACT.value else "serving_default"
    answers = client.query(
        images,
        _SERVER.value,
        _MODEL.value,
        signature,
        domain=_DOMAIN.value,
        category=_CATEGORY.value,
        ca_file=_CA.value,
    )
    shown = {
        path: [dataclasses.asdict(n) for n in answer[: _ROWS.value]]
        for path, answer in zip(paths, answers)
    }
    if _JSON.value:
        print(json.dumps(shown, indent=2))
        return
    for path, rows in shown.items():
        table = Table("product", "score", "picture", title=path)
        for row in rows:
            table.add_row(row["product_id"], f"{row['score']:.4f}", row["path"])
        Console().print(table)


def run() -> None:
    """The console script."""
    app.run(main)


if __name__ == "__main__":
    run()
