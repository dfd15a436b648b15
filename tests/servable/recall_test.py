"""Which neighbors count as found."""

import numpy as np

from tf_triplet.servable import recall


def test_ties_with_the_last_exact_neighbor_are_found():
    exact = np.float32([[0.9, 0.7, 0.7]])
    scores = np.float32([[0.9, 0.7 - 5e-6, 0.7 - 5e-5, -2.0]])
    found = recall.is_found(scores, exact)
    assert found.tolist() == [[True, True, False, False]]


def test_each_query_has_its_own_bound():
    exact = np.float32([[0.9, 0.8], [0.3, 0.2]])
    scores = np.float32([[0.9, 0.5], [0.3, 0.25]])
    found = recall.is_found(scores, exact)
    assert found.tolist() == [[True, False], [True, True]]
