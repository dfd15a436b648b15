"""Measures retrieval: tf-triplet-evaluate --workdir=runs/emoji

Prints Recall@K, Precision@K, MAP@R and R-Precision, overall and a row a
category, and writes them to <workdir>/report/evaluation.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from absl import app, flags

from tf_triplet.cli import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which encoder."
)
_BASELINE = flags.DEFINE_enum(
    "baseline",
    None,
    ["pretrained"],
    "Also measure the backbone's features before any training.",
)
_SPLIT = flags.DEFINE_string("split", None, "Default: the config's.")
_KS = flags.DEFINE_list("ks", None, "Ranks, as in 1,10. Default: the config's.")
_QUERY = flags.DEFINE_string(
    "query_domain", None, "Queries of this domain only."
)
_GALLERY = flags.DEFINE_string(
    "gallery_domain", None, "Searched among this domain only."
)


@errors.friendly
def main(argv) -> None:
    """Embeds, scores, prints and writes."""
    del argv
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of a run>.")
    workdir = Path(_WORKDIR.value)
    from tf_triplet import experiment

    config = experiment.load_config(workdir)
    encoders = {"trained": experiment.load_encoder(workdir, _CHECKPOINT.value)}
    if _BASELINE.value:
        encoders["pretrained"] = experiment.build_baseline(config)
    catalog = experiment.build_catalog(config).split(
        _SPLIT.value or config.evaluation.split
    )
    results = {
        name: _measure(encoder, catalog, config)
        for name, encoder in encoders.items()
    }
    _print(results)
    path = workdir / "report" / "evaluation.json"
    path.parent.mkdir(exist_ok=True)
    text = {name: result.to_dict() for name, result in results.items()}
    path.write_text(json.dumps(text, indent=2) + "\n")
    print(f"Written: {path}")


def _measure(encoder, catalog, config):
    from tf_triplet import evaluation

    try:
        ks = [int(k) for k in _KS.value or config.evaluation.ks]
    except ValueError as error:
        raise ValueError(
            f"`--ks` must be integers, as in 1,10. Received: {_KS.value}"
        ) from error

    def chosen(flag, default):
        return default if flag is None else flag

    embeddings = evaluation.compute_embeddings(
        encoder,
        catalog,
        image_size=config.data.image_size,
        batch_size=config.evaluation.batch_size,
        resize=config.data.resize,
        use_boxes=config.data.use_boxes,
        on_bad_image=config.data.on_bad_image,
    )
    return evaluation.evaluate(
        embeddings,
        catalog,
        ks=ks,
        query_domain=chosen(_QUERY.value, config.evaluation.query_domain),
        gallery_domain=chosen(
            _GALLERY.value, config.evaluation.gallery_domain
        ),
        ties=config.evaluation.ties,
    )


def _print(results) -> None:
    from rich.console import Console
    from rich.table import Table

    for name, result in results.items():
        columns = list(result.overall.named())
        table = Table(
            "category",
            "queries",
            *columns,
            title=f"{name}: {result.protocol}; ties {result.ties}",
        )
        rows = {"all": result.overall, **result.overall.by_group}
        for row, figures in rows.items():
            values = (f"{v:.3f}" for v in figures.named().values())
            table.add_row(row, str(figures.queries), *values)
        Console(width=140).print(table)


def run() -> None:
    """The console script."""
    app.run(main)


if __name__ == "__main__":
    run()
