"""A run's images: a config to a catalog, and how it is sampled."""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections
import numpy as np

from tf_triplet.data import fetch
from tf_triplet.data.augmentation import Augmentation
from tf_triplet.data.catalog import Catalog
from tf_triplet.data.sampling import GroupedSampler
from tf_triplet.data.sources import (
    cars196,
    consumer2shop,
    cub200,
    inshop,
    sop,
    street2shop,
)

# Name: (reader of a folder, published counts).
BENCHMARKS = {
    "sop": (sop.read_sop, sop.PUBLISHED),
    "inshop": (inshop.read_inshop, inshop.PUBLISHED),
    "consumer2shop": (
        consumer2shop.read_consumer2shop,
        consumer2shop.PUBLISHED,
    ),
    "street2shop": (street2shop.read_street2shop, street2shop.PUBLISHED),
    "cars196": (cars196.read_cars196, cars196.PUBLISHED),
    "cub200": (cub200.read_cub200, cub200.PUBLISHED),
}


def build_catalog(
    config: ml_collections.ConfigDict, columns: Sequence[str] = ()
) -> Catalog:
    """Reads (and fetches) all images of `config.data`.

    Args:
        config: of the run.
        columns: further ones of a manifest to keep.
    """
    data = config.data
    if columns and data.source != "manifest":
        raise ValueError(
            "Only a manifest has extra columns. Received: export.columns="
            f"{', '.join(columns)} with data.source={data.source!r}. Leave "
            "export.columns empty, or pass --catalog=<manifest>."
        )
    seed, fraction = data.split_seed, data.test_fraction
    if data.source == "emoji":
        from tf_triplet.data.sources import emoji

        return emoji.read_emoji(seed=seed, test_fraction=fraction)
    if data.source == "rendered":
        from tf_triplet.data.sources import rendered

        folder = (
            fetch.cache_dir() / f"rendered-{data.rendered.products}x"
            f"{data.rendered.images_per_product}-{data.image_size}-{seed}"
        )
        return rendered.read_rendered(
            folder,
            products=data.rendered.products,
            images_per_product=data.rendered.images_per_product,
            seed=seed,
            test_fraction=fraction,
            image_size=data.image_size,
        )
    if data.source == "folder":
        from tf_triplet.data.sources import folder

        return folder.read_folder(data.path, fraction, seed)
    if data.source in BENCHMARKS:
        return BENCHMARKS[data.source][0](data.path)
    from tf_triplet.data.sources import manifest

    return manifest.read_manifest(data.path, fraction, seed, columns)


def verify_counts(source: str, catalog: Catalog) -> list[str]:
    """Holds a benchmark against its published counts, a line a part.

    A part is `all`, a split, a domain, or `pairs`. Other sources have no
    published counts: an empty list.
    """
    if source not in BENCHMARKS:
        return []
    lines = []
    for name, published in BENCHMARKS[source][1].items():
        found = _count(catalog, name)
        if published[1] is None:
            found, published = found[:1], published[:1]
        what = "pairs" if name == "pairs" else "images"
        verdict = "as published"
        if found != published:
            verdict = f"PUBLISHED: {_in_words(published, what)}"
        lines.append(f"{name}: {_in_words(found, what)}, {verdict}")
    return lines


def _count(catalog: Catalog, part: str) -> tuple[int, int]:
    """Images and products of a part."""
    if part == "pairs":
        # A pair stands at both of its images; the query side asks.
        asks = np.isin(
            catalog.domain_names[catalog.domains].astype(str),
            ("consumer", "street"),
        )
        return int(catalog.extras["pairs"][asks].sum()), 0
    if part == "all":
        rows = np.ones(len(catalog), bool)
    elif part in catalog.split_names:
        rows = catalog.split_names[catalog.splits] == part
    else:
        rows = catalog.domain_names[catalog.domains] == part
    # An image of two products, or two splits, is one image.
    images = len(np.unique(catalog.paths[rows].astype(str)))
    return images, len(np.unique(catalog.products[rows]))


def _in_words(counts: tuple[int, ...], what: str) -> str:
    words = f"{counts[0]:,} {what}"
    return words if len(counts) == 1 else f"{words} of {counts[1]:,} products"


def training_catalog(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> Catalog:
    """The images to train on: of the split train and, where
    `config.sampling` names two domains, of these alone."""
    training = catalog.split("train")
    wanted = sampling_domains(config)
    for name in wanted:
        training.domain(name)  # Tells the domains there are, if not this one.
    if not wanted:
        return training
    domains = training.domain_names[training.domains]
    return training.select(np.isin(domains.astype(str), wanted))


def sampling_sides(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> np.ndarray | None:
    """`[rows]` int32: 0 where an image queries, 1 where it is searched.

    None without two domains in `config.sampling`, and where they are pooled.
    """
    if config.sampling.pool_domains or not sampling_domains(config):
        return None
    names = catalog.domain_names[catalog.domains]
    return (names == config.sampling.gallery_domain).astype(np.int32)


def sampling_domains(config: ml_collections.ConfigDict) -> list[str]:
    """The two domains of `config.sampling`, query first; or none."""
    sampling = config.sampling
    return [n for n in (sampling.query_domain, sampling.gallery_domain) if n]


def build_sampler(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> GroupedSampler:
    """The sampler of a training catalog."""
    sampling = config.sampling
    return GroupedSampler(
        catalog.products,
        catalog.categories,
        units=sampling.units,
        units_per_batch=sampling.units_per_batch,
        images_per_product=sampling.images_per_product,
        single_category_probability=sampling.single_category_probability,
        small_category=sampling.small_category,
        singletons=sampling.singletons,
        sides=sampling_sides(config, catalog),
        categories_per_batch=sampling.categories_per_batch,
        mixed_draws=sampling.mixed_draws,
        seed=config.seed,
    )


def build_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """What may happen to a training image."""
    return Augmentation(**config.augment.to_dict())
