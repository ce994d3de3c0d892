"""Settings that may be changed while the workspace is in use, from the page or by a command.

The changes are rows of the catalog, so that every machine of the workspace has them, and
`dataengine.toml` stays as its owner wrote it. A DATAENGINE_* variable of a process is stronger than
a change, and a change is stronger than the file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic_settings import EnvSettingsSource

from engine.core.errors import DataEngineError
from flows.workspace.settings import Settings
from storage.catalog import SettingChange

log = logging.getLogger(__name__)

Kind = Literal["number", "whole", "switch", "choice"]

CHANGEABLE: dict[str, str] = {
    "quality.review_share": "Share of an annotator's images that go to review by the rules",
    "quality.review_share_good": "The same for annotators above the gold threshold",
    "quality.gold_first": "First tasks of an annotator on a dataset that are gold",
    "quality.gold_share": "Share of gold tasks among the later ones",
    "quality.gold_threshold": "Share of the true objects that everybody is to find",
    "quality.feedback": "After a gold task the page says what was missed",
    "quality.consensus_agreement": "Images on which people agree less go to a reviewer",
    "rounds.choice": "How a new loop's images are chosen",
    "rounds.skip_near_duplicates": "Leave out images that nearly repeat an annotated one",
    "prefill.source": "The masks that stage 2 begins with",
    "prefill.precision": "Share of a detector's pre-filled masks that are to be right",
    "production.retrain_after_accepted": "Accepted masks that start a retrain; 0: never",
    "production.retrain_after_rejected": "Masks rejected in a row that start a retrain; 0: never",
    "production.suggest_after_labels": "Labels that start learning the categories again; 0: never",
    "production.rescore_images": "Images that are compared after a promotion; 0: none",
    "production.rescore_min_iou": "Old masks with a lower IoU with the new model's go to review",
    "costs.cpu_hour": "Price of a core for an hour",
    "costs.gpu_hour": "Price of a GPU for an hour",
    "costs.person_hour": "Price of a person's hour",
    "costs.gb_month": "Price of a gigabyte for a month",
}
"""What each says, by section and name. Each is read when it is needed, loses no data, and concerns
neither access nor places; a run that has begun keeps those that shape its results."""


class BadSettingError(DataEngineError):
    """This setting cannot be changed here, or not to this value; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingLimits:
    """What values a setting takes. Limits are None where there are none; `choices`: of a choice."""

    kind: Kind
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()


def limits_of(name: str) -> SettingLimits:
    """The limits of a changeable setting, by its model's own rules."""
    section, field = _place(name)
    schema = Settings.model_fields[section].annotation.model_json_schema()  # type: ignore[union-attr]
    rules = schema["properties"][field]
    if "enum" in rules:
        return SettingLimits(kind="choice", choices=tuple(rules["enum"]))
    kinds: dict[str, Kind] = {"boolean": "switch", "integer": "whole", "number": "number"}
    least = rules.get("minimum", rules.get("exclusiveMinimum"))
    most = rules.get("maximum", rules.get("exclusiveMaximum"))
    return SettingLimits(kind=kinds[rules["type"]], least=least, most=most)


def value_of(settings: Settings, name: str) -> Any:
    """The value of a changeable setting."""
    section, field = _place(name)
    return getattr(getattr(settings, section), field)


def with_change(settings: Settings, name: str, value: Any) -> Settings:
    """The settings with one changed.

    Raises:
        BadSettingError: it cannot be changed here, or its model refuses the value.
    """
    section, field = _place(name)
    held: BaseModel = getattr(settings, section)
    if isinstance(value, bool) != (limits_of(name).kind == "switch"):
        raise BadSettingError(f"{name} cannot be {value!r}")
    try:
        changed = type(held).model_validate({**held.model_dump(), field: value})
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise BadSettingError(f"{name}: {message[:1].lower()}{message[1:]}") from error
    return settings.model_copy(update={section: changed})


def with_changes(settings: Settings, changes: Mapping[str, SettingChange]) -> Settings:
    """The settings with all changes that no DATAENGINE_* variable overrides. A change that this
    code does not know or accept, since another version made it, is logged and left out."""
    fixed = fixed_by_environment()
    for name, change in changes.items():
        if change.value is None or name in fixed:
            continue
        try:
            settings = with_change(settings, name, change.value)
        except BadSettingError as error:
            log.warning("a changed setting is left out: %s", error)
    return settings


def fixed_by_environment() -> set[str]:
    """The changeable settings that DATAENGINE_* variables of this process set."""
    found = EnvSettingsSource(Settings)()
    return {name for name in CHANGEABLE if _place(name)[1] in (found.get(_place(name)[0]) or {})}


def _place(name: str) -> tuple[str, str]:
    if name not in CHANGEABLE:
        raise BadSettingError(
            f"{name} cannot be changed here, only in dataengine.toml; here are "
            f"{', '.join(CHANGEABLE)}"
        )
    section, _, field = name.partition(".")
    return section, field
