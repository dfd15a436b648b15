"""Manifests as spreadsheets, shops and other systems write them."""

import logging
import re
import unicodedata
import urllib.parse

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data.sources import manifest

PLAIN = (
    "path,product_id,category,split\n"
    "p/a.jpg,K1,Hüte,train\n"
    "p/b.jpg,K1,Hüte,train\n"
    'p/c.jpg,K2,"hats, red",test\n'
    "p/d.jpg,K2,,test\n"
)


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "p").mkdir()
    for name in "abcd":
        (tmp_path / "p" / f"{name}.jpg").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def read(shop, caplog):
    """Writes a table, reads it, and returns the catalog and the log."""

    def call(text, encoding="utf-8", name="m.csv", named=""):
        data = text if isinstance(text, bytes) else text.encode(encoding)
        (shop / name).write_bytes(data)
        with caplog.at_level(logging.INFO, logger="absl"):
            catalog = manifest.read_manifest(shop / name, encoding=named)
        return catalog, caplog.text

    return call


def _same(catalog, other):
    pd.testing.assert_frame_equal(catalog.to_frame(), other.to_frame())
    return True


@pytest.mark.parametrize(
    "change,told",
    [
        (lambda t: t.replace("\n", "\r\n"), ""),
        (lambda t: t.replace("\n", "\r"), ""),
        (lambda t: t.rstrip("\n"), ""),
        (lambda t: "\n" + t + "\n  \n", "blank line"),
        (lambda t: t.replace("\n", ",,\n"), ""),
        (lambda t: t.replace(",", ", ").replace("s,  ", "s, "), ""),
        (lambda t: t.replace("K1,", "K1 ,"), "white space of 2 cells"),
        (lambda t: t.replace("K1,", "\u00a0K1\u200b,"), "2 cells"),
        (lambda t: t.replace('red",', 'red" ,'), ""),
        (lambda t: t.replace("p/", " p/"), ""),
        (lambda t: t.replace(".jpg", ".jpg\t"), "white space around 4"),
        (lambda t: t.replace("path,product_id", "Path ,PRODUCT_ID"), ""),
        (lambda t: t.replace(",train", ",Train"), "case of 2 cells"),
        (lambda t: unicodedata.normalize("NFD", t), "accents of 2 cells"),
        (lambda t: t.replace("p/", "p\\"), "backslashes of 4"),
        (lambda t: t.replace("p/", ".\\p\\"), "backslashes of 4"),
    ],
)
def test_the_same_table_in_other_hands(read, shop, change, told):
    wanted, _ = read(PLAIN)
    found, log = read(change(PLAIN))
    found = found.select(np.arange(len(found)))
    paths = [path.replace("/./", "/") for path in found.paths]
    assert paths == wanted.paths.tolist()
    assert found.row_product_ids.tolist() == ["K1", "K1", "K2", "K2"]
    assert found.category_names.tolist() == ["", "Hüte", "hats, red"]
    assert found.split_names.tolist() == ["test", "train"]
    assert told in log


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.TXT"])
def test_separators_are_found(read, separator, name):
    wanted, _ = read(PLAIN)
    text = PLAIN.replace('"hats, red"', "hats@ red").replace(",", separator)
    found, log = read(text.replace("@", ","), name=name)
    assert _same(found, wanted)
    assert "columns are separated by" in log


def test_the_line_that_excel_writes_above(read):
    wanted, _ = read(PLAIN)
    found, _ = read("sep=;\n" + PLAIN.replace(",", ";").replace("s; r", "s, r"))
    assert _same(found, wanted)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(read, encoding):
    wanted, _ = read(PLAIN)
    found, log = read(PLAIN, encoding)
    assert _same(found, wanted)
    assert ("encoded as" in log) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    "encoding", ["cp1252", "latin-1", "utf-16-le", "utf-16-be", "mac-roman"]
)
def test_other_encodings_are_named_or_read(read, encoding):
    wanted, _ = read(PLAIN)
    with pytest.raises(ValueError, match="config.data.encoding=") as error:
        read(PLAIN, encoding)
    assert ("line 2" in str(error.value)) or encoding.startswith("utf-16")
    found, log = read(PLAIN.encode(encoding), named=encoding)
    assert _same(found, wanted)
    assert f"encoded as {encoding}" in log


def test_utf8_is_not_garbled_by_a_named_encoding(shop, caplog):
    (shop / "m.csv").write_text(PLAIN, encoding="utf-8")
    catalog = manifest.read_manifest(shop / "m.csv", encoding="cp1252")
    assert "Hüte" in catalog.category_names
    assert "not as data.encoding=cp1252" in caplog.text


