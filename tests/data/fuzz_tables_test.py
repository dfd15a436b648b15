"""Tables with whatever cells, separators and encodings: none is misread."""

import collections
import csv
import io
import re
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tf_triplet.data.sources import manifest, table_text


def mostly(sound, odd):
    """Draws from the first strategy eleven times out of twelve."""
    return st.integers(0, 11).flatmap(lambda draw: sound if draw else odd)


# Cells as people, spreadsheets and accidents make them.
ODD = st.sampled_from(
    [
        *("K1", " K1", "K1 ", "k1", "007", "7", "7.0", "4.00638E+12", "#N/A"),
        *("caf\u00e9", "cafe\u0301", "\u00a0K1\u200b", "", " ", "\t", "nan"),
        *('5" x 7"', '"', "a;b", "a,b", "a|b", "a\tb", "two\nlines", "\0"),
        *("NULL", "1e5", "-3", "9" * 20, "5-Mar", "\ufeffx", "Ａ1", "ﬁ"),
    ]
)
# Most cells are sound, or no table would be.
SOUND_IDS = st.sampled_from(["K1", " K1", "k1", "7", "007", "cafe\u0301", "é"])
IDS = mostly(SOUND_IDS | st.integers(0, 50).map(str), ODD | st.text(max_size=6))
SOUND_PATHS = st.sampled_from(
    ["p/a.jpg", "p\\a.jpg", "./p/a.jpg", " p/a.jpg ", "p/é.jpg", "p/a,b.jpg"]
)
PATHS = mostly(
    SOUND_PATHS,
    st.one_of(
        st.sampled_from(
            [
                *("p/a.jpg", "p\\a.jpg", "./p/a.jpg", " p/a.jpg ", "p/é.jpg"),
                *(
                    "https://x.example/a.jpg",
                    "file:///p/a.jpg",
                    "C:\\a.jpg",
                    "~",
                ),
                *(
                    "data:x",
                    "s3://b/a.jpg",
                    "\\\\s\\a.jpg",
                    "p/a,b.jpg",
                    "file:",
                ),
                *(
                    "file:///%zz",
                    "../p/a.jpg",
                    "p//a.jpg",
                    "nul\0.jpg",
                    "x" * 300,
                ),
            ]
        ),
        st.text(max_size=8),
    ),
)
TEXTS = st.one_of(ODD, st.text(max_size=5))
SPLITS = mostly(st.sampled_from(["train", "test ", "Train"]), ODD)
HEADERS = st.sampled_from(
    [
        ("path", "product_id"),
        ("Path ", " PRODUCT_ID", "category"),
        ("product_id", "path", "split", "note"),
        ("note", "path", "product_id", "Category", ""),
        ("path", "product_id", "attributes"),
    ]
)
ODD_HEADERS = st.sampled_from(
    [
        ("path", "product_id", "x1", "y1", "x2", "y2"),
        ("path", "product_id", "product_id"),
        ("image", "sku"),
    ]
)
ENCODINGS = ["utf-8"] * 4 + ["utf-8-sig", "utf-16", "utf-32"]
# Those without a mark are named to the reader, or not.
NAMED = ["utf-16-le", "cp1252"]


@st.composite
def tables(draw):
    """Draws the header and rows of a table, and how it is written."""
    header = draw(mostly(HEADERS, ODD_HEADERS))
    kinds = {"path": PATHS, "product_id": IDS, "split": SPLITS}
    cells = [kinds.get(name.strip().lower(), TEXTS) for name in header]
    rows = draw(st.lists(st.tuples(*cells), max_size=6))
    options = {
        "delimiter": draw(st.sampled_from([",", ";", "\t", "|"])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    encoding = draw(st.sampled_from(ENCODINGS + NAMED))
    named = encoding if encoding in NAMED and draw(st.booleans()) else ""
    return header, rows, options, encoding, named


def _write(table):
    header, rows, options, encoding, _ = table
    text = io.StringIO()
    csv.writer(text, **options).writerows([header, *rows])
    return text.getvalue().encode(encoding, "surrogatepass")


def _plain(id_):
    """An id as the reader may write it: outer marks off, composed."""
    text = unicodedata.normalize("NFC", id_.strip())
    return re.sub(
        "^[\u200b\u200e\u200f\u2060\ufeff\\s]+|"
        "[\u200b\u200e\u200f\u2060\ufeff\\s]+$",
        "",
        text,
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "p").mkdir()
    for name in ("a.jpg", "é.jpg", "a,b.jpg"):
        (folder / "p" / name).touch()
    return folder


def check_table(shop, table, caplog, seen):
    """Reads a table, and compares what was read with what was written.

    The number of rows of a table that can be read is added to `seen`.
    """
    try:
        data = _write(table)
    except UnicodeEncodeError:
        return
    caplog.clear()
    (shop / "m.csv").write_bytes(data)
    try:
        catalog = manifest.read_manifest(shop / "m.csv", encoding=table[-1])
    except (ValueError, FileNotFoundError) as error:
        assert str(shop) in str(error)
        assert len(str(error)) < 3_000
        return
    header, rows, *_ = table
    kept = [row for row in rows if "".join(row).strip()]
    assert len(catalog) == len(kept)
    at = [name.strip().lower() for name in header].index("product_id")
    written = [_plain(row[at]) for row in kept]
    assert list(map(str, catalog.row_product_ids)) == written
    # Spellings that became one product are told.
    spellings = collections.defaultdict(set)
    for row in kept:
        spellings[_plain(row[at])].add(row[at].lstrip(" "))
    if any(len(different) > 1 for different in spellings.values()):
        assert "are one product each" in caplog.text
    for path in catalog.paths:
        assert path and not re.match(r"(?i)[a-z][a-z0-9+.-]+://", path)
    seen.append(len(catalog))


_SETTINGS = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


def test_tables_are_read_or_refused(shop, caplog):
    seen = []

    @settings(max_examples=200, derandomize=True, **_SETTINGS)
    @given(table=tables())
    def check(table):
        check_table(shop, table, caplog, seen)

    check()
    # A generator of tables that are all refused would show nothing.
    assert len(seen) > 60


@settings(max_examples=100, derandomize=True, **_SETTINGS)
@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(b"path,product_id\n".__add__),
        st.text(max_size=60).map(
            lambda t: f"path;product_id\n{t}".encode("utf-8", "surrogatepass")
        ),
    )
)
def test_bytes_are_read_or_refused(shop, data):
    (shop / "b.csv").write_bytes(data)
    try:
        manifest.read_manifest(shop / "b.csv")
    except (ValueError, FileNotFoundError) as error:
        assert str(shop) in str(error)


@pytest.mark.slow
@settings(max_examples=100_000, **_SETTINGS)
@given(table=tables())
def test_many_tables_are_read_or_refused(shop, caplog, table):
    check_table(shop, table, caplog, [])


def test_separators_have_names():
    assert set(table_text.SEPARATORS) == {",", ";", "\t", "|"}
