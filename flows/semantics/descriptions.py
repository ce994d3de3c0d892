"""Descriptions of a dataset's categories: written by a language model, edited by people.

They lie in the workspace as `descriptions/DATASET.yaml`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from engine.semantics.descriptions import Descriptions, DescriptionsError, describe
from flows.workspace import progress
from flows.workspace.endpoint import endpoint_of
from flows.workspace.workspace import Workspace
from storage.catalog import Dataset
from storage.local_files import replace as replace_file


def descriptions_path(workspace: Workspace, dataset: Dataset) -> Path:
    """Return the path of a dataset's descriptions, which may not exist."""
    name = quote(dataset.name, safe=" ")  # old names may have slashes
    return workspace.settings.root / "descriptions" / f"{name}.yaml"


def descriptions_of(workspace: Workspace, dataset: Dataset) -> dict[int, list[str]]:
    """Return the sentences of each category of the dataset's list, by its id; names that the list
    lacks are passed over.

    Raises:
        DescriptionsError: the file is malformed; the message names file and line.
    """
    path = descriptions_path(workspace, dataset)
    if not path.exists():
        return {}
    found = _read(path)
    listed = workspace.catalog.categories.current(dataset.id).categories
    named = {listed.named(name): texts for name, texts in found.sentences.items() if texts}
    return {category.id: texts for category, texts in named.items() if category is not None}


def texts_digest(names: Mapping[int, str], descriptions: Mapping[int, Sequence[str]]) -> str:
    """Return a digest of the categories' names and descriptions."""
    texts = json.dumps([sorted(names.items()), sorted(descriptions.items())])
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def describe_categories(
    workspace: Workspace, dataset: Dataset, *, domain: str = "", renew: bool = False
) -> tuple[Path, int]:
    """Ask the language model about the categories that have no description, and write the file. The
    others, which people may have edited, stay. Each category is written once it is answered.

    Args:
        domain: what the images show.
        renew: ask about all categories again.

    Returns:
        The file, and the number of categories that were asked about.

    Raises:
        NoEndpointError: no endpoint is set.
        ChatError: the endpoint does not answer.
        DescriptionsError: its answer has no sentence, or the file is malformed.
    """
    endpoint = endpoint_of(workspace)
    path = descriptions_path(workspace, dataset)
    before = Descriptions(model="", endpoint="", prompt="", sentences={})
    if path.exists() and not renew:
        before = _read(path)
    names = workspace.catalog.categories.current(dataset.id).categories.names.values()
    wanted = [name for name in names if not before.sentences.get(name)]
    path.parent.mkdir(exist_ok=True)
    with progress.current().track("describe", len(wanted), "category") as advance:
        for name in wanted:
            found = describe(endpoint, [name], domain=domain)
            before = replace(found, sentences={**before.sentences, **found.sentences})
            text = before.to_yaml().encode()
            replace_file(path, lambda file, text=text: file.write(text))  # type: ignore[misc]
            advance()
    return path, len(wanted)


def _read(path: Path) -> Descriptions:
    try:
        return Descriptions.from_yaml(path.read_text(encoding="utf-8"))
    except (DescriptionsError, UnicodeDecodeError) as error:
        raise DescriptionsError(f"{path}: {error}") from error
