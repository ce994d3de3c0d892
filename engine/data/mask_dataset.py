"""Images with masks out of a Parquet export, as PyTorch's map-style and iterable data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pyarrow import fs
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from engine.data.rows import Rows, Sample, decoded

Transform = Callable[[torch.Tensor, dict[str, Any]], Any]
BUFFER_GROUPS = 4
"""Row groups among whose images a stream shuffles."""


class MaskDataset(Dataset[Any]):
    """Images by number. Each is read and decoded when it is asked for, in the process that asks.

    Args:
        place: a folder or `s3://bucket/prefix` with an export of `--format parquet`.
        split: `train`, `val` or `test`.
        transform: called with image and target (`engine.data.rows.decoded`), in the worker.
        keep_unlabelled: also masks without a category, with label 0, in a data set with categories.
        filesystem: for S3 with an endpoint or keys of its own.

    Attributes:
        categories: names; label n is the name at n - 1.

    Raises:
        FileNotFoundError: there is no such export.
    """

    def __init__(
        self,
        place: str,
        split: str = "train",
        *,
        transform: Transform | None = None,
        keep_unlabelled: bool = False,
        filesystem: fs.FileSystem | None = None,
    ) -> None:
        self._rows = Rows(str(place), split, filesystem)
        self._transform, self._keep_unlabelled = transform, keep_unlabelled
        self.categories = self._rows.categories

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        return self._sample(self._rows.row(index))

    def _sample(self, row: dict[str, Any]) -> Any:
        found = decoded(row, keep_unlabelled=self._keep_unlabelled)
        return found if self._transform is None else self._transform(*found)


class MaskStream(IterableDataset[Any]):
    """The images of a MaskDataset in the order of its files, or shuffled: row groups among all, and
    images among BUFFER_GROUPS of them. Each worker reads its own row groups, once, which suits S3.

    Args:
        dataset: the images.
        shuffle: whether to change the order, by `seed` and `epoch`.
        seed: of the order.
        share: (n, of): every `of`-th row group from the nth, for one of several machines.
    """

    def __init__(
        self,
        dataset: MaskDataset,
        *,
        shuffle: bool = True,
        seed: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self._dataset, self._shuffle, self._seed = dataset, shuffle, seed
        self._share = share
        self.epoch = 0
        self.done: Sequence[int] = ()
        """Images that each worker has yielded in this epoch before; () for none."""
        self.first = 0
        """The worker whose turn it is."""

    def order(self, worker: int, workers: int) -> list[tuple[int, int]]:
        """The images of a worker as (row group, row)."""
        groups = self._dataset._rows.groups
        rng = np.random.default_rng([self._seed, self.epoch])
        mine = np.arange(len(groups))[self._share[0] :: self._share[1]]
        if self._shuffle:
            rng.shuffle(mine)
        chosen = mine[worker::workers].tolist()
        order = []
        for begin in range(0, len(chosen), BUFFER_GROUPS):
            part = chosen[begin : begin + BUFFER_GROUPS]
            rows = [(group, row) for group in part for row in range(groups[group].rows)]
            if self._shuffle:
                np.random.default_rng([self._seed, self.epoch, *part]).shuffle(rows)
            order += rows
        return [(int(group), int(row)) for group, row in order]

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        workers = 1 if info is None else info.num_workers
        worker = (self.first + (0 if info is None else info.id)) % workers
        done = self.done[worker] if self.done else 0
        for group, row in self.order(worker, workers)[done:]:
            yield self._dataset._sample(self._dataset._rows.group(group)[row])


def collate(samples: Sequence[Sample]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """A batch as torchvision's detection models take it: images and targets as lists, because
    images have different sizes."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
