"""Embeddings files do not grow with the longest path."""

import numpy as np
import pandas as pd
import pytest

from tf_triplet.data.catalog import Catalog
from tf_triplet.evaluation.embedding_files import (
    load_embeddings,
    save_embeddings,
)
from tf_triplet.evaluation.embeddings import Embeddings


@pytest.mark.parametrize("length", [5, 20_000])
def test_one_long_path_costs_its_own_length(tmp_path, length):
    paths = [f"é/{i}.jpg" for i in range(2_000)]
    paths[7] = "x" * length
    ids = [f"ü{i // 2}" for i in range(2_000)]
    frame = pd.DataFrame({"path": paths, "product_id": ids})
    catalog = Catalog.from_frame(frame, "shop")
    vectors = np.zeros((2_000, 2), np.float32)
    embeddings = Embeddings(vectors, np.arange(2_000))
    save_embeddings(tmp_path / "e.npz", embeddings, catalog)
    assert (tmp_path / "e.npz").stat().st_size < 300_000
    saved = load_embeddings(tmp_path / "e.npz")
    assert saved.paths.tolist() == paths
    assert saved.product_ids.tolist() == ids
