"""Loads batches, and goes on exactly where a training stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from engine.data.mask_dataset import MaskDataset, MaskStream, collate


class MaskLoader:
    """Batches of a MaskDataset or MaskStream, an epoch at each iteration.

    `state_dict` after a batch, given to `load_state_dict` of a loader of the same arguments, makes
    it yield exactly the batches that would have followed.

    Args:
        dataset: what to load.
        batch_size: samples of a batch; the last one of an epoch may have fewer.
        workers: processes that read and decode; 0: this one.
        shuffle: of a MaskDataset: whether to change the order in each epoch. A MaskStream has its
            own.
        seed: of the order.
        collate_fn: makes a batch of samples.
    """

    def __init__(
        self,
        dataset: MaskDataset | MaskStream,
        *,
        batch_size: int = 1,
        workers: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        collate_fn: Callable[[Any], Any] = collate,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise ValueError(f"batch_size {batch_size}, workers {workers}: expected from 1, from 0")
        self._dataset, self._batch_size, self._workers = dataset, batch_size, workers
        self._shuffle, self._seed, self._collate = shuffle, seed, collate_fn
        self._epoch = self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, as JSON values."""
        return {
            "epoch": self._epoch,
            "batches": self._batches,
            "of": [self._batch_size, self._workers, self._seed, self._shuffle],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is of a loader with other arguments, whose batches are others.
        """
        if state["of"] != self.state_dict()["of"]:
            raise ValueError(
                f"the state is of batch size, workers, seed and shuffle {state['of']}, this loader "
                f"has {self.state_dict()['of']}: its batches would be others"
            )
        self._epoch, self._batches = int(state["epoch"]), int(state["batches"])

    def __iter__(self) -> Iterator[Any]:
        common: dict[str, Any] = {
            "batch_size": self._batch_size,
            "num_workers": self._workers,
            "collate_fn": self._collate,
        }
        if isinstance(self._dataset, MaskStream):
            self._place(self._dataset)
            loader = DataLoader(self._dataset, **common)
        else:
            order = self._order(len(self._dataset))[self._batches * self._batch_size :]
            loader = DataLoader(self._dataset, sampler=order, **common)
        for batch in loader:
            self._batches += 1
            yield batch
        self._epoch, self._batches = self._epoch + 1, 0

    def _order(self, length: int) -> Sequence[int]:
        if not self._shuffle:
            return range(length)
        found: list[int] = (
            np.random.default_rng([self._seed, self._epoch]).permutation(length).tolist()
        )
        return found

    def _place(self, stream: MaskStream) -> None:
        """Tell the stream what was loaded already. Workers take turns, a batch each; a worker
        without images left is passed over."""
        stream.epoch = self._epoch
        workers = max(1, self._workers)
        lengths = [len(stream.order(worker, workers)) for worker in range(workers)]
        left = [-(-length // self._batch_size) for length in lengths]
        worker = 0
        for _ in range(self._batches):
            while not left[worker]:
                worker = (worker + 1) % workers
            left[worker] -= 1
            worker = (worker + 1) % workers
        done = [
            min(length, (-(-length // self._batch_size) - rest) * self._batch_size)
            for length, rest in zip(lengths, left, strict=True)
        ]
        stream.done, stream.first = done, worker