@pytest.mark.parametrize(
    "data,message",
    [
        (b"path,product_id\np/a.jpg,x\0y\n", "line 2: a cell holds a NUL"),
        (b"PK\x03\x04......", "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0...", r"\.xls"),
        (b"<html><body>404", "HTML"),
        (b"PAR1....", "Parquet"),
        (b"\xff\xfep\0a\0t", "line 1: byte .* cannot be read as utf-16"),
        (b"\n \n", "is empty"),
        (b"path,product_id\np/a.jpg,x,y\nz\n", "line 2 has 3 cells.*line 3"),
        (b'path,product_id\n"p/a.jpg,x\np/b.jpg,y\n', "line 2: a double quote"),
        (b'path,product_id\n"p/a".jpg,x\n', "line 2: a double quote"),
        (
            b'path,product_id\np/a.jpg,"' + b"x" * 140_000,
            "line 2: a cell is longer",
        ),
        (b"path,Path,product_id\na,b,c\n", "'path' twice.*column 1.*column 2"),
        (b"Image,SKU\na,b\n", "Did you mean 'path' by 'Image'.*'SKU'"),
        (b"path,Product ID\na,b\n", "'product_id' by 'Product ID'"),
        (b"path,product_id\na,\n,b\n", "line 2 has an empty product_id"),
        (b"a.jpg,1\nb.jpg,2\n", "a header"),
    ],
)
def test_what_cannot_be_read_is_named(read, shop, data, message):
    with pytest.raises(ValueError, match=message) as error:
        read(data)
    assert str(shop / "m.csv") in str(error.value)


@pytest.mark.parametrize("name", ["none-such", "hex", "rot13"])
def test_an_encoding_that_is_none(read, name):
    with pytest.raises(ValueError, match="data.encoding.*Received: '" + name):
        read(PLAIN, named=name)


def test_the_line_of_a_row_behind_a_cell_of_several_lines(read):
    text = 'path,product_id,note\np/a.jpg,x,"two\nlines"\n\np/b.jpg,,\n'
    with pytest.raises(ValueError, match="line 5 has an empty product_id"):
        read(text)


def test_numbers_with_a_decimal_comma(read):
    text = "path;product_id;x1;y1;x2;y2\np/a.jpg;1;0,5; 1 ;30,25;40\n"
    catalog, log = read(text)
    np.testing.assert_array_equal(catalog.boxes[0], [0.5, 1, 30.25, 40])
    assert "decimal commas of 2 numbers" in log


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_accents_in_file_names(read, shop, on_disk):
    folder = shop / unicodedata.normalize(on_disk, "Blüten")
    folder.mkdir()
    name = unicodedata.normalize(on_disk, "Café é.jpg")
    (folder / name).write_bytes(b"x")
    for form in ("NFC", "NFD"):
        cell = unicodedata.normalize(form, "Blüten/Café é.jpg")
        catalog, log = read(f"path,product_id\n{cell},1\n")
        assert catalog.paths.tolist() == [str(folder / name)]
        assert catalog.path_values.tolist() == [cell]


def test_names_with_special_characters_are_taken_literally(read, shop):
    names = [
        " outer space.jpg",
        "back\\slash.jpg",
        "50%20off.jpg",
        "a;b|c.jpg",
        'say "x".jpg',
        "[red].jpg",
    ]
    for name in names:
        (shop / name).write_bytes(b"x")
    frame = pd.DataFrame({"path": names, "product_id": range(len(names))})
    frame["path"] = frame["path"].where(frame.index > 0, "./" + frame["path"])
    catalog, log = read(frame.to_csv(index=False))
    files = [f"{shop}/./ outer space.jpg"] + [f"{shop}/{n}" for n in names[1:]]
    assert catalog.paths.tolist() == files
    assert "with changes" not in log


@pytest.mark.parametrize(
    "make",
    [
        lambda path: f"file://{path}",
        lambda path: f"file://localhost{path}",
        lambda path: f"FILE:{path}",
        lambda path: "file://" + urllib.parse.quote(path),
    ],
)
def test_file_addresses_are_local_paths(read, shop, make):
    image = shop / "p" / "50% ü #1.jpg"
    image.write_bytes(b"x")
    catalog, log = read(f"path,product_id\n{make(str(image))},1\n")
    assert catalog.paths.tolist() == [str(image)]
    assert catalog.path_values.tolist() == [make(str(image))]
    assert "1 addresses file://" in log


@pytest.mark.parametrize(
    "path,message",
    [
        ("https://a.example/b.jpg", "line 3 has a URL.*https.*download"),
        ("HTTP://a.example/b.jpg", "line 3 has a URL.*download"),
        ("gs://bucket/b.jpg", "line 3 has a URL.*gcloud"),
        ("s3://bucket/b.jpg", "line 3 has a URL.*aws s3"),
        ("data:image/png;base64xyz", "line 3 has an image within the table"),
        ("file://server/share/b.jpg", "line 3 has an address.*another machine"),
        ("file://b.jpg", "line 3 has an address"),
        ("C:\\images\\b.jpg", "line 3 has a path on a drive"),
        ("D:/images/b.jpg", "line 3 has a path on a drive"),
        ("file:///C:/images/b.jpg", "line 3 has a path on a drive"),
        ("\\\\server\\share\\b.jpg", "line 3 has a path on a drive or server"),
    ],
)
def test_paths_of_elsewhere_are_refused(read, path, message):
    with pytest.raises(ValueError, match=message):
        read(f"path,product_id\np/a.jpg,1\n{path},2\n")


