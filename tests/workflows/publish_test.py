"""What is published in place of the last version, and what is refused."""

import json
import shutil

import pandas as pd
import programs
import pytest
import tensorflow as tf
from tiny_runs import draw, encoder, make_run

from tf_triplet import builders, workflows
from tf_triplet import config as configs
from tf_triplet.data import preprocessing, transcode
from tf_triplet.servable import fingerprint, versions
from tf_triplet.workflows.embed_catalog import CACHE

IMAGES = 40


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """40 images of 10 products, published once; not to be written to."""
    folder = tmp_path_factory.mktemp("once") / "run"
    make_run(folder, IMAGES)
    workflows.export(folder, progress=False)
    return folder


@pytest.fixture
def run(once, tmp_path):
    """A copy of it that may be written to."""
    folder = shutil.copytree(once, tmp_path / "run")
    config = builders.load_config(folder)
    config.data.path = str(folder / "shop.csv")
    (folder / "config.json").write_text(configs.to_json(config))
    return folder


def publish(folder, same_encoder=True, **given):
    return workflows.export(
        folder,
        workflows.ExportOptions(**given),
        same_encoder=same_encoder,
        progress=False,
    )


def refusal(folder, same_encoder=True, **given):
    """The text of the error, after which there is no other version."""
    before = known(folder)
    with pytest.raises(ValueError) as caught:
        publish(folder, same_encoder, **given)
    assert known(folder) == before
    assert str(caught.value).endswith("Nothing was published.")
    return str(caught.value)


def known(folder):
    return versions.list_versions(folder / "models/product_search")


def table(folder, rows):
    path = folder / "part.csv"
    pd.read_csv(folder / "shop.csv").iloc[rows].to_csv(path, index=False)
    return path


def answers(published):
    """The image that each indexed image finds first: itself."""
    model = tf.saved_model.load(str(published.folder))
    found = model.signatures["search_exact"](embedding=model.catalog.embeddings)
    return found["paths"].numpy()[:, 0].astype(str).tolist()


@pytest.mark.parametrize(
    "same_encoder,fault", [(True, "missing"), (False, "damaged")]
)
def test_more_than_one_in_twenty_unreadable_images(run, same_encoder, fault):
    for i in range(3):
        path = run / f"images/{i}.png"
        path.unlink() if fault == "missing" else path.write_text("no image")
    text = refusal(run, same_encoder)
    assert "3 of the 40 images of catalog 'shop' cannot be read (7.5%)" in text
    why = "does not exist" if fault == "missing" else "not an image, it begins"
    assert "images/0.png: " in text and why in text
    assert "is mounted" in text and "--allow_unreadable" in text
    # One in twenty is not too many.
    draw(run / "images", "0.png", 0)
    assert publish(run, same_encoder).record["images"] == 38
    (run / "images/0.png").unlink()
    published = publish(run, same_encoder, allow_unreadable=True)
    assert published.record["images"] == 37
    assert "skipped: " in published.describe()


def test_a_share_that_is_not_mounted(run):
    for i in range(1, IMAGES):
        (run / f"images/{i}.png").unlink()
    text = refusal(run)
    assert "39 of the 40 images" in text and "; ..." in text
    assert "1.png" in text and "9.png" not in text
    # The few that are left are not a catalog either.
    text = refusal(run, allow_unreadable=True)
    assert "has 1 images to index, fewer than half of the 40" in text
    allowed = {"allow_unreadable": True, "allow_smaller_catalog": True}
    assert publish(run, **allowed).record["images"] == 1


def test_fewer_than_half_of_the_last_version(run):
    half = table(run, range(20))
    assert publish(run, catalog=half).record["images"] == 20
    text = refusal(run, catalog=table(run, range(9)))
    assert "has 9 images to index, fewer than half of the 20 of version 2" in (
        text
    )
    assert "lacks 2 products of that version (p3, p4)" in text
    assert "--allow_smaller_catalog" in text
    published = publish(
        run, catalog=table(run, range(9)), allow_smaller_catalog=True
    )
    assert published.record["images"] == 9
    # A version without a fingerprint has no size to compare with.
    (published.folder / fingerprint.FILE).unlink()
    config = builders.load_config(run)
    config.data.path = str(table(run, range(4)))
    (run / "config.json").write_text(configs.to_json(config))
    assert publish(run, same_encoder=False).record["images"] == 4


def test_an_export_of_the_same_part_is_compared_too(run):
    frame = pd.read_csv(run / "shop.csv")
    frame["split"] = ["test"] * 8 + ["train"] * 32
    frame.to_csv(run / "shop.csv", index=False)
    # Another part was asked for.
    assert publish(run, same_encoder=False, split="test").record["images"] == 8
    assert publish(run, same_encoder=False).record["images"] == 40
    frame.iloc[:10].to_csv(run / "shop.csv", index=False)
    text = refusal(run, same_encoder=False)
    assert "10 images to index, fewer than half of the 40 of version 3" in text


