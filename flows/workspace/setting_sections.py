"""The sections of `dataengine.toml`, with their defaults."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
)

AtLeastAnHour = Annotated[float, AfterValidator(lambda days: max(days, 1 / 24))]
"""Days; less than an hour counts as an hour, so that files which a worker has just written, or is
reading, are not deleted."""


class Section(BaseModel):
    """A section; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(Section):
    """Where objects are stored."""

    uri: str = "store"
    """A folder (relative to the workspace) or s3://bucket/prefix."""
    endpoint_url: str | None = None
    region: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    timeout_seconds: float = Field(default=60.0, gt=0)
    """How long S3 may take to answer before a request fails; requests are retried."""


class GeneratorSettings(Section):
    """How automatic masks are made: a preset, and values that override it. The fields are those of
    `engine.automatic.GeneratorConfig`; score thresholds that are not set come from the model's
    card."""

    preset: Literal["default", "reference", "sa1b", "fast", "proposals"] = "default"
    points_per_side: int | None = Field(default=None, ge=1)
    points_per_batch: int | None = Field(default=None, ge=1)
    min_predicted_iou: float | None = Field(default=None, ge=0, le=1)
    min_stability: float | None = Field(default=None, ge=0, le=1)
    crop_layers: int | None = Field(default=None, ge=0)
    min_region: int | None = Field(default=None, ge=0)
    min_piece: float | None = Field(default=None, ge=0, le=1)
    min_hole: float | None = Field(default=None, ge=0, le=1)
    min_whole: float | None = Field(default=None, ge=0, le=1)
    average_iou: float | None = Field(default=None, ge=0, le=1)
    max_mask_iou: float | None = Field(default=None, ge=0, le=1)
    max_inside: float | None = Field(default=None, ge=0, le=1)
    compile: bool | None = None
    precision: float = Field(default=0.8, gt=0, le=1)
    """Target share of automatic masks with IoU of at least 0.5 with a true one: every retrain
    chooses score thresholds that reach it. Not a field of `GeneratorConfig`."""


class AnnotatorSettings(Section):
    """The simulated annotator."""

    good_iou: float = Field(default=0.9, gt=0, le=1)
    max_clicks: int = Field(default=8, ge=1)
    max_objects: int = Field(default=40, ge=1)
    """Objects annotated per image."""


class RoundSettings(Section):
    """Rounds of annotation."""

    choice: Literal["random", "disagreement", "diversity", "mix"] = "random"
    """How a new loop's images are chosen: in order of ingest; those whose automatic masks have the
    lowest scores; those that look least like the annotated ones; half by each of the latter two."""
    skip_near_duplicates: bool = True
    """Leave out images that nearly repeat an annotated one. A series by a fixed camera of things
    that are small in the image can look repeated without being so."""


class QualitySettings(Section):
    """Rules on the annotation queue that measure and raise the quality of people's masks
    (docs/quality.md)."""

    gold_first: int = Field(default=0, ge=0)
    """An annotator's first tasks on a dataset that are gold."""
    gold_share: float = Field(default=0.0, ge=0, le=0.5)
    """Share of gold tasks among the later ones."""
    gold_threshold: float = Field(default=0.96, gt=0, lt=1)
    """Score of gold tasks that is expected of everybody: the share of objects found."""
    feedback: bool = False
    """After a gold task the page says what was missed."""
    review_share: float = Field(default=0.2, ge=0, le=1)
    """Share of an annotator's images that `review --rules` sends to review while their score is
    not known to lie above or below the threshold."""
    review_share_good: float = Field(default=0.05, ge=0, le=1)
    """The same if it lies above. If it lies below, all are sent."""
    consensus_share: float = Field(default=0.0, ge=0, le=1)
    """Share of a round's images in stages 1 and 2 that several people annotate; 0: none."""
    consensus_people: int = Field(default=3, ge=1, le=20)
    """How many people annotate each of these images; 1: no image has copies."""
    consensus_agreement: float = Field(default=0.8, ge=0, le=1)
    """An image on which they agree less goes to a reviewer."""


class PrefillSettings(Section):
    """The masks that stage 2 begins with."""

    source: Literal["generator", "detector", "union", "words"] = "generator"
    """The automatic generator's confident masks; those of a detector that is trained on people's
    masks, or both without repeats, and then a retrain trains the detector too; or those that
    `generate --text` kept, with their labels."""
    precision: float = Field(default=0.9, gt=0, lt=1)
    """Share of the detector's pre-filled masks that are right, by which its least confidence is
    found on held-out images."""


