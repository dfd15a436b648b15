"""What must hold before a catalog is published in place of the last one.

A table that was cut short or a share that is not mounted would otherwise
replace a whole catalog by a few images, and servers would load it at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import logging

from tf_triplet import builders
from tf_triplet.data import ids
from tf_triplet.workflows import build_version
from tf_triplet.workflows.published import name_some

if TYPE_CHECKING:
    from tf_triplet.data.catalog import Catalog

# The largest share of unreadable images, and the smallest catalog relative to
# that of the last version, that are published without being asked for.
MOST_UNREADABLE = 0.05
SMALLEST_SHARE = 0.5
# Unreadable images that an error names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class LastVersion:
    """The newest version before this one.

    Attributes:
        folder: The folder of the version.
        record: Its fingerprint, empty if it has none.
        products: A hash of each of its products, by normalized id. `None` if
            it does not record them.
    """

    folder: Path
    record: dict[str, Any]
    products: dict[str, str] | None

    @classmethod
    def find(cls, target: Path) -> LastVersion | None:
        """Reads the newest version of a model, or `None` if there is none.

        Args:
            target: Folder of the numbered versions.
        """
        from tf_triplet.servable import fingerprint, versions

        known = versions.list_versions(target)
        if not known:
            return None
        folder = target / str(known[-1])
        return cls(
            folder,
            fingerprint.read(folder) or {},
            fingerprint.read_products(folder),
        )

    def compare(
        self, digests: Mapping[str, str]
    ) -> builders.TableDifference | None:
        """Returns the products that are new, gone or changed since.

        Args:
            digests: A hash of each product to publish, by normalized id.

        Returns:
            `None` if the version does not record its products.
        """
        if self.products is None:
            return None
        return builders.compare_digests(self.products, digests)

    @property
    def number(self) -> int:
        """The number of the version."""
        return int(self.folder.name)

    @property
    def images(self) -> int:
        """The number of images that it indexes; 0 if that is not recorded."""
        # The second is the name in records of earlier versions.
        return self.record.get("images", self.record.get("pictures", 0))


def check_size(catalog: Catalog, last: LastVersion) -> None:
    """Checks that a catalog is not much smaller than that of a version.

    Args:
        catalog: The images to index.
        last: The version to compare with.

    Raises:
        ValueError: If the catalog has fewer than half as many images.
    """
    before = last.images
    if len(catalog) >= SMALLEST_SHARE * before:
        return
    gone = ""
    difference = last.compare(
        dict.fromkeys(ids.normalize_ids(catalog.product_ids), "")
    )
    if difference is not None:
        gone = (
            f"It lacks {len(difference.removed):,} products of that version "
            f"({name_some(difference.removed)}). "
        )
    raise ValueError(
        f"Catalog {catalog.name!r} has {len(catalog):,} images to index, fewer "
        f"than half of the {before:,} of version {last.number}. {gone}Check "
        "that the catalog is complete, or pass --allow_smaller_catalog. "
        "Nothing was published."
    )


def check_readable(
    catalog: Catalog, unreadable: np.ndarray, max_megapixels: float
) -> None:
    """Checks that only a small share of a catalog cannot be read.

    Args:
        catalog: The images.
        unreadable: `[n]` booleans, true for images that cannot be read.
        max_megapixels: Millions of pixels that are decoded at most.

    Raises:
        ValueError: If more than 5 % of them cannot be read.
    """
    from tf_triplet.data import bad_images

    bad = catalog.paths[unreadable]
    if len(bad) <= MOST_UNREADABLE * len(catalog):
        return
    some = "; ".join(
        bad_images.reason(str(path), max_megapixels) for path in bad[:_NAMED]
    )
    if len(bad) > _NAMED:
        some += "; ..."
    raise ValueError(
        f"{len(bad):,} of the {len(catalog):,} images of catalog "
        f"{catalog.name!r} cannot be read ({len(bad) / len(catalog):.1%}), "
        f"more than {MOST_UNREADABLE:.0%}: {some}. Check that the folder of "
        "the images is mounted and repair the images, or pass "
        "--allow_unreadable to publish without them. Nothing was published."
    )


def check_same_encoder(last: LastVersion, sha256: str) -> None:
    """Checks that a version was made by this run's encoder.

    The encoder of a version that knows it by the text of the code is left to
    `check_answers`. A difference in the packages that decode images is logged.

    Args:
        last: The version to compare with.
        sha256: The hash of the run's encoder.

    Raises:
        ValueError: If another encoder made the version.
    """
    from tf_triplet.servable import fingerprint

    if fingerprint.names_source_text(last.record):
        return
    fingerprint.check_same_encoder(last.folder, sha256)
    pixels = fingerprint.describe_pixels()
    before = last.record["pixels"]
    if before != pixels:
        logging.warning(
            "Images of version %d were decoded by %s, and now by %s. Cached "
            "embeddings are kept. Remove the run's index_cache to embed all "
            "images again.",
            *(last.number, _name_packages(before), _name_packages(pixels)),
        )


def check_answers(
    contents: build_version.VersionContents, last: LastVersion
) -> None:
    """Checks that a version embeds images as this run's encoder does.

    It embeds some images with a version that knows its encoder by the text of
    this package's code, because such a hash says nothing once the text has
    changed. Other versions are compared by their hash alone.

    Args:
        contents: What the next version is made of.
        last: The version to compare with.

    Raises:
        ValueError: If the version embeds an image in another way.
    """
    from tf_triplet.servable import fingerprint, parity

    if not fingerprint.names_source_text(last.record):
        return
    config = contents.config
    random = np.random.default_rng(config.seed)
    rows = random.permutation(len(contents.catalog))
    try:
        parity.check_encoder(
            last.folder,
            contents.catalog.paths,
            contents.vectors,
            rows[: config.export.parity_images],
            index=last.record["index"],
            boxes=contents.boxes,
            tolerance=build_version.tolerance(last.record),
            more_inputs=contents.branch_inputs,
            max_megapixels=config.data.max_megapixels,
        )
    except parity.ParityError as error:
        raise ValueError(
            f"{last.folder} was made by another encoder than this run's. "
            "Publish the new encoder with tf-triplet-export, or pass the "
            f"former --checkpoint. {error}"
        ) from error


def _name_packages(pixels: dict[str, Any]) -> str:
    return f"tensorflow {pixels['tensorflow']} and pillow {pixels['pillow']}"