def test_new_gone_and_changed_products_are_told(run):
    first = fingerprint.read_products(run / "models/product_search/1")
    assert sorted(first) == sorted(f"p{i}" for i in range(10))
    frame = pd.read_csv(run / "shop.csv")
    # p0 is gone, p1 has other pixels, p2 another category, one of p3's images
    # another name, p4 one image less, and there are 7 new ones.
    draw(run / "images", "4.png", 99)
    frame.loc[8, "category"] = "shoes"
    shutil.copy(run / "images/12.png", run / "images/moved.png")
    frame.loc[12, "path"] = "images/moved.png"
    for i in range(7):
        draw(run / "images", f"new{i}.png", 200 + i)
    new = frame.iloc[:7].assign(
        path=[f"images/new{i}.png" for i in range(7)],
        product_id=[f"q{i}" for i in range(7)],
    )
    frame = frame.drop(index=[0, 1, 2, 3, 16])
    pd.concat([frame, new]).to_csv(run / "new.csv", index=False)
    published = publish(run, catalog=run / "new.csv")
    assert published.changes == builders.TableDifference(
        added=tuple(f"q{i}" for i in range(7)),
        removed=("p0",),
        replaced=("p1", "p2", "p3", "p4"),
    )
    assert published.record["since_version"] == 1
    assert published.record["changes"] == {"new": 7, "gone": 1, "changed": 4}
    assert (
        "Products since version 1: 7 new (q0, q1, q2, q3, q4, ...), "
        "1 gone (p0), 4 changed (p1, p2, p3, p4).\n" in published.describe()
    )
    # The order of the rows is no change.
    frame = pd.read_csv(run / "new.csv").iloc[::-1]
    frame.to_csv(run / "new.csv", index=False)
    again = publish(run, catalog=run / "new.csv")
    assert not again.changes
    assert "Products since version 2: 0 new, 0 gone, 0 changed." in (
        again.describe()
    )


def test_products_of_a_version_that_are_not_known(run):
    path = run / "models/product_search/1" / fingerprint.PRODUCTS
    # A few dozen bytes for each product, whatever its images.
    assert path.stat().st_size < 10 * 40 + 100
    path.write_bytes(b"damaged")
    second = publish(run)
    assert second.changes is None and second.record["changes"] is None
    assert "Version 1 does not record its products" in second.describe()
    assert "Version 2 does not" not in publish(run).describe()


def test_old_versions_are_removed_after_publishing(run):
    target = run / "models/product_search"
    for number in (2, 3, 4):
        shutil.copytree(target / "1", target / str(number))
    with versions.hold(target / "2"):
        published = publish(run, keep_versions=2)
    assert known(run) == [2, 4, 5]
    assert published.removed == (1, 3)
    text = published.describe()
    assert "Removed old versions: 1, 3\n" in text
    assert "The old version 2 stays: a program has it loaded." in text
    # Nothing is removed if nothing is published.
    (run / "images").rename(run / "elsewhere")
    with pytest.raises(OSError, match="None of the first 5 images"):
        publish(run, keep_versions=1)
    assert known(run) == [2, 4, 5]
    with pytest.raises(ValueError, match="at least 1.*Received: 0"):
        workflows.ExportOptions(keep_versions=0)


def test_a_folder_per_product_is_a_catalog(run):
    frame = pd.read_csv(run / "shop.csv")
    for path, product in zip(frame["path"], frame["product_id"]):
        (run / "tree" / product).mkdir(parents=True, exist_ok=True)
        shutil.copy(run / path, run / "tree" / product)
    # Only a manifest has the columns that the version before answered.
    publish(run, catalog=run / "shop.csv", columns=["price"])
    with pytest.raises(ValueError, match="--columns=price with the folder"):
        publish(run, catalog=run / "tree")
    published = publish(run, catalog=run / "tree", columns=())
    record = published.record
    assert (record["images"], record["products"]) == (40, 10)
    assert record["work"]["cached"] == 40
    assert "p9/39.png" in answers(published)


