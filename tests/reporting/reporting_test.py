"""The sheet of neighbors, the tables and the projector."""

import numpy as np
import pytest
import reference
from PIL import Image
from rich.console import Console

from tf_triplet.reporting import neighbors, projector, tables
from tf_triplet.retrieval import metrics as retrieval_metrics
from tf_triplet.retrieval import protocols


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for i in range(20):
        paths.append(str(folder / f"{i}.png"))
        Image.new("RGBA", (9 + i, 12), (10 * i, 0, 90, 255)).save(paths[-1])
    return reference.catalog(
        paths, [f"p{i // 2}" for i in range(20)], category=list("ab") * 10
    )


@pytest.fixture(scope="module")
def vectors():
    angles = np.repeat(np.linspace(0, 3, 10), 2) + np.tile([0, 0.01], 10)
    return np.float32(np.stack([np.cos(angles), np.sin(angles)], 1))


def test_neighbors_are_found_and_framed(catalog, vectors, tmp_path):
    protocol = protocols.leave_one_out(np.arange(len(catalog)))
    queries, found = neighbors.find_neighbors(
        vectors, catalog, [protocol], 4, k=3
    )
    paths = catalog.paths.tolist()
    for query, row in zip(queries, found):
        partner = paths[paths.index(query) ^ 1]
        assert [n.correct for n in row] == [True, False, False]
        assert row[0].path == partner
        assert row[0].score == pytest.approx(np.cos(0.01), abs=1e-5)
    path = tmp_path / "deep" / "sheet.png"
    found[1][0] = neighbors.Neighbor("gone.png", 0.5, False, "$lost$")
    neighbors.neighbor_grid(path, queries, found, ["$a$"] * 4, "100 $ & $")
    sheet = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for color in ((0x2E, 0x9E, 0x4F), (0xD2, 0x3B, 0x3B)):
        near = np.abs(sheet.astype(int) - color).max(1) < 12
        assert near.sum() > 200
    with pytest.raises(ValueError, match="0 queries"):
        neighbors.neighbor_grid(path, [], [])


def metrics(shift):
    random = np.random.default_rng(0)
    vectors = random.normal(size=[12, 4])
    vectors[1::2] = vectors[::2] + shift * random.normal(size=[6, 4])
    vectors = np.float32(vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.repeat(np.arange(6), 2)
    groups = np.array(["[shoes]", "bags"] * 3).repeat(2)
    return retrieval_metrics.evaluate(
        vectors,
        labels,
        vectors,
        labels,
        (1, 3),
        exclude=np.arange(12),
        groups=groups,
    )


def printed(table):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(table)
    return console.export_text()


def test_tables_show_change_and_names_as_they_are():
    after, before = metrics(0.01), metrics(3.0)
    text = printed(tables.overall_table(after, before, "run [1]"))
    assert "run [1]" in text and "Recall@1" in text and "MAP@R" in text
    change = after.recall[1] - before.recall[1]
    assert change > 0 and f"{change:+.3f}" in text
    text = printed(tables.category_table(after, before))
    assert "[shoes]" in text and "bags" in text and "all" in text
    assert tables.format_value(float("nan")) == "-"


def test_two_domains_are_columns_and_more_are_a_matrix():
    after, before = metrics(0.01), metrics(3.0)
    change = (
        f"{after.recall[1]:.3f} ({after.recall[1] - before.recall[1]:+.3f})"
    )
    pair = ("a [1]", "b")
    text = printed(tables.domain_table({pair: after}, {pair: before}, "Pairs"))
    assert "a [1] -> b" in text and "MAP@R" in text and change in text
    pairs = {("a", "b"): after, ("c", "a"): before}
    text = printed(tables.domain_table(pairs, title="Pairs"))
    rows = [line.replace("\u2502", " ").split() for line in text.splitlines()]
    values = [f"{one.recall[1]:.3f}" for one in (after, before)]
    assert ["a", "-", values[0], "-"] in rows
    assert ["c", values[1], "-", "-"] in rows


@pytest.mark.slow
def test_projector_is_one_file_with_every_product(catalog, vectors, tmp_path):
    path = tmp_path / "map.html"
    count = projector.write_projector(
        path,
        vectors,
        catalog.paths,
        catalog.row_product_ids,
        catalog.category_names[catalog.categories],
    )
    text = path.read_text()
    assert count == 20
    assert all(f'"p{i}"' in text for i in range(10))
    assert "data:image" in text


def test_projector_needs_enough_points(catalog, vectors, tmp_path):
    with pytest.raises(ValueError, match="16 images or more.*3"):
        projector.write_projector(
            tmp_path / "x.html", vectors[:3], catalog.paths, "abc", "abc"
        )
