import numpy as np
import pandas as pd
import pytest
import rich.console
from PIL import Image

from tf_triplet.data import file_check, preflight, preflight_text
from tf_triplet.data.catalog import Catalog

_RNG = np.random.default_rng(0)


def _save(path, size=(20, 10), **options):
    pixels = _RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def _inspect(rows, **columns):
    frame = pd.DataFrame(rows, columns=["path", "product_id", "split"])
    catalog = Catalog.from_frame(frame.assign(**columns), "shop")
    return preflight.inspect(catalog, workers=2, show_progress=False)


def _text(report):
    console = rich.console.Console(width=200)
    with console.capture() as capture:
        console.print(preflight_text.render(report))
    return capture.get()


@pytest.fixture
def good(tmp_path):
    """Rows of four products with two images each, two of them held out."""
    return [
        (
            _save(tmp_path / f"{i}.jpg"),
            f"p{i // 2}",
            "train test".split()[i // 4],
        )
        for i in range(8)
    ]


def test_a_sound_catalog(good):
    report = _inspect(good, category=list("aabbaabb"))

    assert (report.images, report.products, report.singletons) == (8, 4, 0)
    assert report.images_per_product == {
        "least": 2,
        "median": 2,
        "mean": 2,
        "greatest": 2,
    }
    assert report.splits.loc["test"].tolist() == [4, 2, 0]
    assert report.categories.loc["a"].tolist() == [4, 2, 0]
    assert report.problems == []
    assert report.warnings == []
    assert "No problem found" in _text(report)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: b"", "empty, 0 bytes"),
        (lambda data: b"hello, I am text", "not an image.*hello"),
        (lambda data: data[: len(data) // 2], "cut short or damaged"),
    ],
    ids=["zero bytes", "text", "truncated"],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp"])
def test_a_bad_file_is_named_with_its_reason(
    good, tmp_path, suffix, spoil, reason
):
    path = tmp_path / f"bad.{suffix}"
    # Large, so that half a file is not all of a small image's data.
    _save(path, size=(64, 64))
    path.write_bytes(spoil(path.read_bytes()))
    report = _inspect([*good, (str(path), "p0", "train")])

    assert [bad for bad, _ in report.unreadable] == [str(path)]
    assert pd.Series(report.unreadable[0][1]).str.match(reason).all()
    assert report.problems == ["Files that are missing or unreadable: 1."]
    assert str(path) in _text(report)


def test_a_missing_file_and_a_folder(good, tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    report = _inspect(
        [
            *good,
            (str(tmp_path / "gone.jpg"), "p0", "train"),
            (str(tmp_path / "folder.jpg"), "p0", "train"),
        ]
    )
    reasons = dict(report.unreadable)
    assert reasons[str(tmp_path / "gone.jpg")] == "missing"
    assert "cannot be opened" in reasons[str(tmp_path / "folder.jpg")]


def test_products_in_both_splits_are_a_warning(good):
    rows = [*good[:-1], (good[-1][0], "p0", "test")]
    report = _inspect(rows)

    assert report.products_in_several_splits == ["p0"]
    assert report.problems == []
    assert any(
        "occur in several splits: 1, for example p0." in w
        for w in report.warnings
    )


def test_copies_within_a_product_are_a_warning(good, tmp_path):
    copy = tmp_path / "copy.jpg"
    copy.write_bytes((tmp_path / "0.jpg").read_bytes())
    report = _inspect([*good, (str(copy), *good[0][1:])])
    assert report.copies == 1
    (line,) = report.same_images
    assert "0.jpg (product p0" in line and "copy.jpg (product p0" in line
    assert report.duplicates_across_splits == []
    (warning,) = report.warnings
    assert "another image of the same product and split: 1." in warning
    # Two boxes in one file are two images.
    boxes = {name: [0] * 9 for name in ("x1", "y1")}
    boxes |= {"x2": [5] * 8 + [6], "y2": [5] * 9}
    again = _inspect([*good, good[0]], **boxes)
    assert again.copies == 0 and again.warnings == []


def test_identical_files_in_both_splits_are_a_warning(good, tmp_path):
    copy = tmp_path / "copy.jpg"
    copy.write_bytes((tmp_path / "0.jpg").read_bytes())
    report = _inspect([*good, (str(copy), "p3", "test")])

    assert report.duplicates_across_splits == [(good[0][0], str(copy))]
    assert report.duplicates_across_products == [(good[0][0], str(copy))]
    assert len(report.warnings) == 2
    text = " ".join(_text(report).split())
    assert "identical images" in text
    assert "0.jpg (product p0, split train)" in text
    assert "copy.jpg (product p3, split test)" in text


def test_two_boxes_in_one_file_are_two_images(good):
    boxes = {name: [0] * 9 for name in ("x1", "y1")}
    boxes |= {"x2": [5] * 8 + [6], "y2": [5] * 9}
    rows = [*good, (good[0][0], "p3", "train")]
    apart = _inspect(rows, **boxes)
    assert apart.duplicates_across_products == apart.same_looks == []
    boxes["x2"][-1] = 5
    alike = _inspect(rows, **boxes)
    (line,) = alike.same_images
    assert "product p0" in line and "product p3" in line and "box" in line


def test_one_photo_of_two_products_is_a_warning(good, tmp_path):
    smooth = Image.fromarray(_RNG.integers(0, 256, (4, 4, 3), np.uint8))
    smooth.resize((90, 60), Image.BICUBIC).save(tmp_path / "a.png")
    smooth.resize((45, 30), Image.BICUBIC).save(tmp_path / "b.jpg", quality=70)
    rows = [
        *good,
        (str(tmp_path / "a.png"), "p0", "train"),
        (str(tmp_path / "b.jpg"), "p3", "test"),
    ]
    report = _inspect(rows)
    (line,) = report.same_looks
    assert "a.png (product p0, split train)" in line
    assert "b.jpg (product p3, split test)" in line
    assert any("same photo under two products" in w for w in report.warnings)
    assert line[:30] in _text(report)
    same = _inspect([*rows[:-1], (rows[-1][0], "p0", "train")])
    assert same.same_looks == []


def test_a_large_category_beside_small_ones_is_a_warning(good):
    path = good[0][0]
    rows = [(path, f"q{i}", "train") for i in range(520)]
    categories = ["all"] * 500 + ["b"] * 10 + ["c"] * 5 + ["d"] * 5
    report = _inspect(rows, category=categories)
    (warning,) = [w for w in report.warnings if "Category" in w]
    assert "'all' has 500 products, and 2 of the 4 categories" in warning
    even = _inspect(rows, category=["all"] * 260 + ["b"] * 260)
    assert not any("Category" in w for w in even.warnings)


def test_unreadable_files_are_not_duplicates(good, tmp_path):
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / name).write_bytes(b"")
    report = _inspect(
        [
            *good,
            (str(tmp_path / "x.jpg"), "p0", "train"),
            (str(tmp_path / "y.jpg"), "p3", "test"),
        ]
    )
    assert len(report.unreadable) == 2
    assert report.duplicates_across_splits == []


def test_singletons_are_counted(good, tmp_path):
    report = _inspect([*good, (_save(tmp_path / "s.png"), "alone", "train")])

    assert report.singletons == 1
    assert report.problems == []
    assert report.warnings == [
        "Products with a single image: 1. Such an image can be a negative, "
        "but it has no positive."
    ]


def test_only_singletons_is_a_problem(good):
    report = _inspect(
        [(path, f"q{i}", s) for i, (path, _, s) in enumerate(good)]
    )
    assert any("No product has two images" in p for p in report.problems)


def test_a_single_product_is_a_problem(good):
    report = _inspect([(path, "p", "train") for path, _, _ in good])
    assert any("needs two products" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((0, 0, 20, 10), True),
        ((0, 0, 20.4, 10), True),
        ((0, 0, 21, 10), False),
        ((0, 0, 10, 11), False),
        ((-3, 0, 10, 10), False),
        ((np.nan,) * 4, True),
    ],
)
def test_boxes_are_compared_with_the_image(good, box, inside):
    boxes = np.full((8, 4), np.nan)
    boxes[3] = box
    columns = dict(zip(("x1", "y1", "x2", "y2"), boxes.T))
    report = _inspect(good, **columns)

    assert [path for path, _ in report.boxes_outside] == (
        [] if inside else [good[3][0]]
    )
    assert bool(report.problems) != inside


def test_boxes_belong_to_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = [
        (_save(tmp_path / f"{i}.jpg", exif=exif), f"p{i // 2}", "train")
        for i in range(4)
    ]
    report = _inspect(rows, x1=0, y1=0, x2=10, y2=[20, 20, 20, 21])

    assert [path for path, _ in report.boxes_outside] == [rows[3][0]]
    assert "10 x 20" in report.boxes_outside[0][1]


def test_more_files_than_a_chunk_keep_their_order(good, monkeypatch):
    monkeypatch.setattr(file_check, "_CHUNK", 3)
    paths = [path for path, _, _ in good]
    whole = file_check.check_files(paths, 2, show_progress=False)

    assert [c.digest for c in whole] == [
        file_check.check_file(path).digest for path in paths
    ]
    assert len({check.digest for check in whole}) == 8


def test_names_are_not_taken_for_markup(good):
    report = _inspect(good, category=["[bold]"] * 4 + ["[/]"] * 4)
    assert "[bold]" in _text(report)
    assert "[/]" in _text(report)
