"""The words that rows of the catalog use for their kinds and states."""

from __future__ import annotations

from enum import StrEnum


class Split(StrEnum):
    """What an image may be used for."""

    TRAIN = "train"
    HELD_OUT = "held_out"
    """Never trained on: evaluation only."""


class ModelState(StrEnum):
    """A model version is a candidate until it is promoted; at most one is current."""

    CANDIDATE = "candidate"
    CURRENT = "current"
    RETIRED = "retired"


class LoopState(StrEnum):
    """A dataset has at most one running loop."""

    RUNNING = "running"
    FINISHED = "finished"


class RoundState(StrEnum):
    """How far a round has come; `rounds.TRANSITIONS` says what may follow what."""

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
    RETRAIN = "retrain"
    REVIEW = "review"
    RELEASE = "release"
    INGEST = "ingest"


class RunState(StrEnum):
    """A failed run that is started again is running again."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class ShardState(StrEnum):
    """A leased shard whose lease has expired may be leased by another worker."""

    OPEN = "open"
    LEASED = "leased"
    COMMITTED = "committed"


class AnnotatorKind(StrEnum):
    """Who answers tasks."""

    PERSON = "person"
    SIMULATED = "simulated"


class TaskKind(StrEnum):
    """What a task asks for: stage 1, stage 2, or a review."""

    ANNOTATE = "annotate"
    COMPLETE = "complete"
    REVIEW = "review"


class TaskState(StrEnum):
    """`skipped` is final: too many people passed the task on."""

    OPEN = "open"
    LEASED = "leased"
    SUBMITTED = "submitted"
    SKIPPED = "skipped"


class VerdictKind(StrEnum):
    """What a reviewer said about a mask."""

    ACCEPT = "accept"
    REJECT = "reject"
    FIX = "fix"


class ReleaseState(StrEnum):
    """A release is done once its files and its card are complete. One that failed is built again
    when it is asked for again."""

    BUILDING = "building"
    DONE = "done"
    FAILED = "failed"


class ErasureKind(StrEnum):
    """What is deleted everywhere."""

    IMAGES = "images"
    DATASET = "dataset"
    PERSON = "person"
