"""What a run was trained on: `products.json` in its folder.

The file is written once, before the first step, and read again whenever the
run goes on or its encoder is used. Labels of products are positions in its
list `train`, so a product keeps its label, and a proxy its product, even if
the table changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tf_triplet.data import ids
from tf_triplet.data.catalog import Catalog
from tf_triplet.training import run_files

FILE = "products.json"
_FORMAT = 1
# Ids that a message names before it only counts.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class TableDifference:
    """What changed in a table, by normalized product id.

    Attributes:
        added: Products that are new.
        removed: Products that are gone.
        replaced: Products with other images, another category, another domain
            or another split.

    Example:
        >>> from tf_triplet import builders
        >>> str(builders.TableDifference(added=("bag-7",)))
        '1 product was added (bag-7)'
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.replaced)

    def __str__(self) -> str:
        parts = [
            _count(self.added, "was added", "were added"),
            _count(self.removed, "was removed", "were removed"),
            _count(
                self.replaced,
                "has other images, categories, domains or splits",
                "have other images, categories, domains or splits",
            ),
        ]
        return "; ".join(filter(None, parts)) or "nothing changed"


@dataclasses.dataclass(frozen=True)
class RunProducts:
    """What a run was trained on, as its folder records it.

    Ids are normalized (`tf_triplet.data.normalize_ids`).

    Attributes:
        train: Ids of the training products. The label of a product is its
            position. A product that was removed from the table keeps its
            position.
        validation: Ids of the validation products, by which the step is
            chosen; empty if the last step is kept.
        validation_split: The split of the table that their images are in.
        how: One sentence that says how the step is chosen.
        earlier: Ids of products that runs before this one were trained on,
            from whose encoder it began.
        init_from: The folder of the run from whose encoder it began, or "".
        images: Number of training images.
        categories: Names of the training categories, in the order of their
            labels.
        attributes: Names of the attributes, in the order of their columns.
        digests: A hash of each product of the whole table: of its images,
            category, domain and split.
        refit: Whether the encoder was trained again on the training and
            validation products together.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()
    validation_split: str = "train"
    how: str = ""
    earlier: tuple[str, ...] = ()
    init_from: str = ""
    images: int = 0
    categories: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    refit: bool = False

    @property
    def table(self) -> str:
        """The fingerprint of the table, see `table_fingerprint`."""
        return _fingerprint(self.digests)

    @property
    def trained(self) -> frozenset[str]:
        """All products that the run's encoder was ever trained on."""
        own = (*self.train, *self.earlier)
        return frozenset((*own, *self.validation) if self.refit else own)

    def was_trained(self, catalog: Catalog) -> np.ndarray:
        """Tells which products of a catalog the encoder was trained on.

        Args:
            catalog: The images. Products are recognized by their id.

        Returns:
            `[products]` booleans, in the order of `catalog.product_ids`.
        """
        return _are_in(catalog, self.trained)

    def validation_images(self, catalog: Catalog) -> Catalog:
        """Selects the images of the validation products.

        Args:
            catalog: The images of the whole table.

        Returns:
            Those of the split that the products were taken from.
        """
        rows = _are_in(catalog, self.validation)[catalog.products]
        names = catalog.split_names[catalog.splits]
        return catalog.select(rows & (names == self.validation_split))

    def difference(self, catalog: Catalog) -> TableDifference:
        """Compares a table with the one that the run was begun with.

        Args:
            catalog: The images of the whole table.
        """
        return compare_digests(self.digests, digest_products(catalog))

    def write(self, workdir: str | Path) -> None:
        """Writes `products.json`, the whole file or nothing.

        Args:
            workdir: The folder of the run.
        """
        fields = dataclasses.asdict(self)
        text = json.dumps(
            {"format": _FORMAT, "table": self.table, **fields},
            indent=1,
            ensure_ascii=False,
        )
        run_files.write_text(Path(workdir) / FILE, text + "\n")

    @classmethod
    def read(cls, workdir: str | Path) -> RunProducts | None:
        """Reads `products.json`.

        Args:
            workdir: The folder of the run.

        Returns:
            The products, or None if a version wrote the folder that did not
            record them.

        Raises:
            ValueError: If the file cannot be read.
        """
        path = Path(workdir) / FILE
        if not path.exists():
            return None
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']}")
            values = {name: found[name] for name in names}
            for name, value in values.items():
                _check_kind(name, value, getattr(cls(()), name))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(
                f"{path} cannot be read, so it is not known which products "
                f"the run was trained on: {error}. Restore the file from a "
                "backup, or begin anew with --noresume."
            ) from error
        return cls(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
            }
        )


