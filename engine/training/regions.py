"""Unsupervised regions and parts of photographs: a hierarchy of superpixels.

Masks of whole objects teach a model a single granularity. Here a watershed divides a photograph
into superpixels, and neighbours are merged, the most similar first, by a logistic score of colour,
texture, the gradient on their common border and the ImageNet features of the trunk. The masks are
cuts of the resulting tree at several numbers of regions. Borders of known masks separate regions,
so that a region is an object, a part of it, or a part of the background. UnSAM (Wang et al., 2024)
does this with DINO's features.

H, W = image; N = superpixels or leaves; R = regions.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from skimage.segmentation import watershed
from torch.nn import functional as F

STEP = 9
"""Pixels between the seeds of the superpixels."""

CUTS = (5, 9, 16, 28, 48)
"""Numbers of regions into which a photograph is cut."""

MAX_LEAVES = 64
"""Number of the finest regions."""

MIN_SHARE = 0.0015
"""Regions below this share of the image are dropped."""

KNOWN_BORDER = 6.0
"""Added to the score of two neighbours that a known mask's border separates."""

MIN_HEIGHT = -1.0
"""Regions that were merged below this score are not split, such as plain sky."""

WEIGHTS = np.array([1.59, 0.62, 1.07, 1.61, -0.34, 0.56, 0.96, 2.13, -2.17, 0.6])
BIAS = -3.37
"""Logistic regression over `_features`, in their order: whether neighbours lie in different
annotated objects, fitted on 91 photographs of open sets (AUC .807). The last weight, of size, was
chosen by the best cover of masks on 44 other photographs."""

TRUNK_STAGES = (2, 4, 6)
"""Stages whose features are compared, at strides 8, 16 and 32."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Index of each pixel's leaf (finest region), uint8, and each region's leaves, bool."""

    leaves_HW: np.ndarray
    members_RN: np.ndarray