@pytest.mark.parametrize(
    "path,hint",
    [
        ("p/A.JPG", "'a.jpg', which differs by case"),
        ("p/a.png", "holds 'a.jpg'"),
        ("q/a.jpg", "folder .* does not exist"),
    ],
)
def test_a_missing_image_is_looked_for(read, path, hint):
    with pytest.raises(FileNotFoundError, match=hint):
        read(f"path,product_id\n{path},1\n")


@pytest.mark.parametrize("id_", ["4.00638E+12", "4,00638E+12", "1E+05", "#N/A"])
def test_ids_that_a_spreadsheet_has_destroyed(read, id_):
    with pytest.raises(ValueError, match="line 3 has the product_id.*spread"):
        read(f"path;product_id\np/a.jpg;4006381333931\np/b.jpg;{id_}\n")


@pytest.mark.parametrize("id_", ["1E5", "E+12", "4.5", "12E", "2e-5 kg"])
def test_ids_that_only_look_so(read, id_):
    catalog, log = read(f"path,product_id\np/a.jpg,{id_}\np/b.jpg,x\n")
    assert id_ in catalog.product_ids.tolist()
    assert "product ids" not in log


@pytest.mark.parametrize(
    "ids,told",
    [
        (["P1", "P1 "], "1 product ids were written in several ways.*'P1'"),
        (["P1", "p1"], "differ only by case.*'P1' and 'p1'"),
        (["7a", "7", "007"], "'007' and '7'"),
        (["ﬁ1", "fi1"], "differ only by"),
        (["5-Mar", "x"], "look like dates.*'5-Mar'"),
        (["2024-03-05", "x"], "look like dates"),
        (["nan", "x"], "missing value.*'nan'"),
        (
            ["4006381333931000", "4006381333932000", "4006381333933000"],
            "end in zeros",
        ),
    ],
)
def test_doubtful_ids_are_told(shop, ids, told, caplog):
    lines = [f'p/a.jpg,"{id_}"' for id_ in ids]
    table = "\n".join(["path,product_id", *lines])
    (shop / "m.csv").write_text(table, encoding="utf-8")
    manifest.read_manifest(shop / "m.csv")
    assert re.search(told, caplog.text), caplog.text


def test_categories_that_differ_by_case_are_told(read):
    catalog, log = read(
        "path,product_id,category\np/a.jpg,1,Hats\np/b.jpg,1,hats"
    )
    assert len(catalog.category_names) == 2
    assert "`category` differ only by" in log


@pytest.mark.parametrize(
    "ids,wanted",
    [
        (np.array([7, 7, 8], np.int32), [7, 7, 8]),
        (np.array([7, 7, 8], np.uint64), [7, 7, 8]),
        (np.array([7.0, 7.0, 8.0]), [7, 7, 8]),
        (pd.array([7, 7, 8], "Int64"), [7, 7, 8]),
        (pd.Categorical([7, 7, 8]), [7, 7, 8]),
        (pd.Categorical(["K1 ", "K1", "K2"]), ["K1", "K1", "K2"]),
        ([b"K1", b"K1", b"K2"], ["K1", "K1", "K2"]),
        (["K1", " K1", "K2"], ["K1", "K1", "K2"]),
        (np.array([2**63, 2**63, 1], np.uint64), [f"{2**63}"] * 2 + ["1"]),
        ([1.5, 1.5, 2.0], ["1.5", "1.5", "2.0"]),
    ],
)
def test_ids_of_parquet_are_those_of_csv(shop, ids, wanted):
    frame = pd.DataFrame({"Path": [f"p/{n}.jpg" for n in "abc"]})
    frame["PRODUCT_ID"] = ids
    frame.to_parquet(shop / "m.parquet")
    catalog = manifest.read_manifest(shop / "m.parquet")
    assert catalog.row_product_ids.tolist() == wanted


@pytest.mark.parametrize("ids", [[1.0, 4.00638e22], [1.0, 2.0**53]])
def test_rounded_numbers_of_parquet_are_refused(shop, ids):
    frame = pd.DataFrame({"path": ["p/a.jpg", "p/b.jpg"], "product_id": ids})
    frame.to_parquet(shop / "m.parquet")
    with pytest.raises(ValueError, match="row 1 has a product_id that is a r"):
        manifest.read_manifest(shop / "m.parquet")
