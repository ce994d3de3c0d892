"""Exact search for the most similar vectors, a block at a time.

N = vectors of a block, D = length of a vector.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, order=True, slots=True)
class Hit:
    """A vector that is similar to a query: its cosine, block and row."""

    score: float
    block: int
    row: int


def most_similar(blocks: Iterable[np.ndarray], query_D: np.ndarray, count: int) -> list[Hit]:
    """Return the `count` most similar vectors, the best first.

    Args:
        blocks: float16 (N, D) each, rows of length 1; they may be mapped from files.
        query_D: of length 1.
        count: at least 1.

    Raises:
        ValueError: a block's vectors differ from the query in length.
    """
    query = torch.from_numpy(np.array(query_D, np.float16))
    best: list[Hit] = []
    for number, block_ND in enumerate(blocks):
        if block_ND.shape[1] != len(query):
            raise ValueError(f"a query of {len(query)} numbers, vectors of {block_ND.shape[1]}")
        scores, rows = _scores(block_ND, query).topk(min(count, len(block_ND)))
        found = zip(scores.tolist(), rows.tolist(), strict=True)
        best = sorted([*best, *(Hit(score, number, row) for score, row in found)], reverse=True)
        del best[count:]
    return best


def _scores(block_ND: np.ndarray, query: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arrays that are read-only; this only reads
        vectors = torch.from_numpy(block_ND)
    # half precision, because converting the vectors takes 20 times as long
    return (vectors @ query).float()
