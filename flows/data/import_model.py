"""Imports model weights as a model version, from a local file or a download."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from engine.core.errors import DataEngineError
from engine.sam.checkpoint import (
    SHIPPED,
    ModelCard,
    Thresholds,
    find_card,
    read_card,
    save_tensors,
    shipped_path,
)
from engine.sam.state_dicts import CheckpointError, StateDict, read_state_dict
from flows.workspace import progress
from flows.workspace.workspace import Workspace, code_version
from storage.catalog import (
    AlreadyExistsError,
    BadNameError,
    Model,
    ModelState,
    NotFoundError,
    check_name,
)
from storage.downloads import check_address, fetch, sha256_of


class ImportRefusedError(DataEngineError):
    """The version cannot be made; the message states what to give instead."""


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A published checkpoint. The six digits in the names of Meta's files begin their MD5;
    MobileSAM's URL names a commit, so its file never changes."""

    url: str
    sha256: str


_META = "https://dl.fbaipublicfiles.com/segment_anything"
_MOBILE_SAM = "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM"
PUBLIC = {
    "mobile_sam": PublicModel(  # architecture vit_t; 40,728,226 bytes
        f"{_MOBILE_SAM}/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
    "vit_b": PublicModel(
        f"{_META}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "vit_l": PublicModel(
        f"{_META}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_h": PublicModel(
        f"{_META}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}
"""Name for `pull` -> checkpoint. Meta's URLs are from
https://github.com/facebookresearch/segment-anything#model-checkpoints."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A public model for photographs: the machine that it suits, the command that takes it, and
    the size of its file."""

    where: str
    command: str
    size: str


MODEL_CHOICES = (
    ModelChoice("on a CPU", "dataengine models pull mobile_sam --promote", "41 MB"),
    ModelChoice("on a GPU", "dataengine models pull vit_h --promote", "2.6 GB"),
)


def open_choices(models: Sequence[Model]) -> Sequence[ModelChoice]:
    """Return the choices to offer: none once another than the shipped model is current or any
    model was imported."""
    is_shipped = any(m.state == ModelState.CURRENT and m.version == SHIPPED for m in models)
    is_imported = any(m.card.get("source") for m in models)
    return MODEL_CHOICES if is_shipped and not is_imported else ()


def import_model(
    workspace: Workspace, path: Path, name: str | None = None, *, url: str | None = None
) -> Model:
    """Add a `.pth`, `.pt` or `.safetensors` file as a candidate, with its weights unchanged.

    Args:
        workspace: the workspace.
        path: a file that `engine.sam.state_dicts` can read. Its card, if any, is kept.
        name: name of the version; default: the card's, else the file's stem.
        url: URL that the file was fetched from, for the card.

    Raises:
        CheckpointError: the file is missing, is broken, or fits no known architecture.
        ImportRefusedError: the name is invalid.
        AlreadyExistsError: a version of that name exists.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    card = find_card(path) if path.suffix == ".safetensors" else None
    default = card.version if card else path.stem
    version = free_name(workspace, default if name is None else name)
    found = read_state_dict(path, card.architecture if card else None)
    digest = sha256_of(path)
    source = {"file": path.name, "sha256": digest, "architecture_told_by": found.identified_by}
    if url is not None:
        source["url"] = check_address(url)
    card = replace(card or _new_card(found), version=version, source=source)
    with tempfile.TemporaryDirectory(prefix="import-", dir=workspace.cache) as fresh:
        stored = Path(fresh) / "model.safetensors"
        save_tensors(found.tensors, card, stored)
        workspace.add_model(stored, card.as_dict())
    return workspace.catalog.models.get(version)


def _new_card(found: StateDict) -> ModelCard:
    shipped = read_card(shipped_path())
    if found.architecture == shipped.architecture:
        thresholds, whose = shipped.thresholds, "the shipped model's"
    else:
        thresholds, whose = Thresholds(), "SAM's own"
    return ModelCard(
        version="",
        architecture=found.architecture,
        thresholds=thresholds,
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        note=f"Imported. Thresholds are {whose}.",
    )


def free_name(workspace: Workspace, name: str) -> str:
    """Return the name if a new version can have it.

    Raises:
        ImportRefusedError: the name is invalid.
        AlreadyExistsError: a version of that name exists.
    """
    try:
        check_name("model", name)
    except BadNameError as error:
        raise ImportRefusedError(f"{error} (--name)") from error
    if _find_version(workspace, name) is not None:
        raise AlreadyExistsError(f"model version {name!r} exists; give another --name")
    return name


def _find_version(workspace: Workspace, name: str) -> Model | None:
    try:
        return workspace.catalog.models.get(name)
    except NotFoundError:
        return None


def pull(
    workspace: Workspace,
    public: str,
    *,
    name: str | None = None,
    url: str | None = None,
    sha256: str | None = None,
    wait_s: float = 1.0,
) -> Model:
    """Fetch a public checkpoint, verify it, and add it as a candidate. Returns an existing version
    of that name from the same file unchanged. The fetched file stays in the workspace's cache
    until it is imported.

    Args:
        workspace: the workspace.
        public: a key of PUBLIC.
        name: name of the version; default: that key.
        url: another source of the file.
        sha256: expected SHA-256 of the file in hex; default: that of the published file.
        wait_s: see `storage.downloads.fetch`.

    Raises:
        DownloadError: the download fails, or the file has another SHA-256.
        ImportRefusedError: the public checkpoint is unknown, or name or sha256 is invalid.
        AlreadyExistsError: a version of that name has other weights.
        CheckpointError: the file does not fit the architecture.
    """
    if public not in PUBLIC:
        known = ", ".join(PUBLIC)
        raise ImportRefusedError(f"unknown model {public!r}; known models: {known}")
    expected = (sha256 or PUBLIC[public].sha256).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise ImportRefusedError(f"--sha256 must be 64 hex digits, got {sha256!r}")
    source = url or PUBLIC[public].url
    version = public if name is None else name
    check_address(source)
    existing = _find_version(workspace, version)
    if existing is not None and existing.card.get("source", {}).get("sha256") == expected:
        return existing
    free_name(workspace, version)
    path = workspace.cache / "downloads" / f"{public}-{expected[:16]}.pth"
    _fetch_with_bar(source, path, expected, public, wait_s)
    model = import_model(workspace, path, version, url=source)
    path.unlink()
    return model


def _fetch_with_bar(url: str, path: Path, sha256: str, what: str, wait_s: float) -> None:
    """The bar starts with the first bytes: the size is unknown before."""
    reporter, done, advance = progress.current(), 0, None
    with ExitStack() as stack:

        def show_progress(received: int, total: int | None) -> None:
            nonlocal done, advance
            if advance is None:
                advance = stack.enter_context(reporter.track(what, total, "byte"))
            advance(received - done)
            done = received

        fetch(url, path, sha256, on_progress=show_progress, on_message=reporter.say, wait_s=wait_s)
