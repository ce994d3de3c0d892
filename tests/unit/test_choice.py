"""Which images are annotated first."""

from __future__ import annotations

import numpy as np

from engine.core.choice import most_different, most_uncertain

CENTRES = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])


def clusters(each: int) -> np.ndarray:
    """Points around each centre, the first cluster first."""
    rng = np.random.default_rng(1)
    return np.repeat(CENTRES, each, axis=0) + rng.uniform(-3, 3, (len(CENTRES) * each, 2))


def test_the_lowest_score_comes_first_and_equal_ones_in_their_order() -> None:
    assert most_uncertain([0.9, 0.2, 0.5, 0.2], 3) == [1, 3, 2]


def test_images_without_a_score_follow_in_their_order() -> None:
    assert most_uncertain([None, 0.9, None, 0.1], 4) == [3, 1, 0, 2]
    assert most_uncertain([None, None, None], 2) == [0, 1]
    assert most_uncertain([], 2) == []


def test_different_images_cover_every_cluster() -> None:
    chosen = most_different(list(clusters(20)), [], 4)
    assert sorted(place // 20 for place in chosen) == [0, 1, 2, 3]


def test_clusters_that_are_annotated_are_covered_already() -> None:
    chosen = most_different(list(clusters(20)), list(CENTRES[:2]), 2)
    assert sorted(place // 20 for place in chosen) == [2, 3]


def test_nothing_is_chosen_twice_even_among_equal_images() -> None:
    assert most_different([np.zeros(3)] * 4, [np.zeros(3)], 4) == [0, 1, 2, 3]
    assert sorted(most_different(list(clusters(2)), [], 99)) == list(range(8))


def test_the_same_images_are_chosen_each_time() -> None:
    points = list(clusters(10))
    assert most_different(points, [], 7) == most_different(points, [], 7)


def test_no_images_and_no_count_choose_none() -> None:
    assert most_different([], [CENTRES[0]], 3) == []
    assert most_different(list(CENTRES), [], 0) == []
