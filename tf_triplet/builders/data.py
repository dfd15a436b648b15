"""The images of a config: the catalog, and how training samples them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from tf_triplet.builders import chosen_fields, extensions
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

# For each benchmark, the function that reads its folder, and the published
# numbers of images and products.
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
    """Reads all images of `config.data`, and fetches them where needed.

    Args:
        config: The config of the run.
        columns: Names of extra columns to keep, of a manifest or of a source
            of your own.

    Returns:
        The catalog of all splits.

    Raises:
        ValueError: If the source does not have these columns, or cannot be
            read.
    """
    data = config.data
    own = extensions.is_extension(data.source)
    if columns and data.source != "manifest" and not own:
        raise ValueError(
            "Only a manifest has extra columns. Received: export.columns="
            f"{', '.join(columns)} with data.source={data.source!r}. Leave "
            "export.columns empty, or pass --catalog=<manifest>."
        )
    if own:
        return _read_own(config, columns)
    seed, fraction, draw = data.split_seed, data.test_fraction, data.split_draw
    if data.source in BENCHMARKS:
        catalog = BENCHMARKS[data.source][0](data.path)
        return dataclasses.replace(catalog, root=str(pathlib.Path(data.path)))
    if data.source == "emoji":
        from tf_triplet.data.sources import emoji

        return emoji.read_emoji(seed=seed, test_fraction=fraction, draw=draw)
    if data.source == "rendered":
        return _render(config)
    if data.source == "folder":
        from tf_triplet.data.sources import folder

        return folder.read_folder(data.path, fraction, seed, draw)
    from tf_triplet.data.sources import manifest

    return manifest.read_manifest(
        data.path, fraction, seed, columns, draw, data.encoding
    )


def _render(config: ml_collections.ConfigDict) -> Catalog:
    from tf_triplet.data.sources import rendered

    data = config.data
    products, images = (
        data.rendered.products,
        data.rendered.images_per_product,
    )
    folder = fetch.cache_dir() / (
        f"rendered-{products}x{images}-{data.image_size}-{data.split_seed}"
    )
    return rendered.read_rendered(
        folder,
        products=products,
        images_per_product=images,
        seed=data.split_seed,
        test_fraction=data.test_fraction,
        image_size=data.image_size,
        draw=data.split_draw,
    )


def _read_own(
    config: ml_collections.ConfigDict, columns: Sequence[str]
) -> Catalog:
    data = config.data
    catalog = extensions.make(
        "data.source",
        data.source,
        Catalog,
        "a tf_triplet.data.Catalog",
        {
            "path": data.path,
            "seed": data.split_seed,
            "test_fraction": data.test_fraction,
        },
    )
    missing = [name for name in columns if name not in catalog.extras]
    if missing:
        raise ValueError(
            f"The catalog of `data.source={data.source}` has no extra columns "
            f"{', '.join(missing)}. Received: export.columns="
            f"{', '.join(columns)}. It has: "
            f"{', '.join(catalog.extras) or 'none'}"
        )
    return catalog


def verify_counts(source: str, catalog: Catalog) -> list[str]:
    """Compares a benchmark with its published numbers of images.

    Args:
        source: The value of `config.data.source`.
        catalog: The catalog that was read from it.

    Returns:
        One line for each part: `all`, a split, a domain, or `pairs`. Empty if
        the source is not a benchmark.
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
    """Counts the images and the products of a part."""
    if part == "pairs":
        # A pair is counted at both of its images; only one is the query.
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
    # An image of two products, or of two splits, counts once.
    images = len(set(catalog.paths[rows]))
    return images, len(np.unique(catalog.products[rows]))


def _in_words(counts: tuple[int, ...], what: str) -> str:
    words = f"{counts[0]:,} {what}"
    return words if len(counts) == 1 else f"{words} of {counts[1]:,} products"


def training_catalog(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> Catalog:
    """Selects the images to train on.

    Args:
        config: The config of the run.
        catalog: The images of all splits.

    Returns:
        The images of the split `train`. If `config.sampling` names two
        domains, only the images of these domains.
    """
    training = catalog.split("train")
    wanted = sampling_domains(config)
    for name in wanted:
        training.domain(name)  # Raises an error for an unknown domain.
    if not wanted:
        return training
    domains = training.domain_names[training.domains]
    return training.select(np.isin(domains.astype(str), wanted))


def sampling_sides(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> np.ndarray | None:
    """Tells the query side from the gallery side of a training catalog.

    Args:
        config: The config of the run.
        catalog: The training catalog.

    Returns:
        `[rows]` int32: 0 for an image of the query domain, 1 for one of the
        gallery domain. None if `config.sampling` names no domains, or pools
        them.
    """
    if config.sampling.pool_domains or not sampling_domains(config):
        return None
    names = catalog.domain_names[catalog.domains]
    return (names == config.sampling.gallery_domain).astype(np.int32)


def sampling_domains(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the two domains to train on, the query domain first.

    Args:
        config: The config of the run.

    Returns:
        Two names, or an empty list.
    """
    sampling = config.sampling
    return [n for n in (sampling.query_domain, sampling.gallery_domain) if n]


def build_sampler(
    config: ml_collections.ConfigDict, catalog: Catalog
) -> GroupedSampler:
    """Builds the sampler of a training catalog.

    Args:
        config: The config of the run.
        catalog: The training catalog.

    Returns:
        The sampler.

    Raises:
        ValueError: If the catalog has too few products for a minibatch.
    """
    chosen_fields.check_resolved(config)
    sampling = config.sampling
    return GroupedSampler(
        catalog.products,
        catalog.categories,
        units=sampling.units,
        units_per_batch=sampling.units_per_batch,
        images_per_product=sampling.images_per_product,
        single_category_probability=sampling.single_category_probability,
        small_category=sampling.small_category,
        category_draw=sampling.category_draw,
        singletons=sampling.singletons,
        sides=sampling_sides(config, catalog),
        categories_per_batch=sampling.categories_per_batch,
        mixed_draws=sampling.mixed_draws,
        seed=config.seed,
    )


def build_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
    """Returns how training images are distorted.

    Args:
        config: The config of the run.
    """
    return Augmentation(**config.augment.to_dict())
