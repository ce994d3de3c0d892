"""Settings: the only reader of the environment and of `dataengine.toml`.

A workspace is a folder with a `dataengine.toml`. `DATAENGINE_*` variables override its values, with
two underscores between section and name: `DATAENGINE_TRAIN__STEPS=50`. Values that neither sets
come from the services that `dataengine up` has started there, then from the defaults below.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from pydantic import (
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from engine.core.errors import DataEngineError
from flows.workspace.setting_sections import (
    AnnotatorSettings,
    CostSettings,
    GeneratorSettings,
    OperationsSettings,
    PageSettings,
    PrefillSettings,
    ProductionSettings,
    QualitySettings,
    RaySettings,
    RoundSettings,
    Section,
    StoreSettings,
    TrainSettings,
)

FILE_NAME = "dataengine.toml"
PREFIX = "DATAENGINE_"

SERVICES = ".services"
"""Folder of a workspace in which `dataengine up` keeps its services' data and logs."""
SERVICES_FILE = f"{SERVICES}/settings.toml"
"""Addresses and keys of the services; written by `dataengine up`, readable by its user only."""


class WorkspaceError(DataEngineError):
    """There is no usable workspace; the message says what to do."""


SHAPING = {"generator", "annotator", "prefill", "quality", "train", "max_pixels", "shard_images"}
"""Settings that change a run's results, unlike those of where and how fast it works."""


class _TomlFile(TomlConfigSettingsSource):
    """A file of settings; a byte order mark before the UTF-8 text is accepted."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        try:
            return tomllib.loads(file_path.read_text("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise WorkspaceError(f"{file_path} is not UTF-8 text: save it as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise WorkspaceError(f"{file_path} is not valid TOML: {error}") from error


class Settings(BaseSettings):
    """All settings of one workspace, read once."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # a value may be a secret
    )

    root: Path = Path()
    """The workspace's folder."""
    database_url: str | None = Field(default=None, repr=False)
    """Catalog; default: catalog.db in the workspace."""
    log: Literal["text", "json"] = "text"
    """Form of the log on standard error; json: one line of JSON per event."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    held_out: float = Field(default=0.15, ge=0, lt=1)
    """Share of ingested images that is never trained on."""
    shard_images: int = Field(default=20, ge=1)
    """Images in one shard; SA-1B size: about 1,000."""
    lease_seconds: float = Field(default=60.0, gt=0)
    """How long a task or shard stays leased after the last heartbeat of its worker."""
    outage_seconds: float = Field(default=300.0, ge=0)
    """How long a flow retries while the catalog or the store does not answer."""
    llm_url: str | None = None
    """Of a language model's endpoint; `transformers`: the model runs in this process."""
    llm_model: str | None = None
    llm_key: SecretStr | None = None
    paint_url: str | None = None
    """Of an endpoint that paints, for programs; `diffusers`: the model runs in this process."""
    paint_model: str | None = None
    paint_key: SecretStr | None = None
    people_lease_seconds: float = Field(default=120.0, gt=0)
    """How long a task stays leased to a page without heartbeat."""
    people_draft_seconds: float = Field(default=7200.0, gt=0)
    """The same if a draft of the task is stored: the annotator may be offline."""
    max_pixels: int = Field(default=200_000_000, ge=1)
    """Images with more pixels are quarantined."""
    store: StoreSettings = StoreSettings()
    generator: GeneratorSettings = GeneratorSettings()
    annotator: AnnotatorSettings = AnnotatorSettings()
    rounds: RoundSettings = RoundSettings()
    quality: QualitySettings = QualitySettings()
    prefill: PrefillSettings = PrefillSettings()
    train: TrainSettings = TrainSettings()
    operations: OperationsSettings = OperationsSettings()
    page: PageSettings = PageSettings()
    costs: CostSettings = CostSettings()
    production: ProductionSettings = ProductionSettings()
    runner: Literal["local", "ray"] = "local"
    """Where stage 3's shards run: in this process, or on Ray."""
    ray: RaySettings = RaySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        root = init_settings().get("root")
        files = [] if root is None else [root / FILE_NAME, root / SERVICES_FILE]
        tomls = (_TomlFile(settings_cls, file) for file in files)
        return init_settings, env_settings, *tomls

    def shaping(self) -> dict[str, Any]:
        """The settings that a run's results depend on, for its row: it resumes with them."""
        return self.model_dump(mode="json", include=SHAPING)

    def shaped(self, kept: dict[str, Any]) -> Settings:
        """These settings, with those that a run was started with (`shaping`)."""
        sections = {name: getattr(self, name) for name in SHAPING & kept.keys()}
        values = {
            name: type(now).model_validate(kept[name]) if isinstance(now, Section) else kept[name]
            for name, now in sections.items()
        }
        return self.model_copy(update=values)

    @property
    def catalog_url(self) -> str:
        """The catalog's database."""
        if self.database_url:
            return self.database_url
        from storage.catalog import sqlite_url

        return sqlite_url(self.root / "catalog.db")

    @property
    def store_uri(self) -> str:
        """The object store, a folder made absolute."""
        return self.store.uri if "://" in self.store.uri else str(self.root / self.store.uri)


def find_workspace() -> Path:
    """The folder of the workspace: DATAENGINE_WORKSPACE, else the first one with a
    `dataengine.toml` from the current folder upwards.

    Raises:
        WorkspaceError: there is no workspace.
    """
    named = os.environ.get(f"{PREFIX}WORKSPACE")
    first = Path(named or Path.cwd()).resolve()
    for folder in [first] if named else [first, *first.parents]:
        if (folder / FILE_NAME).is_file():
            return folder
    raise WorkspaceError(
        f"no {FILE_NAME} in {first}{'' if named else ' or above it'}; create a workspace "
        "with `dataengine init FOLDER` and run the command inside it"
    )


