"""Generated scenes kept on disk, so that training does not wait for the painter.

A chunk is three arrays: images (n, H, W, 3) uint8, the masks' RLE counts end to end, and where
each begins. Chunks are a function of their seeds and are made by several processes.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from engine.core.rle import RLE, encode_batch
from engine.simulation.scenes import generate_scene
from engine.training.samples import Example

CHUNK = 200


def _chunk_path(folder: Path, index: int, size: int) -> Path:
    return folder / f"scenes-{size}-{index:05d}.npz"


def scene_size(seed: int, side: int) -> tuple[int, int]:
    """(H, W) of a scene: two thirds are square, the others up to twice as long as wide."""
    rng = np.random.default_rng([seed, 77])
    if rng.random() < 0.67:
        return side, side
    short = round(side * rng.uniform(0.5, 0.95))
    return (side, short) if rng.random() < 0.5 else (short, side)


def _make_chunk(folder: Path, index: int, side: int) -> None:
    path = _chunk_path(folder, index, side)
    if path.exists():
        return
    images = np.zeros((CHUNK, side, side, 3), np.uint8)
    sizes = np.zeros((CHUNK, 2), np.int32)
    counts: list[bytes] = []
    first_mask = [0]
    for slot in range(CHUNK):
        seed = index * CHUNK + slot
        scene = generate_scene(seed, scene_size(seed, side))
        sizes[slot] = scene.image_HWC.shape[:2]
        images[slot, : sizes[slot][0], : sizes[slot][1]] = scene.image_HWC
        if scene.masks:
            counts += [rle.counts for rle in encode_batch(np.stack(scene.masks))]
        first_mask.append(len(counts))
    starts = np.cumsum([0, *(len(c) for c in counts)])
    temporary = path.with_suffix(f".{os.getpid()}.partial.npz")
    np.savez(
        temporary,
        images=images,
        sizes=sizes,
        first_mask=np.asarray(first_mask),
        starts=starts,
        counts=np.frombuffer(b"".join(counts), np.uint8),
    )
    temporary.replace(path)


class ScenePool:
    """`count` scenes of `side` pixels, made on first use under `folder`, drawn at random."""

    def __init__(self, folder: Path, count: int, side: int, processes: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        chunks = -(-count // CHUNK)
        missing = [i for i in range(chunks) if not _chunk_path(folder, i, side).exists()]
        if missing:
            with ProcessPoolExecutor(processes) as pool:
                list(pool.map(_make_chunk, [folder] * len(missing), missing, [side] * len(missing)))
        self._paths = [_chunk_path(folder, index, side) for index in range(chunks)]
        self._loaded: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._paths) * CHUNK

    def _chunk(self, index: int) -> dict[str, np.ndarray]:
        if index not in self._loaded:
            with np.load(self._paths[index], allow_pickle=False) as data:
                self._loaded[index] = {name: data[name] for name in data.files}
        return self._loaded[index]

    def __getitem__(self, index: int) -> Example:
        chunk, slot = self._chunk(index // CHUNK), index % CHUNK
        height, width = (int(value) for value in chunk["sizes"][slot])
        begin, end = chunk["first_mask"][slot], chunk["first_mask"][slot + 1]
        starts, counts = chunk["starts"], chunk["counts"]
        rles = [
            RLE((height, width), counts[starts[m] : starts[m + 1]].tobytes())
            for m in range(begin, end)
        ]
        return Example(chunk["images"][slot, :height, :width], rles)

    def draw(self, rng: np.random.Generator) -> Example:
        """A random scene; an `ExampleSource`."""
        return self[int(rng.integers(len(self)))]
