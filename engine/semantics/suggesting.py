"""Suggests categories of masks from the vectors of masks that people labelled.

Two classifiers are fitted: a linear probe (multinomial logistic regression) and nearest neighbours.
Both also answer for the labelled masks of images that they did not see (cross-validation over
images); the one with the lower log loss is kept, with the temperature and the threshold found
there.

N = masks, D = length of a vector, K = answers: the categories, and "none of these".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax
from scipy.stats import beta

from engine.core.errors import DataEngineError
from engine.semantics.adapter import Tower

NONE_OF_THESE = 0
"""The answer for a mask of no category of the list; categories have ids from 1."""

FOLDS = 5
PENALTY = 3e-4
"""Of the probe's squared weights, against the mean log loss over categories (docs/LOG.md)."""

SHARPNESS = 20.0
"""Of neighbours: the exponent of a cosine similarity."""

ITERATIONS = 200
ROWS_AT_ONCE = 65_536
CONFIDENCE = 0.8
"""One-sided, that a threshold's precision is what is asked for."""

LEAST_LABELS = 2
"""Labelled masks without which a category is not suggested."""


class TooFewLabelsError(DataEngineError):
    """The labels are not enough to learn from; the message says which are missing."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """N labelled masks: vectors (N, D) of length 1, category ids int (N,) with NONE_OF_THESE, and
    image ids int (N,); images that show the same thing, as near-duplicates do, have one id."""

    vectors_ND: np.ndarray
    category_N: np.ndarray
    image_N: np.ndarray

    def part(self, chosen_N: np.ndarray) -> Labelled:
        """Return some of the masks."""
        columns = (self.vectors_ND, self.category_N, self.image_N)
        return Labelled(*(column[chosen_N] for column in columns))


@dataclass(frozen=True, slots=True)
class Suggestions:
    """For N masks: suggested category ids, int (N,), and calibrated probabilities, float32 (N,)."""

    category_N: np.ndarray
    probability_N: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class SuggesterCard:
    """Metadata of one suggester version."""

    version: str
    encoder: str
    """The version of the encoder whose vectors it reads."""
    name: str = ""
    """The encoder's name, as users wrote it."""
    dataset: str = ""
    parent: str | None = None
    by: str = "labels"
    """What it was asked to learn from: `labels`, `texts`, `best` of both, or `trained`: texts, by a
    trained CLIP."""
    method: str = "probe"
    """`probe`, `neighbours` or `texts`."""
    texts: str = ""
    """Digest of the categories' names and descriptions, if it was to learn from these."""
    trained: str = ""
    """Version of the trained CLIP that reads the texts."""
    precision: float = 0.95
    confident: float = 1.01
    """Least probability, [0, 1], of suggestions that need no person; above 1: none do."""
    data: dict[str, Any] = field(default_factory=dict)
    """Numbers of labels and images."""
    scores: dict[str, Any] = field(default_factory=dict)
    last_label: int = 0
    """Highest id of the labels that it was fitted on."""
    code_version: str = ""
    created_at: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


class SuggesterError(DataEngineError):
    """A suggester's file cannot be read, or the vectors are of another encoder."""


