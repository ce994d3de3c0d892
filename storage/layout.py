"""Keys of the store's objects. Only this module makes and parses them."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from uuid import NAMESPACE_OID, uuid5

MASKS, GROUND_TRUTH = TABLES = ("masks", "ground_truth")
"""Prefixes of the Delta tables, without a slash."""


class KeyKind:
    """One kind of key: a template whose fields, in braces, are parts of the key.

    A field of a folder may contain slashes, as old names of models and datasets do; a field of the
    last segment may not, and ends at the first match of the template's next part.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        self.prefix = template[: template.index("{")]
        """The common prefix of all keys of the kind."""
        folder, _, name = template.rpartition("/")
        self._pattern = re.compile(f"{_pattern(folder, '.+')}/{_pattern(name, '[^/]+?')}", re.S)

    def key(self, **fields: str | int | None) -> str:
        """The key with these fields; a task without a run has the run `None`.

        Raises:
            KeyError: a field of the template is missing.
        """
        return self.template.format(**fields)

    def folder(self, **fields: str | int) -> str:
        """The folder of all keys with these values of the template's first fields.

        Raises:
            KeyError: the first field of the template is missing.
        """
        last = list(fields)[-1]
        cut = self.template.index(f"{{{last}}}") + len(last) + 2
        return self.template[:cut].format(**fields)

    def parse(self, key: str) -> dict[str, str] | None:
        """The fields of a key; None if it is not of this kind."""
        found = self._pattern.fullmatch(key)
        return found.groupdict() if found else None


def _pattern(template: str, field: str) -> str:
    parts = re.split(r"\{(\w+)\}", template)
    named = (f"(?P<{part}>{field})" if n % 2 else re.escape(part) for n, part in enumerate(parts))
    return "".join(named)


IMAGE = KeyKind("images/{start}/{name}")
"""An image file by its SHA-256 in hex; `start` is its first two digits."""
EMBEDDING = KeyKind("embeddings/{model}/{image}.safetensors")
MODEL = KeyKind("models/{version}/{digest}.safetensors")
"""Older keys have `model` in place of a digest."""
TRAINING_LOG = KeyKind("training/{version}-{digest}.csv")
EVALUATION = KeyKind("evaluations/{dataset}/{version}/{digest}.json")
ANSWER = KeyKind("annotations/{run}/{task}-{attempt}.parquet")
"""Submitted masks of one task; each attempt to submit has a fresh key."""
TASK_STEPS = KeyKind("trajectories/tasks/{run}/{task}-{attempt}.parquet")
"""The trajectories of the masks under ANSWER with the same run, task and attempt."""
STEPS = KeyKind("trajectories/{run}/{shard}.parquet")
"""All trajectories of a shard."""
PREFILL = KeyKind("prefill/{run}/{name}.parquet")
"""Pre-filled masks of tasks; `name` is the image's id, or fresh."""
VECTORS = KeyKind("vectors/{run}/{shard}.parquet")
"""Vectors of a shard's masks, without a column `annotator`."""
WORDS = KeyKind("words/{run}/{shard}.parquet")
"""The words that a shard's masks were kept for, without a column `annotator`."""
CAPTIONS = KeyKind("captions/{run}/{shard}.parquet")
"""Captions of a shard's masks or images, without a column `annotator`."""
PROGRAM = KeyKind("programs/{run}/{shard}.parquet")
"""A program's results on a shard's images, without a column `annotator`."""
SUGGESTER = KeyKind("suggesters/{dataset}/{version}.safetensors")
ADAPTER = KeyKind("adapters/{dataset}/{version}.safetensors")
"""An adapter of a CLIP's vectors."""
TOWERS = KeyKind("towers/{dataset}/{version}/{file}")
"""A file of a CLIP whose towers were trained."""
GUIDELINE_PICTURE = KeyKind("guidelines/{dataset}/{name}")
"""A picture in the guidelines of a dataset, by the dataset's id."""
RELEASE = KeyKind("releases/{name}/{attempt}/{file}")
RELEASE_FILES = ("instances.json", "sa1b.tar", "report.html")
"""Files of a release."""
DOCTOR = KeyKind("doctor/{name}")
ERASURE = KeyKind("erasures/{erasure}")
GENERATION = KeyKind("generations/{mark}")

LOOSE = (ANSWER, PREFILL, STEPS, VECTORS, WORDS, CAPTIONS, PROGRAM)
"""Parquet files beside the tables, with columns `image_id` and `annotator` like the tables.
The keys of TASK_STEPS have the prefix of STEPS."""


def image_key(sha256: str, extension: str) -> str:
    """The key of an image file; `extension` begins with a dot."""
    return IMAGE.key(start=sha256[:2], name=f"{sha256}{extension}")


def inside(folder: str, name: str = "") -> str:
    """The key of a file in a folder; without a name, the prefix of the folder's keys."""
    return f"{folder}/{name}"


def number(field: str) -> int | None:
    """The field as the id of a row; None if it is not a number."""
    return int(field) if field.isdecimal() and len(field) < 19 else None


def is_data_file(key: str) -> bool:
    """Whether a table's key is a Parquet file of rows, not part of its log."""
    return key.endswith(".parquet") and "/_delta_log/" not in key


def rewritten(key: str, erasure: str) -> str:
    """The key that replaces a key when an erasure rewrites the object: of the same run and task,
    and of constant length, however often that happens."""
    path = PurePosixPath(key)
    first = path.stem.partition("-")[0]
    return str(path.with_name(f"{first}-{uuid5(NAMESPACE_OID, erasure + key).hex}.parquet"))