def load_settings(root: Path) -> Settings:
    """The settings of the workspace at `root`.

    Raises:
        WorkspaceError: there is no workspace, or a value is invalid; the message names it.
    """
    path = root / FILE_NAME
    if not path.is_file():
        raise WorkspaceError(f"{path} does not exist; create it with `dataengine init {root}`")
    _check_name(root)
    try:
        return Settings(root=root.resolve())
    except ValidationError as error:
        wrong = "; ".join(_error_line(each["loc"], each["msg"]) for each in error.errors())
        raise WorkspaceError(f"{path} or a {PREFIX}* variable is wrong: {wrong}") from error
    except ValueError as error:
        raise WorkspaceError(f"{path} or a {PREFIX}* variable is wrong: {error}") from error


def _error_line(place: tuple[int | str, ...], what: str) -> str:
    return f"{'.'.join(map(str, place))}: {what[:1].lower()}{what[1:]}"


def _check_name(root: Path) -> None:
    """Raise if the path is not UTF-8; any other name is allowed."""
    try:
        str(root.resolve()).encode()
    except UnicodeEncodeError as error:
        raise WorkspaceError(
            f"the path {str(root.resolve())!r} is not UTF-8, which catalogs and mask tables "
            "need; rename the folder"
        ) from error


TEMPLATE = """# A data-engine workspace. A DATAENGINE_* variable overrides each value, for example
# DATAENGINE_TRAIN__STEPS=50. Commented lines show the defaults.

# database_url = "postgresql+psycopg://user@host/dataengine"   # default: catalog.db in this folder
# device = "auto"          # auto, cpu, cuda, mps
# held_out = 0.15          # share of ingested images that is never trained on
# shard_images = 20        # images one worker commits at once
# llm_url = "http://127.0.0.1:11434/v1"   # language model, or "transformers": docs/words.md
# llm_model = "..."                      # its key is in the environment, DATAENGINE_LLM_KEY
# paint_url = "..."        # the same for a model that paints, or "diffusers": docs/words.md
# outage_seconds = 300     # how long to retry while the catalog or the store does not answer
# log = "text"             # json: one line per event, for machines
# runner = "local"         # ray: stage 3's shards go to a Ray cluster, see [ray]

[store]
# uri = "store"            # a folder here, or s3://bucket/prefix
# endpoint_url = "https://..."

[generator]
# preset = "default"       # default, reference, sa1b (crops: slow, thorough), fast
# points_per_side = 32
# precision = 0.8          # share of correct masks that a retrain's score thresholds aim at

[annotator]
# max_clicks = 8
# max_objects = 40         # objects annotated per image

[rounds]
# choice = "random"        # images of a round: random, disagreement, diversity, mix
# skip_near_duplicates = true

[prefill]                  # masks that stage 2 begins with
# source = "generator"     # or detector, union, words: docs/annotating.md
# precision = 0.9          # of the detector's masks

[quality]                  # of people's work: docs/quality.md
# gold_first = 0           # first tasks of an annotator that are gold: their true masks are known
# gold_share = 0.0         # share of gold among the later ones
# gold_threshold = 0.96    # share of the true objects that everybody is to find
# feedback = false         # after a gold task the page says what was missed
# review_share = 0.2       # share of people's images that `review --rules` sends to review
# review_share_good = 0.05 # the same for annotators above the threshold
# consensus_share = 0.1    # share of a round's images that several people annotate; default: none
# consensus_people = 3

[train]
# steps = 150             # default: by the number of training images
# learning_rate = 3e-4
# promotion_confidence = 0.95   # confidence of a gain; 0: any gain promotes

[ray]
# address = "local"        # host:port, ray://host:10001, auto; local starts Ray on this machine
# cpus_per_shard = 1
# gpus_per_shard = 0
# max_in_flight = 16       # shards submitted to Ray at a time

[production]
# retrain_after_accepted = 200  # accepted masks that start a retrain; 0: never
# retrain_after_rejected = 20   # masks rejected in a row that start a retrain; 0: never
# suggest_after_labels = 50     # labels of people that start the job `suggest`; 0: never

[page]
# trusted_proxies = ["127.0.0.1", "::1"]   # addresses or networks of proxies in front of the page
# webhook_networks = []     # private networks that webhooks may be in, for example "10.0.0.0/8"

[costs]                    # prices for `dataengine status`, in one currency
# cpu_hour = 0.05
# gpu_hour = 2.5
# person_hour = 20.0
# gb_month = 0.025
"""


def create_workspace(root: Path) -> Path:
    """Create the folder and its `dataengine.toml`; an existing file is kept.

    Raises:
        WorkspaceError: the folder's path is not UTF-8.
    """
    _check_name(root)
    root.mkdir(parents=True, exist_ok=True)
    path = root / FILE_NAME
    if not path.exists():
        path.write_text(_with_store(TEMPLATE, root.resolve()), encoding="utf-8")
    return root.resolve()


def _with_store(template: str, root: Path) -> str:
    """The template; with a store in the user's data folder if mask tables cannot be in the root."""
    from storage.keys import unfit_for_tables

    unfit = unfit_for_tables(str(root))
    if not unfit:
        return template
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    name = f"{re.sub(r'[^a-zA-Z0-9.-]+', '_', root.name)[:40]}-{uuid4().hex[:12]}"
    place = str(Path(data).resolve() / "dataengine" / name)
    if unfit_for_tables(place):
        return template  # opening the workspace raises
    entry = f"# deltalake takes no {unfit} in a path\nuri = {json.dumps(place, ensure_ascii=False)}"
    return template.replace('# uri = "store"', entry)
