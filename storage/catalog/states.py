"""Kinds and states of rows in the catalog."""

from __future__ import annotations

from enum import StrEnum


class Split(StrEnum):
    """What an image may be used for."""

    TRAIN = "train"
    HELD_OUT = "held_out"
    """For evaluation; never trained on."""


class ModelState(StrEnum):
    """A model version is a candidate until it is promoted; at most one is current."""

    CANDIDATE = "candidate"
    CURRENT = "current"
    RETIRED = "retired"


class ModelKind(StrEnum):
    """What a model does; each kind has a current version of its own."""

    SEGMENTER = "segmenter"
    """Answers prompts with masks."""
    DETECTOR = "detector"
    """Finds boxes of objects in an image embedding."""
    VERIFIER = "verifier"
    """Gives the probability that a reviewer accepts a mask."""


class LoopState(StrEnum):
    """A dataset has at most one running loop."""

    RUNNING = "running"
    FINISHED = "finished"


class RoundState(StrEnum):
    """Progress of a round; `rounds.TRANSITIONS` has the allowed order."""

    PLANNED = "planned"
    OPENED = "opened"
    COLLECTED = "collected"
    TRAINED = "trained"
    DONE = "done"


class RunKind(StrEnum):
    """What a run does."""

    ASSISTED_MANUAL = "assisted_manual"
    SEMI_AUTOMATIC = "semi_automatic"
    FULLY_AUTOMATIC = "fully_automatic"
    WORDS = "words"
    """Stage 3 that keeps the masks of asked words only: it does not cover its images."""
    RETRAIN = "retrain"
    REVIEW = "review"
    RELEASE = "release"
    INGEST = "ingest"
    GOLD = "gold"
    """An annotator's gold tasks on a dataset; their masks are scored and never committed."""
    TRAIN_VERIFIER = "train_verifier"
    TRAIN_DETECTOR = "train_detector"
    VECTORS = "vectors"
    TRAIN_SUGGESTER = "train_suggester"
    TRAIN_CLIP = "train_clip"
    PROGRAM = "program"
    """A visual program over a dataset's images."""
    CAPTIONS = "captions"
    CALIBRATE_JUDGE = "calibrate_judge"
    """A few-shot judge's answers where people have answered."""
    JUDGE = "judge"
    """A few-shot judge confirms labels, or says which images are complete."""
    TRAIN_COCA = "train_coca"


class LearnedKind(StrEnum):
    """What is learned from a dataset's labels; each kind has a version in use of its own."""

    SUGGESTER = "suggester"
    """Suggests categories for vectors of masks."""
    CLIP = "clip"
    """A CLIP that was trained further: an adapter of its vectors, or its towers."""


class RunState(StrEnum):
    """Starting a failed run again sets it to running."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class ShardState(StrEnum):
    """Another worker may lease a shard whose lease has expired."""

    OPEN = "open"
    LEASED = "leased"
    COMMITTED = "committed"


class AnnotatorKind(StrEnum):
    """Who answers tasks."""

    PERSON = "person"
    SIMULATED = "simulated"
    MODEL = "model"
    """A verifier or a few-shot judge; its verdicts count where no other annotator has judged the
    mask."""


class TaskKind(StrEnum):
    """The work of a task: stage 1, stage 2, or a review."""

    ANNOTATE = "annotate"
    COMPLETE = "complete"
    REVIEW = "review"


class TaskState(StrEnum):
    """`skipped` means skipped by too many annotators; the task has left the queue."""

    OPEN = "open"
    LEASED = "leased"
    SUBMITTED = "submitted"
    SKIPPED = "skipped"


class VerdictKind(StrEnum):
    """A reviewer's verdict on a mask."""

    ACCEPT = "accept"
    REJECT = "reject"
    FIX = "fix"


class ReleaseState(StrEnum):
    """A release is done once its files and card are complete. Starting a failed one builds it
    again."""

    BUILDING = "building"
    DONE = "done"
    FAILED = "failed"


class ErasureKind(StrEnum):
    """What is deleted everywhere."""

    IMAGES = "images"
    DATASET = "dataset"
    PERSON = "person"


class DeliveryState(StrEnum):
    """An event on its way to a webhook; failed once it is given up."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


class LabelSource(StrEnum):
    """Who gave a mask its label."""

    ANNOTATOR = "annotator"
    MODEL = "model"
    """Never supersedes a label of another source."""
    IMPORTED = "imported"
