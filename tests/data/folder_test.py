import os

import numpy as np
import pytest

from tf_triplet.data import transcode
from tf_triplet.data.sources import folder, splits


def _touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_per_product(tmp_path):
    _touch(
        tmp_path,
        "00042/b.JPG",
        "00042/a.jpeg",
        "hat/1.webp",
        "hat/notes.txt",
        "hat/.hidden.jpg",
        ".git/x.png",
        "empty/readme.md",
    )
    catalog = folder.read_folder(tmp_path)

    assert list(catalog.row_product_ids) == ["00042", "00042", "hat"]
    assert list(catalog.paths) == [
        f"{tmp_path}/00042/a.jpeg",
        f"{tmp_path}/00042/b.JPG",
        f"{tmp_path}/hat/1.webp",
    ]
    assert list(catalog.category_names) == [""]
    assert catalog.name == tmp_path.name
    assert catalog.path_values[2] == "hat/1.webp"


def test_categories_make_ids_that_do_not_collide(tmp_path):
    _touch(tmp_path, "shoes/001/a.png", "hats/001/a.gif", "hats/002/a.bmp")
    catalog = folder.read_folder(tmp_path)

    assert list(catalog.product_ids) == ["hats/001", "hats/002", "shoes/001"]
    assert list(catalog.category_names) == ["hats", "shoes"]


@pytest.mark.parametrize("held_out", ["test", "val"])
@pytest.mark.parametrize("category", ["", "shoes/"])
def test_train_and_test_at_the_top_are_splits(tmp_path, held_out, category):
    _touch(
        tmp_path,
        f"train/{category}p/a.png",
        f"train/{category}q/a.png",
        f"{held_out}/{category}r/a.png",
    )
    catalog = folder.read_folder(tmp_path)

    assert list(catalog.split_names) == sorted(["train", held_out])
    assert list(catalog.split(held_out).product_ids) == [category + "r"]


def test_train_beside_others_is_a_product(tmp_path):
    _touch(tmp_path, "train/a.png", "test/a.png", "boat/a.png")
    catalog = folder.read_folder(tmp_path)
    assert list(catalog.product_ids) == ["boat", "test", "train"]


def test_without_splits_products_are_held_out(tmp_path):
    _touch(tmp_path, *(f"p{i}/{j}.png" for i in range(8) for j in range(2)))
    names = np.array([f"p{i}" for i in range(8)])
    wanted = names[splits.draw_by_hash(names, 0.25, seed=0)]
    catalog = folder.read_folder(tmp_path, test_fraction=0.25, seed=0)
    assert catalog.split("test").product_ids.tolist() == wanted.tolist()
    former = folder.read_folder(tmp_path, 0.25, 0, draw="permutation")
    assert len(former.split("test").product_ids) == 2


def test_no_such_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="folder .*nowhere.*does not exist"
    ):
        folder.read_folder(tmp_path / "nowhere")


def test_no_images(tmp_path):
    _touch(tmp_path, "p/a.txt", "p/b.pdf")
    with pytest.raises(FileNotFoundError, match=r"1 .pdf \(p/b.pdf\); 1 .txt"):
        folder.read_folder(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        ["a.png", "b.png"],
        ["p/a.png", "shoes/q/a.png"],
        ["a/b/c/d.png"],
        ["train/a.png", "test/b.png"],
    ],
    ids=["flat", "mixed", "deep", "splits of images"],
)
def test_other_depths_are_refused_with_an_example(tmp_path, files):
    _touch(tmp_path, *files)
    if files[0].startswith("train"):
        # Two folders of images could be products, were they not splits.
        pattern = "'test/b.png'"
    else:
        pattern = f"'{files[0]}'"
    with pytest.raises(ValueError, match=f"Received: .*{pattern}"):
        folder.read_folder(tmp_path)


def test_what_is_left_out_is_counted_and_named(tmp_path, caplog):
    _touch(tmp_path, "a/1.jpg", "a/2.tif", "a/3.avif", "b/1.jfif")
    _touch(tmp_path, "a/4.jxl", "a/notes.txt", "c/1.heic", "c/2.HEIC", "c/raw")
    caplog.set_level("WARNING")
    catalog = folder.read_folder(tmp_path)

    assert len(catalog) == 4 + 2 * transcode.reads_heif()
    assert "1 .jxl (a/4.jxl)" in caplog.text and "djxl" in caplog.text
    assert "1 .txt (a/notes.txt)" in caplog.text
    assert "1 no extension (c/raw)" in caplog.text
    if not transcode.reads_heif():
        assert "6 files" not in caplog.text and "5 files" in caplog.text
        assert "2 .heic (c/1.heic, c/2.HEIC)" in caplog.text
        assert "tf-triplet[heif]" in caplog.text


def test_loops_of_links_and_pipes_are_left_out(tmp_path, caplog):
    _touch(tmp_path, "shop/a/1.jpg", "shop/b/1.jpg", "elsewhere/1.jpg")
    (tmp_path / "shop/a/self").symlink_to(tmp_path / "shop/a")
    (tmp_path / "shop/up").symlink_to(tmp_path / "shop")
    (tmp_path / "shop/c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "shop/b/gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "shop/b/x.jpg")
    caplog.set_level("WARNING")
    catalog = folder.read_folder(tmp_path / "shop")

    assert list(catalog.row_product_ids) == ["a", "b", "c"]
    assert caplog.text.count("leads back") == 2
    assert "2 no file (b/gone.jpg, b/x.jpg)" in caplog.text