class TrainSettings(Section):
    """A retrain inside the loop."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps; by default chosen by the number of training images."""
    images_per_step: int = Field(default=4, ge=1)
    masks_per_image: int = Field(default=4, ge=1)
    refinements: int = Field(default=2, ge=0)
    learning_rate: float = Field(default=3e-4, gt=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the mask decoder; auto: bfloat16 if the processor is faster with it."""
    frozen_encoder: bool | None = None
    """Train the decoder alone, on embeddings computed once: faster, but learns less; by default
    with few masks."""
    replay: float = Field(default=0.2, ge=0, le=1)
    """Share of training images that are generated scenes."""
    new_share: float = Field(default=0.6, ge=0, le=1)
    """Share of the annotated images that come from the newest round; the others come from all."""
    automatic: bool = False
    """Also train on automatic masks, except rejected ones."""
    oversampling: float = Field(default=10.0, gt=0)
    """How many times as often an image with people's masks is drawn as one with automatic masks
    only (SAM: 10, section 7.6)."""
    evaluation_images: int = Field(default=64, ge=1)
    """Held-out images on which a candidate is compared with the current model."""
    evaluation_masks: int = Field(default=12, ge=1)
    """Masks per image of those."""
    min_gain: float = 0.0
    """A candidate is promoted if its gain in mean held-out IoU is significantly above this: the
    lower end of the gain's confidence interval must exceed it."""
    promotion_confidence: float = Field(default=0.95, ge=0, lt=1)
    """Confidence of that interval, two-sided and paired by image; 0: any gain above `min_gain`."""


class ProductionSettings(Section):
    """Services, deployments and their triggers (`dataengine up`, `dataengine deploy`)."""

    name: str = Field(default="dataengine", pattern=r"^[A-Za-z0-9._-]+$")
    """Name of this workspace's deployments; each workspace of one Prefect server needs its own."""
    work_pool: str = Field(default="dataengine", pattern=r"^[A-Za-z0-9._-]+$")
    """Prefect work pool that the deployments run in."""
    runs_at_once: int = Field(default=2, ge=1)
    """Flow runs that the worker of `dataengine up` runs at a time."""
    poll_seconds: float = Field(default=5.0, gt=0)
    """How often that worker polls for work."""
    page_port: int = Field(default=8765, ge=0, le=65535)
    """Port of the annotation page; if it is taken, any free one. So for the other two."""
    prefect_port: int = Field(default=4200, ge=0, le=65535)
    s3_port: int = Field(default=8333, ge=0, le=65535)
    retrain_after_accepted: int = Field(default=200, ge=0)
    """Retrain after so many masks are accepted in review since the last one; 0: never."""
    retrain_after_rejected: int = Field(default=20, ge=0)
    """Retrain after so many masks are rejected in a row since the last one; 0: never."""
    suggest_after_labels: int = Field(default=50, ge=0)
    """Learn categories again after people gave so many labels since the last time; 0: never."""
    rescore_images: int = Field(default=20, ge=0)
    """Images whose automatic masks are compared with a newly promoted model's; 0: none."""
    rescore_min_iou: float = Field(default=0.7, ge=0, le=1)
    """An old mask goes to review if no mask that the new model predicts reaches this IoU."""


class OperationsSettings(Section):
    """Sweeping, compaction, metrics."""

    orphan_days: AtLeastAnHour = Field(default=1.0, ge=0)
    """Unreferenced objects older than this are swept."""
    vacuum_days: AtLeastAnHour = Field(default=7.0, ge=0)
    """How long all versions of the mask table stay readable; pinned ones stay forever."""
    min_free_gib: float = Field(default=1.0, ge=0)
    """Free disk space below which `dataengine doctor` reports a failure."""
    metrics_token: SecretStr | None = None
    """Bearer token for `/metrics`; without one, only this machine may read them."""


class PageSettings(Section):
    """The annotation page's server."""

    trusted_proxies: tuple[IPvAnyNetwork, ...] = (
        IPv4Network("127.0.0.1/32"),
        IPv6Network("::1/128"),
    )
    """Addresses or networks of proxies in front of the page. Their X-Forwarded-For is trusted for
    rate limits, their X-Forwarded-Proto for whether cookies went over TLS."""
    webhook_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that are not public in which webhooks may be; all others are refused."""


class RaySettings(Section):
    """Shards on a Ray cluster, for `runner = "ray"` (docs/scaling.md)."""

    address: str = Field(default="local", pattern=r"^(local|auto|(ray://)?[^/]+:[0-9]+)$")
    """Address of the cluster: host:port, ray://host:10001, or auto for one on this machine; local
    starts Ray on this machine for the duration of a run."""
    cpus_per_shard: float = Field(default=1.0, gt=0)
    """CPU cores per shard; its process uses as many threads."""
    gpus_per_shard: float = Field(default=0.0, ge=0)
    """GPUs, or share of a GPU, per shard."""
    max_in_flight: int = Field(default=16, ge=1)
    """Shards submitted to Ray at a time; more than fit make an autoscaler add nodes."""
    retries: int = Field(default=2, ge=0)
    """How often a shard is retried, after an error and after its process was lost."""
    retry_seconds: float = Field(default=5.0, ge=0)
    """Pause before a retry after an error."""


class CostSettings(Section):
    """Prices of the cost ledger, in one currency of any kind; the defaults are rough US dollars."""

    cpu_hour: float = Field(default=0.05, ge=0)
    """Per core."""
    gpu_hour: float = Field(default=2.5, ge=0)
    person_hour: float = Field(default=20.0, ge=0)
    gb_month: float = Field(default=0.025, ge=0)
    """Of the object store: 10^9 bytes for 30 days."""