@dataclass(frozen=True, slots=True)
class Suggester:
    """A fitted suggester.

    Attributes:
        weights_DK, offset_K: of the log-odds; for neighbours, the labelled vectors transposed.
        answer_K: category id of each column; columns of one category are added for neighbours.
        temperature: divides the log-odds.
        adapter: changes vectors before they are compared; None: they are compared as they are.
    """

    card: SuggesterCard
    weights_DK: np.ndarray
    offset_K: np.ndarray
    answer_K: np.ndarray
    temperature: float = 1.0
    adapter: Tower | None = None

    def suggest(self, vectors_ND: np.ndarray) -> Suggestions:
        """Return the most probable category of each mask, whose vectors have length 1.

        Raises:
            SuggesterError: vectors of another length.
        """
        if vectors_ND.shape[1] != len(self.weights_DK):
            raise SuggesterError(
                f"suggester {self.card.version} reads vectors of {self.card.encoder} with "
                f"{len(self.weights_DK)} numbers, these have {vectors_ND.shape[1]}"
            )
        category = np.zeros(len(vectors_ND), np.int64)
        probability = np.zeros(len(vectors_ND), np.float32)
        answers = np.unique(self.answer_K)
        for start in range(0, len(vectors_ND), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            log_NK = log_softmax(self.log_odds(vectors_ND[rows]) / self.temperature, axis=1)
            best = log_NK.argmax(axis=1)
            category[rows] = answers[best]
            probability[rows] = np.exp(log_NK[np.arange(len(best)), best])
        return Suggestions(category, probability)

    def log_odds(self, vectors_ND: np.ndarray) -> np.ndarray:
        """Return uncalibrated log-odds, float32 (N, answers), in ascending order of answers."""
        vectors = vectors_ND.astype(np.float32)
        if self.adapter is not None:
            vectors = self.adapter(vectors)
        if self.card.method != "neighbours":
            return np.asarray(vectors @ self.weights_DK + self.offset_K)
        return neighbours(vectors, self.weights_DK.T, self.answer_K)

    def save(self, path: Path) -> None:
        """Write the suggester and its card as one safetensors file."""
        tensors: dict[str, Any] = {
            "weights": np.ascontiguousarray(self.weights_DK, np.float32),
            "offset": np.ascontiguousarray(self.offset_K, np.float32),
            "answers": np.ascontiguousarray(self.answer_K, np.int64),
            "temperature": np.array([self.temperature], np.float32),
        }
        if self.adapter is not None:
            tensors["adapter.down"] = np.ascontiguousarray(self.adapter.down_DR, np.float32)
            tensors["adapter.up"] = np.ascontiguousarray(self.adapter.up_RD, np.float32)
        save_file(tensors, path, metadata={"card": json.dumps(self.card.as_dict())})

    @staticmethod
    def load(path: Path) -> Suggester:
        """Load a file of `save`.

        Raises:
            SuggesterError: the file is missing or damaged, or is no suggester.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                card = SuggesterCard(**json.loads((file.metadata() or {})["card"]))
            found = load_file(str(path))
            adapter = None
            if "adapter.down" in found:
                adapter = Tower(found["adapter.down"], found["adapter.up"])
            return Suggester(
                card,
                found["weights"],
                found["offset"],
                found["answers"],
                float(found["temperature"][0]),
                adapter,
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise SuggesterError(f"{path} is not a readable suggester: {error}") from error


def learn(labelled: Labelled, card: SuggesterCard) -> Suggester:
    """Fit a suggester; its card gets method, threshold, scores and numbers of labels.

    Categories with fewer than LEAST_LABELS masks are left out.

    Args:
        labelled: masks labelled by people, none of a held-out image.
        card: with version, encoder and the precision to find the threshold for.

    Raises:
        TooFewLabelsError: fewer than two categories have enough labels, or all are on one image.
    """
    known = labelled.part(_is_frequent(labelled.category_N))
    _check_enough(labelled, known)
    tried = {name: _cross_validated(known, replace(card, method=name)) for name in METHODS}
    heat = {name: best_temperature(odds, known.category_N) for name, odds in tried.items()}
    losses = {name: log_loss(odds / heat[name], known.category_N) for name, odds in tried.items()}
    method = min(losses, key=lambda name: losses[name])
    log_NK = log_softmax(tried[method] / heat[method], axis=1)
    answers = np.unique(known.category_N)
    right = answers[log_NK.argmax(axis=1)] == known.category_N
    probability = np.exp(log_NK.max(axis=1))
    confident = least_probability(probability, right, card.precision)
    filled = replace(
        card,
        method=method,
        confident=confident,
        data={
            "labels": len(known.category_N),
            "left_out": len(labelled.category_N) - len(known.category_N),
            "categories": int((answers != NONE_OF_THESE).sum()),
            "images": len(np.unique(known.image_N)),
        },
        scores={
            "accuracy": float(right.mean()),
            "log_loss": losses[method],
            "confident_share": float((probability >= confident).mean()),
        },
    )
    return Suggester(filled, *METHODS[method](known), heat[method])


def _is_frequent(category_N: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(category_N, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] >= LEAST_LABELS)


def _check_enough(given: Labelled, known: Labelled) -> None:
    categories = len(np.unique(known.category_N))
    images = len(np.unique(known.image_N))
    if categories < 2 or images < 2:
        raise TooFewLabelsError(
            f"suggestions need at least two categories, or one and masks labelled as none of "
            f"these, with {LEAST_LABELS} labelled masks each on two images or more; there are "
            f"{len(given.category_N)} labelled masks of {len(np.unique(given.category_N))} "
            f"categories on {len(np.unique(given.image_N))} images: label more"
        )


Fitted = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Weights (D, K), offset (K,) and answers (K,), as in Suggester."""


def _probe(known: Labelled) -> Fitted:
    """Fit the linear probe; each category has the same weight, however many masks it has."""
    answers, index_N = np.unique(known.category_N, return_inverse=True)
    vectors = known.vectors_ND.astype(np.float64)
    # in the space that the vectors span, which is smaller than D where labels are few
    basis_D = np.linalg.svd(vectors, full_matrices=False)[2].T
    inside = vectors @ basis_D
    size, count = inside.shape[1], len(answers)
    share_N = 1 / (np.bincount(index_N)[index_N] * count)
    target = np.eye(count)[index_N]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, offset = flat[:-count].reshape(size, count), flat[-count:]
        log_p = log_softmax(inside @ weights + offset, axis=1)
        error = (np.exp(log_p) - target) * share_N[:, None]
        value = -(share_N * log_p[np.arange(len(log_p)), index_N]).sum()
        value += PENALTY / 2 * (weights**2).sum()
        slope = np.concatenate([(inside.T @ error + PENALTY * weights).ravel(), error.sum(axis=0)])
        return float(value), slope

    start = np.zeros((size + 1) * count)
    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x
    weights = basis_D @ flat[:-count].reshape(size, count)
    return weights.astype(np.float32), flat[-count:].astype(np.float32), answers


def _neighbours(known: Labelled) -> Fitted:
    vectors = np.asarray(known.vectors_ND, np.float32)
    return vectors.T, np.zeros(len(vectors), np.float32), known.category_N


METHODS: dict[str, Callable[[Labelled], Fitted]] = {"probe": _probe, "neighbours": _neighbours}


def neighbours(vectors_ND: np.ndarray, known_MD: np.ndarray, category_M: np.ndarray) -> np.ndarray:
    """Return log-odds by similarity to labelled vectors, float32 (N, answers): the logarithm of the
    mean over a category's masks of exp(SHARPNESS x cosine)."""
    answers, index_M = np.unique(category_M, return_inverse=True)
    alike = np.exp(SHARPNESS * (vectors_ND @ known_MD.T - 1))
    member = np.eye(len(answers), dtype=np.float32)[index_M]
    return np.asarray(np.log(alike @ (member / member.sum(axis=0)) + np.float32(1e-12)))


def _cross_validated(known: Labelled, card: SuggesterCard) -> np.ndarray:
    """Return each mask's log-odds by a suggester of the card's method that did not see its image,
    (N, answers); an answer that the others lack is impossible."""
    answers = np.unique(known.category_N)
    images, index_N = np.unique(known.image_N, return_inverse=True)
    order = np.random.default_rng(0).permutation(len(images))
    fold_N = order[index_N] % min(FOLDS, len(images))
    odds = np.full((len(known.category_N), len(answers)), -30.0)
    for fold in np.unique(fold_N):
        seen, asked = known.part(fold_N != fold), known.part(fold_N == fold)
        suggester = Suggester(card, *METHODS[card.method](seen))
        columns = np.searchsorted(answers, np.unique(seen.category_N))
        odds[np.ix_(fold_N == fold, columns)] = suggester.log_odds(asked.vectors_ND)
    return odds


def log_loss(
    odds_NK: np.ndarray, category_N: np.ndarray, answers_K: np.ndarray | None = None
) -> float:
    """Return the mean negative log-probability of the true categories.

    Args:
        odds_NK: log-odds, columns in ascending order of categories.
        category_N: true categories.
        answers_K: the columns' categories, ascending; None: those of `category_N`.
    """
    answers = np.unique(category_N) if answers_K is None else answers_K
    index_N = np.searchsorted(answers, category_N)
    return float(-log_softmax(odds_NK, axis=1)[np.arange(len(index_N)), index_N].mean())


def best_temperature(
    odds_NK: np.ndarray, category_N: np.ndarray, answers_K: np.ndarray | None = None
) -> float:
    """Return what to divide log-odds by for the lowest log loss (Guo et al. 2017); see log_loss."""
    found = minimize_scalar(
        lambda heat: log_loss(odds_NK / np.exp(heat), category_N, answers_K), bounds=(-4.0, 4.0)
    )
    return float(np.exp(found.x))


def least_probability(probability_N: np.ndarray, right_N: np.ndarray, precision: float) -> float:
    """Return the lowest probability from which on suggestions are right with at least a precision;
    above 1 if none is.

    The lower bound of that share (Clopper and Pearson, one-sided, CONFIDENCE) must reach it.

    Args:
        probability_N: of suggestions for masks of images that were not learned from.
        right_N: bool.
        precision: in (0, 1).
    """
    order = np.argsort(-probability_N, kind="stable")
    sorted_N = probability_N[order]
    right, count = np.cumsum(right_N[order]), np.arange(1, len(order) + 1)
    bound = beta.ppf(1 - CONFIDENCE, right, count - right + 1)
    is_cut = np.append(sorted_N[1:] < sorted_N[:-1], True)[: len(order)]  # not between equals
    good = np.flatnonzero((np.nan_to_num(bound) >= precision) & is_cut)
    return float(sorted_N[good[-1]]) if good.size else 1.01
