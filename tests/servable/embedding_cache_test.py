"""Storing embeddings, finding them again, and damaged shards."""

import numpy as np
import pytest

from tf_triplet.servable import embedding_cache

NOWHERE = np.full(4, np.nan, np.float32)


def key(text, box=NOWHERE, branch=""):
    return embedding_cache.image_key(text.encode(), box, branch)


def vectors(n, seed=0):
    return np.random.default_rng(seed).normal(size=[n, 3]).astype(np.float32)


def fill(folder, names, seed=0):
    with embedding_cache.EmbeddingCache(folder, "abc", 3) as cache:
        cache.add([key(name) for name in names], vectors(len(names), seed))


def test_a_key_depends_on_content_box_and_branch():
    box = np.float32([0, 0, 4, 4])
    keys = [
        key("a"),
        key("b"),
        key("a", box),
        key("a", box + 1),
        key("a", branch="street"),
        key("astreet"),
        key("a" + box.tobytes().decode("latin1")),
    ]
    assert len(set(keys)) == 7 and {len(k) for k in keys} == {32}
    assert key("a") == key("a", np.float32([0, np.nan, 1, 1]))


def test_added_embeddings_are_known_to_the_next_run(tmp_path):
    with embedding_cache.EmbeddingCache(tmp_path, "abc", 3) as cache:
        known, _ = cache.lookup([key("a")])
        assert not known.any()
        cache.add([key("a"), key("b")], vectors(2))
    with embedding_cache.EmbeddingCache(tmp_path, "abc", 3) as cache:
        known, found = cache.lookup([key("b"), None, key("z"), key("a")])
        assert known.tolist() == [True, False, False, True]
        np.testing.assert_array_equal(found[[3, 0]], vectors(2))
        np.testing.assert_array_equal(found[1:3], 0)
        assert len(cache) == 2
    # They are not known to another encoder.
    with embedding_cache.EmbeddingCache(tmp_path, "xyz", 3) as cache:
        assert len(cache) == 0


def test_an_exception_keeps_the_added_embeddings(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with embedding_cache.EmbeddingCache(tmp_path, "abc", 3) as cache:
            cache.add([key("a")], vectors(1))
            raise KeyboardInterrupt
    assert len(embedding_cache.EmbeddingCache(tmp_path, "abc", 3)) == 1


def test_a_shard_ends_by_size_or_by_time(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_cache, "SHARD_IMAGES", 2)
    cache = embedding_cache.EmbeddingCache(tmp_path, "abc", 3)
    cache.add([key("a")], vectors(1))
    assert not list(cache.folder.iterdir())
    cache.add([key("b")], vectors(1))
    assert len(list(cache.folder.iterdir())) == 1
    monkeypatch.setattr(embedding_cache, "SHARD_SECONDS", 0.0)
    cache.add([key("c")], vectors(1))
    assert len(list(cache.folder.iterdir())) == 2


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_damaged_shard_is_embedded_again(tmp_path, size, caplog):
    fill(tmp_path, ["a", "b"])
    fill(tmp_path, ["c"], seed=1)
    cache = embedding_cache.EmbeddingCache(tmp_path, "abc", 3)
    path = next(
        p for p in cache.folder.iterdir() if len(np.load(p)["keys"]) == 2
    )
    path.write_bytes(path.read_bytes()[:size])
    (cache.folder / ".partial-1").write_bytes(b"half")
    cache = embedding_cache.EmbeddingCache(tmp_path, "abc", 3)
    known, found = cache.lookup([key("a"), key("c")])
    assert known.tolist() == [False, True]
    np.testing.assert_array_equal(found[1:], vectors(1, seed=1))
    assert "is damaged; its images are embedded again" in caplog.text
    assert not list(cache.folder.glob(".partial*"))
    fill(tmp_path, ["a", "b"])
    assert len(embedding_cache.EmbeddingCache(tmp_path, "abc", 3)) == 3


def test_a_shard_of_another_encoder_is_an_error(tmp_path):
    fill(tmp_path, ["a"])
    (tmp_path / "abc").rename(tmp_path / "xyz")
    with pytest.raises(ValueError, match="Received: encoder abc with 3 dim"):
        embedding_cache.EmbeddingCache(tmp_path, "xyz", 3)