@torch.inference_mode()
def trunk_features(encoder: Any, image_HWC: np.ndarray) -> list[np.ndarray]:
    """Return the features of TRUNK_STAGES, float32 (C, h, w) each.

    Args:
        encoder: a LiteEncoder with ImageNet weights.
        image_HWC: RGB uint8.
    """
    height, width = (-(-side // 32) * 32 for side in image_HWC.shape[:2])
    resized = cv2.resize(image_HWC, (width, height), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(resized).permute(2, 0, 1)[None].float()
    x = F.relu6(encoder.stem((pixels - 127) / 128))  # EfficientNet-Lite's own normalisation
    found = []
    for index, stage in enumerate(encoder.stages):
        x = stage(x)
        if index in TRUNK_STAGES:
            found.append(x[0].numpy())
    return found


def find_regions(
    image_HWC: np.ndarray, known: Sequence[np.ndarray], features: Sequence[np.ndarray]
) -> Regions:
    """Find the regions of a photograph.

    Args:
        image_HWC: RGB uint8.
        known: bool (H, W) masks of objects.
        features: the result of `trunk_features`.
    """
    lab = cv2.cvtColor(image_HWC.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    owner = np.zeros(lab.shape[:2], np.int64)
    for number, mask in sorted(enumerate(known, 1), key=lambda item: -int(item[1].sum())):
        owner[mask] = number
    labels = _superpixels(lab).astype(np.int64) * (len(known) + 1) + owner
    names, flat = np.unique(labels, return_inverse=True)
    labels = flat.reshape(owner.shape)
    return _Tree(_Graph(labels, lab, features, names % (len(known) + 1))).cut(labels)


def _gradient(lab_HWC: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(lab_HWC, (0, 0), sigma)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3) / 8
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3) / 8
    return np.asarray(np.sqrt((across**2 + down**2).sum(axis=2)))


def _superpixels(lab_HWC: np.ndarray) -> np.ndarray:
    """Return labels from 0, int (H, W), of a watershed whose seeds are the pixels with the lowest
    gradient in the cells of a grid."""
    steep = _gradient(lab_HWC, 1.0)
    steep = steep + 0.05 * cv2.GaussianBlur(steep, (0, 0), 3)
    height, width = steep.shape
    seeds = np.zeros((height, width), np.int32)
    count, half = 0, STEP // 2
    for y in range(half, height, STEP):
        for x in range(half, width, STEP):
            top, left = y - half, x - half
            cell = steep[top : y + half + 1, left : x + half + 1]
            row, column = np.unravel_index(int(cell.argmin()), cell.shape)
            count += 1
            seeds[top + row, left + column] = count
    return np.asarray(watershed(steep, seeds)) - 1  # type: ignore[no-untyped-call]


class _Graph:
    """Superpixels with their mean features, and neighbours with the gradient on their border."""

    def __init__(
        self,
        labels_HW: np.ndarray,
        lab_HWC: np.ndarray,
        features: Sequence[np.ndarray],
        owner_N: np.ndarray,
    ) -> None:
        self.labels, self.size = labels_HW, int(labels_HW.max()) + 1
        self.owner = owner_N
        lightness = lab_HWC[..., 0]
        detail = np.abs(lightness - cv2.GaussianBlur(lightness, (0, 0), 2))
        texture = cv2.GaussianBlur(detail, (0, 0), 3)
        self.count = np.bincount(labels_HW.ravel(), minlength=self.size).astype(float)
        self.mean = self._means([*np.moveaxis(lab_HWC, 2, 0), texture], labels_HW)
        self.deep = [self._mean_features(level) for level in features]
        self._borders([_gradient(lab_HWC, sigma) for sigma in (1, 2, 4)])

    def _means(self, channels: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
        flat = labels.ravel()
        count = np.maximum(np.bincount(flat, minlength=self.size), 1)
        sums = [np.bincount(flat, weights=c.ravel(), minlength=self.size) for c in channels]
        return np.stack(sums, axis=1) / count[:, None]

    def _mean_features(self, level_Chw: np.ndarray) -> np.ndarray:
        level = level_Chw - level_Chw.mean(axis=(1, 2), keepdims=True)
        level = level / (level.std() + 1e-6)
        height, width = self.labels.shape
        third = (len(range(0, width, 3)), len(range(0, height, 3)))
        channels = [cv2.resize(c, third, interpolation=cv2.INTER_LINEAR) for c in level]
        found = self._means(channels, self.labels[::3, ::3])
        missed = np.bincount(self.labels[::3, ::3].ravel(), minlength=self.size) == 0
        found[missed] = found[~missed].mean(axis=0)
        return found.astype(np.float32)

    def _borders(self, gradients: Sequence[np.ndarray]) -> None:
        keys, values = [], []
        for here, there in (
            ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
            ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ):
            a, b = self.labels[here], self.labels[there]
            differ = a != b
            low, high = np.minimum(a[differ], b[differ]), np.maximum(a[differ], b[differ])
            keys.append(low * self.size + high)
            steep = [np.maximum(g[here], g[there])[differ] for g in gradients]
            values.append(np.stack(steep, axis=1))
        unique, place = np.unique(np.concatenate(keys), return_inverse=True)
        border = np.concatenate(values)
        self.pairs = np.stack([unique // self.size, unique % self.size], axis=1)
        self.border_length = np.bincount(place).astype(float)
        sums = [np.bincount(place, weights=column) for column in border.T]
        self.border_sum = np.stack(sums, axis=1)


class _Tree:
    """Tree of merges, the most similar neighbours first; nodes 0 to N - 1 are the superpixels."""

    def __init__(self, graph: _Graph) -> None:
        size = graph.size
        self.graph, self.size, self.last = graph, size, size
        grown = 2 * size - 1
        self.count = np.concatenate([graph.count, np.zeros(size - 1)])
        self.mean = _extend(graph.mean, grown)
        self.deep = [_extend(level, grown) for level in graph.deep]
        self.owner = np.concatenate([graph.owner, np.full(size - 1, -1)])
        self.children = np.full((grown, 2), -1)
        self.height = np.full(grown, -1e9)
        self.total = float(graph.count.sum())
        self._neighbours: list[dict[int, tuple[np.ndarray, float]]] = [{} for _ in range(grown)]
        self._merge()

    def _score(self, node: np.ndarray, others: np.ndarray, border: np.ndarray) -> np.ndarray:
        found = _features(
            (self.mean[node], [d[node] for d in self.deep], self.count[node]),
            (self.mean[others], [d[others] for d in self.deep], self.count[others]),
            border,
            self.total,
        )
        known = self.owner[node] != self.owner[others]
        return np.asarray(found @ WEIGHTS + BIAS + KNOWN_BORDER * known)

    def _merge(self) -> None:
        graph = self.graph
        for (a, b), total, length in zip(
            graph.pairs.tolist(), graph.border_sum, graph.border_length, strict=True
        ):
            self._neighbours[a][b] = self._neighbours[b][a] = (total, length)
        first = self._score(
            graph.pairs[:, 0], graph.pairs[:, 1], graph.border_sum / graph.border_length[:, None]
        )
        heap = [(s, a, b) for s, (a, b) in zip(first.tolist(), graph.pairs.tolist(), strict=True)]
        heapq.heapify(heap)
        alive = np.zeros(2 * self.size - 1, bool)
        alive[: self.size] = True
        while heap and self.last < len(alive):
            score, a, b = heapq.heappop(heap)
            if not (alive[a] and alive[b]):
                continue
            node = self._join(score, a, b)
            alive[[a, b]], alive[node] = False, True
            others = np.array(list(self._neighbours[node]), dtype=np.int64)
            if len(others):
                border = np.stack([s / n for s, n in self._neighbours[node].values()])
                scores = self._score(np.full(len(others), node), others, border)
                for s, other in zip(scores.tolist(), others.tolist(), strict=True):
                    heapq.heappush(heap, (s, other, node))

    def _join(self, score: float, a: int, b: int) -> int:
        node, self.last = self.last, self.last + 1
        self.children[node] = a, b
        self.height[node] = max(score, self.height[a], self.height[b])
        weights = np.array([self.count[a], self.count[b]])
        self.count[node] = weights.sum()
        share = (weights / weights.sum())[:, None]
        for values in (self.mean, *self.deep):
            values[node] = (values[[a, b]] * share).sum(axis=0)
        same = self.owner[a] == self.owner[b]
        self.owner[node] = self.owner[a] if same else -1 - node  # unique
        joined: dict[int, tuple[np.ndarray, float]] = {}
        for child in (a, b):
            for other, (total, length) in self._neighbours[child].items():
                if other in (a, b):
                    continue
                before, long = joined.get(other, (0.0, 0.0))
                joined[other] = (before + total, long + length)
                self._neighbours[other].pop(child, None)
            self._neighbours[child] = {}
        self._neighbours[node] = joined
        for other, border in joined.items():
            self._neighbours[other][node] = border
        return node

    def cut(self, labels_HW: np.ndarray) -> Regions:
        """Return the leaves, and the regions of all CUTS."""
        leaves = self._nodes_at(MAX_LEAVES)
        of_superpixel = np.zeros(self.size, np.uint8)
        order = {node: place for place, node in enumerate(leaves)}
        for node, place in order.items():
            of_superpixel[self._descendants(node, set())] = place
        cut = {node: None for count in CUTS for node in self._nodes_at(count)}  # in order
        regions = [node for node in cut if self.count[node] >= MIN_SHARE * self.total]
        members = np.zeros((len(regions), len(leaves)), bool)
        for row, node in enumerate(regions):
            members[row, [order[leaf] for leaf in self._descendants(node, set(order))]] = True
        return Regions(of_superpixel[labels_HW], members)

    def _nodes_at(self, count: int) -> list[int]:
        """Return the nodes of a cut of the tree into `count` regions, or fewer if MIN_HEIGHT stops
        it."""
        roots = set(range(self.last)) - set(self.children[self.size : self.last].ravel().tolist())
        heap = [(-self.height[node], node) for node in roots]
        heapq.heapify(heap)
        while len(heap) < count and -heap[0][0] > MIN_HEIGHT:
            _, node = heapq.heappop(heap)
            for child in self.children[node].tolist():
                heapq.heappush(heap, (-self.height[child], child))
        return [node for _, node in heap]

    def _descendants(self, node: int, stop: set[int]) -> list[int]:
        """Return the superpixels, or nodes of `stop`, that a node consists of."""
        found, left = [], [node]
        while left:
            here = left.pop()
            if here < self.size or here in stop:
                found.append(here)
            else:
                left += self.children[here].tolist()
        return found


def _extend(values: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((size - len(values), values.shape[1]), values.dtype)])


_Side = tuple[np.ndarray, list[np.ndarray], np.ndarray]


def _features(first: _Side, second: _Side, border: np.ndarray, total: float) -> np.ndarray:
    """Return the differences of pairs of regions, (pairs, 10): lightness, colour, texture, gradient
    on the border at three scales, cosine distance of the trunk's features at three strides, and the
    size of the smaller region."""
    (mean_a, deep_a, count_a), (mean_b, deep_b, count_b) = first, second
    apart = np.abs(mean_a - mean_b)
    colour = np.sqrt((apart[:, 1:3] ** 2).sum(axis=1))
    parts = [apart[:, 0] / 100, colour / 50, apart[:, 3] / 10, *(border.T / 10)]
    parts = [np.sqrt(part) for part in parts]
    parts += [_cosine_distance(a, b) for a, b in zip(deep_a, deep_b, strict=True)]
    parts.append(np.log(np.minimum(count_a, count_b) / total + 1e-6))
    return np.stack(parts, axis=1)


def _cosine_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = (a * a).sum(axis=1) * (b * b).sum(axis=1)
    return np.asarray(1 - (a * b).sum(axis=1) / np.sqrt(norms + 1e-9))