@pytest.mark.parametrize(
    "boxes", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_answers_hold_the_paths_of_the_table(run, boxes, tmp_path, monkeypatch):
    frame = pd.read_csv(run / "shop.csv")
    if boxes:
        frame = frame.assign(x1=0, y1=0, x2=4, y2=4)
    values = frame["path"].tolist()
    frame.to_csv(run / "some.csv", index=False)
    found = []
    for folder, catalog in ((tmp_path, "run/some.csv"), (run, "some.csv")):
        monkeypatch.chdir(folder)
        published = publish(run, catalog=catalog)
        found.append(published.record["index_sha256"])
        assert answers(published) == values
    # The index is the same, wherever it was made.
    assert found[0] == found[1]
    absolute = [str(run / path) for path in values]
    frame.assign(path=absolute).to_csv("some.csv", index=False)
    assert answers(publish(run, catalog="some.csv")) == absolute


def test_how_many_of_the_products_were_trained_on_is_recorded(run):
    published = publish(run)
    assert published.record["trained_products"] is None
    assert "does not record which products it was" in published.describe()
    builders.RunProducts(train=("p1", "p2"), earlier=("p3", "x")).write(run)
    published = publish(run)
    assert published.record["trained_products"] == 3
    assert "3 of the 10 indexed products were trained on." in (
        published.describe()
    )
    part = publish(run, catalog=table(run, range(12, 40)))
    assert part.record["trained_products"] == 1


def test_the_text_of_the_code_is_not_part_of_an_encoder(run, monkeypatch):
    config = builders.load_config(run)
    before = builders.encoder_sha256(config, run)
    other = run / "other.py"
    other.write_text("# A remark.")
    for module in (preprocessing, transcode):
        monkeypatch.setattr(module, "__file__", str(other))
    assert builders.encoder_sha256(config, run) == before
    monkeypatch.setattr(preprocessing, "PIXEL_VERSION", 99)
    assert builders.encoder_sha256(config, run) != before


def test_other_pixels_are_embedded_anew(run, monkeypatch):
    record = fingerprint.read(run / "models/product_search/1")
    packages = {p: record["packages"][p] for p in ("tensorflow", "pillow")}
    version = preprocessing.PIXEL_VERSION
    assert record["pixels"] == {"version": version, **packages}
    monkeypatch.setattr(preprocessing, "PIXEL_VERSION", 99)
    assert "was made by encoder" in refusal(run)
    published = publish(run, same_encoder=False)
    assert published.record["work"]["embedded"] == IMAGES
    assert published.record["pixels"]["version"] == 99


def test_other_packages_are_told(run, caplog):
    path = run / "models/product_search/1" / fingerprint.FILE
    record = json.loads(path.read_text())
    record["pixels"]["pillow"] = "9.0.0"
    path.write_text(json.dumps(record))
    published = publish(run)
    assert "Images of version 1 were decoded by tensorflow " in caplog.text
    assert " and pillow 9.0.0, and now by " in caplog.text
    assert published.record["work"]["cached"] == IMAGES
    caplog.clear()
    publish(run)
    assert "were decoded by" not in caplog.text


def as_of_an_earlier_version(run):
    """The version and the cache as they were before pixel versions."""
    path = run / "models/product_search/1" / fingerprint.FILE
    record = json.loads(path.read_text())
    cache = run / CACHE / record["encoder"][:16]
    cache.rename(cache.with_name("0" * 16))
    del record["pixels"]
    path.write_text(json.dumps(record | {"encoder": "0" * 64}))
    (path.parent / "products.json.gz").unlink()


@pytest.mark.slow
def test_a_version_that_knows_its_encoder_by_source_text(run):
    as_of_an_earlier_version(run)
    second = publish(run)
    # Its cache is not known, so all is embedded once more, and only once.
    assert second.record["work"]["embedded"] == IMAGES
    assert publish(run).record["work"]["cached"] == IMAGES


def test_its_encoder_is_compared_by_what_it_answers(run):
    as_of_an_earlier_version(run)
    encoder(seed=1).save(run / "encoder.keras")
    text = refusal(run)
    assert "/1 was made by another encoder than this run's." in text
    assert "with tf-triplet-export" in text and "embedding of " in text


def test_a_damaged_fingerprint_is_named(run):
    path = run / "models/product_search/1" / fingerprint.FILE
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="fingerprint.json is damaged: .*back"):
        publish(run)


def test_the_program_tells_and_refuses(run):
    flags = [
        *("index", f"--workdir={run}", f"--catalog={table(run, range(8))}"),
        "--keep_versions=1",
    ]
    done = programs.run(*flags)
    assert done.returncode == 2
    assert "error: Catalog 'part' has 8 images to index" in done.stderr
    done = programs.run(*flags, "--allow_smaller_catalog")
    assert done.returncode == 0, done.stderr
    gone = "8 gone (p2, p3, p4, p5, p6, ...), 0 changed."
    assert f"Products since version 1: 0 new, {gone}" in done.stdout
    assert "Removed old versions: 1\n" in done.stdout
    assert known(run) == [2]
