"""Exports a run: tf-triplet-export --workdir=runs/emoji

Writes <workdir>/models/product_search/<version>/, a SavedModel that takes a
picture file's bytes and answers the nearest products. It is published only
if it answers what evaluation measured.

--layer=pool serves a layer before the embedding in place of it; measure it
first with tf-triplet-evaluate --layer=pool.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from absl import app, flags, logging

from tf_triplet.cli import errors

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Which encoder."
)
_LAYER = flags.DEFINE_string(
    "layer",
    "",
    "Serve this layer of the encoder, averaged over a map and of unit length, "
    "in place of its embedding; a wrong name lists them.",
)
_SPLIT = flags.DEFINE_string(
    "split", None, "Pictures to index: a split, or all. Default: the config's."
)
_DOMAINS = flags.DEFINE_list(
    "domains", None, "Index these domains only. Default: the config's."
)
_INDEX = flags.DEFINE_enum(
    "index",
    None,
    ["scann", "exact"],
    "scann, or exact (no custom op: any server loads it).",
)
_K = flags.DEFINE_integer("k", None, "Neighbours that an answer holds.")


@errors.friendly
def main(argv) -> None:
    """Embeds, builds, checks and publishes."""
    errors.refuse_arguments(argv)
    if not _WORKDIR.value:
        raise ValueError("Pass --workdir=<folder of a run>.")
    workdir = Path(_WORKDIR.value)
    import numpy as np

    from tf_triplet import evaluation, experiment
    from tf_triplet.models import branches
    from tf_triplet.serving import parity, saved_model, versions

    config = experiment.load_config(workdir)
    index = _INDEX.value or config.export.index
    encoder = experiment.load_encoder(workdir, _CHECKPOINT.value, _LAYER.value)
    catalog = _chosen(experiment.build_catalog(config), config)
    embeddings = experiment.compute_embeddings(config, encoder, catalog)
    catalog = catalog.select(embeddings.rows)
    model = saved_model.ServedModel(
        encoder,
        embeddings.vectors,
        catalog.row_product_ids,
        catalog.paths,
        image_size=config.data.image_size,
        resize=config.data.resize,
        k=_K.value or config.export.k,
        index=index,
        leaves=config.export.leaves,
        leaves_to_search=config.export.leaves_to_search,
        reorder=config.export.reorder,
    )
    own_branches = branches.find(encoder)
    names = {}
    if own_branches is not None:
        by = own_branches.by
        names[by] = evaluation.branch_names(by, catalog)
    # A served picture is whole: boxed ones are no measure of parity.
    whole = np.flatnonzero(np.isnan(catalog.boxes).any(1))
    if not config.data.use_boxes:
        whole = np.arange(len(catalog))
    if not len(whole):
        raise ValueError(
            "Every picture of the catalogue is cropped to a box, so the "
            "served answer (of whole pictures) cannot be held against "
            "evaluation. Train with --config.data.use_boxes=false."
        )
    sample = np.random.default_rng(config.seed).permutation(whole)
    target = workdir / "models" / config.export.name
    with versions.publish(target) as folder:
        with _quiet():
            model.save(folder)
        figures = parity.check(
            folder,
            catalog.paths,
            embeddings.vectors,
            sample[: config.export.parity_images],
            index=index,
            min_recall=config.export.min_recall,
            more_inputs=names,
        )
        extra = folder / "assets.extra"
        extra.mkdir(exist_ok=True)
        record = {
            "checkpoint": _CHECKPOINT.value,
            "layer": _LAYER.value,
            "index": index,
            "pictures": len(catalog),
            "products": len(catalog.product_ids),
            "branches": own_branches and dataclasses.asdict(own_branches),
            "parity": dataclasses.asdict(figures),
        }
        (extra / "export.json").write_text(json.dumps(record, indent=2) + "\n")
    version = versions.list_versions(target)[-1]
    print(
        f"{len(catalog)} pictures of {len(catalog.product_ids)} products; "
        f"served = evaluated to {figures.largest_difference:.1e} on "
        f"{figures.images} pictures; {index} finds {figures.recall:.4f} of "
        f"the exact {figures.k} nearest.\nPublished: {target / str(version)}"
    )


@contextlib.contextmanager
def _quiet():
    """Saving tells a page of names that concern nobody."""
    handler = logging.get_absl_handler()
    level = handler.level
    handler.setLevel("WARNING")
    try:
        yield
    finally:
        handler.setLevel(level)


def _chosen(catalog, config):
    """The pictures of the split and the domains."""
    import numpy as np

    catalog = catalog.split(_SPLIT.value or config.export.split)
    domains = list(_DOMAINS.value or config.export.domains)
    unknown = set(domains) - set(catalog.domain_names)
    if unknown:
        raise ValueError(
            f"There is no domain {', '.join(sorted(unknown))}. Known: "
            f"{', '.join(catalog.domain_names)}"
        )
    if not domains:
        return catalog
    names = catalog.domain_names[catalog.domains]
    return catalog.select(np.flatnonzero(np.isin(names, domains)))


def run() -> None:
    """The console script."""
    app.run(main)


if __name__ == "__main__":
    run()