def _check_kind(name: str, value: object, default: object) -> None:
    """Checks that a value of the file is of the kind of its default."""
    kind = list if isinstance(default, tuple) else type(default)
    of_text = isinstance(value, kind)
    if kind in (list, dict) and of_text:
        parts = [*value, *(value.values() if kind is dict else ())]
        of_text = all(isinstance(part, str) for part in parts)
    if not of_text:
        raise ValueError(f"its value of {name!r} is of another kind")


def table_fingerprint(catalog: Catalog) -> str:
    """Computes a hash of a table that does not depend on where it lies.

    Args:
        catalog: The images of the whole table.

    Returns:
        64 hexadecimal digits. They depend on the path values, products,
        categories, domains and splits of all rows, and not on their order.
    """
    return _fingerprint(digest_products(catalog))


def digest_products(catalog: Catalog) -> dict[str, str]:
    """Computes a hash of each product of a table.

    Args:
        catalog: The images of the whole table.

    Returns:
        16 hexadecimal digits by normalized id, in the order of the catalog.
    """
    return digest_rows(
        catalog,
        zip(
            _path_values(catalog),
            catalog.category_names[catalog.categories],
            catalog.domain_names[catalog.domains],
            catalog.split_names[catalog.splits],
        ),
    )


def digest_rows(
    catalog: Catalog, rows: Iterable[Sequence[str]]
) -> dict[str, str]:
    """Computes a hash of what the images of each product have.

    Args:
        catalog: `[n]` images.
        rows: `[n]` values of any number of columns.

    Returns:
        16 hexadecimal digits by normalized id, in the order of the catalog.
        They do not depend on the order of a product's images.
    """
    names = ids.normalize_ids(catalog.product_ids)
    found = {name: [] for name in names}
    for name, row in zip(names[catalog.products], rows):
        found[name].append(json.dumps(row))
    return {
        name: hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()[:16]
        for name, rows in found.items()
    }


def compare_digests(
    before: Mapping[str, str], after: Mapping[str, str]
) -> TableDifference:
    """Compares the products of two tables.

    Args:
        before: A hash of each product of the former table, by normalized id.
        after: The same of the other table.

    Returns:
        The ids in the order of their table.
    """
    old_ids, new_ids = ids.comparable_ids(before, after)
    old = dict(zip(old_ids, before.values()))
    new = dict(zip(new_ids, after.values()))
    return TableDifference(
        added=tuple(i for i in new if i not in old),
        removed=tuple(i for i in old if i not in new),
        replaced=tuple(i for i in new if old.get(i, new[i]) != new[i]),
    )


def product_names(catalog: Catalog, whole: Catalog) -> np.ndarray:
    """Returns the normalized ids of a part of a table.

    Args:
        catalog: Images of the table.
        whole: The images of the whole table, whose column of ids says whether
            they are numbers or text.

    Returns:
        `[products]` strings, in the order of `catalog.product_ids`.
    """
    names = ids.normalize_ids(whole.product_ids)
    by_id = dict(zip(whole.product_ids.tolist(), names))
    return np.array([by_id[i] for i in catalog.product_ids.tolist()], object)


def relabel(
    catalog: Catalog, names: np.ndarray, order: Sequence[str]
) -> Catalog:
    """Gives the products of a catalog the labels of a recorded order.

    Args:
        catalog: Images of some of the products in `order`.
        names: `[products]` normalized ids of `catalog.product_ids`.
        order: Normalized ids. A product without images in the catalog keeps
            its position.

    Returns:
        The same rows. Their labels are positions in `order`.
    """
    own, known = ids.comparable_ids(names, order)
    place = {name: i for i, name in enumerate(known)}
    labels = np.array([place[name] for name in own], np.int32)
    product_ids = np.array(order, object)
    product_ids[labels] = catalog.product_ids
    return dataclasses.replace(
        catalog, products=labels[catalog.products], product_ids=product_ids
    )


def _are_in(catalog: Catalog, known: Iterable[str]) -> np.ndarray:
    names = ids.normalize_ids(catalog.product_ids)
    own, known = ids.comparable_ids(names, known)
    known = set(known)
    return np.array([name in known for name in own], bool)


def _path_values(catalog: Catalog) -> np.ndarray:
    """`[n]` paths that stay the same when the whole folder moves."""
    if catalog.root:
        return catalog.path_values
    shared = os.path.commonprefix(catalog.paths.tolist()).rpartition("/")
    return np.array(
        [path.removeprefix("".join(shared[:2])) for path in catalog.paths],
        object,
    )


def _fingerprint(digests: dict[str, str]) -> str:
    text = json.dumps(sorted(digests.items()), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _count(names: Sequence[str], one: str, many: str) -> str:
    if not names:
        return ""
    named = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        named += ", ..."
    what = (
        "1 product " + one
        if len(names) == 1
        else f"{len(names):,} products {many}"
    )
    return f"{what} ({named})"
