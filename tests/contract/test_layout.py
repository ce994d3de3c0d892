"""Object keys: they parse back to their fields, and stored ones do not change."""

from __future__ import annotations

import re

import pytest

from storage import layout
from storage.keys import is_key
from storage.layout import KeyKind

KINDS = {name: kind for name, kind in vars(layout).items() if isinstance(kind, KeyKind)}

STORED = {
    layout.IMAGE: "images/9f/9f86d081.png",
    layout.EMBEDDING: "embeddings/cells-1/7.safetensors",
    layout.MODEL: "models/lite/0123456789abcdef.safetensors",
    layout.TRAINING_LOG: "training/cells-1.2-0123456789abcdef.csv",
    layout.EVALUATION: "evaluations/cells/lite/0123456789abcdef.json",
    layout.ANSWER: "annotations/5d41402a/12-7d793037.parquet",
    layout.TASK_STEPS: "trajectories/tasks/5d41402a/12-7d793037.parquet",
    layout.STEPS: "trajectories/5d41402a/3.parquet",
    layout.PREFILL: "prefill/5d41402a/7.parquet",
    layout.VECTORS: "vectors/5d41402a/3.parquet",
    layout.WORDS: "words/5d41402a/3.parquet",
    layout.CAPTIONS: "captions/5d41402a/3.parquet",
    layout.PROGRAM: "programs/5d41402a/3.parquet",
    layout.SUGGESTER: "suggesters/cells/labels-20260131T120000-5d4140.safetensors",
    layout.ADAPTER: "adapters/cells/adapter-20260131T120000-5d4140.safetensors",
    layout.TOWERS: "towers/cells/towers-20260131T120000-5d4140/open_clip_config.json",
    layout.GUIDELINE_PICTURE: "guidelines/7/edge-0123456789ab.png",
    layout.RELEASE: "releases/cells-1/7d793037/instances.json",
    layout.DOCTOR: "doctor/7d793037",
    layout.ERASURE: "erasures/7d793037",
    layout.GENERATION: "generations/7d793037",
}
"""A key of each kind, as workspaces have them."""


@pytest.mark.parametrize("name", KINDS)
def test_a_key_is_made_of_what_it_is_parsed_into(name: str) -> None:
    kind, key = KINDS[name], STORED[KINDS[name]]
    fields = kind.parse(key)
    assert fields is not None
    assert sorted(fields) == sorted(re.findall(r"\{(\w+)\}", kind.template))
    assert kind.key(**fields) == key
    assert key.startswith(kind.prefix)
    assert is_key(key)


@pytest.mark.parametrize("name", KINDS)
def test_keys_of_other_kinds_and_forms_are_not_parsed(name: str) -> None:
    kind = KINDS[name]
    assert kind.parse(f"other/{STORED[kind]}") is None
    assert kind.parse(kind.prefix) is None
    others = [key for key in STORED.values() if not key.startswith(kind.prefix)]
    assert [key for key in others if kind.parse(key)] == []


def test_old_names_with_slashes_and_dashes_are_parsed_as_a_whole() -> None:
    assert layout.EMBEDDING.parse("embeddings/a/b-1.2/7.safetensors") == {
        "model": "a/b-1.2",
        "image": "7",
    }
    assert layout.ANSWER.parse("annotations/run/12-a-b.parquet") == {
        "run": "run",
        "task": "12",
        "attempt": "a-b",
    }


def test_the_folder_of_a_release_or_a_run_begins_the_keys_of_its_objects() -> None:
    assert layout.RELEASE.folder(name="cells-1") == "releases/cells-1"
    assert layout.TASK_STEPS.folder(run="5d41402a") == "trajectories/tasks/5d41402a"
    assert layout.inside("releases/cells-1") == "releases/cells-1/"
    assert layout.inside("releases/cells-1", "report.html") == "releases/cells-1/report.html"


def test_an_image_lies_under_the_first_two_digits_of_its_sum() -> None:
    assert layout.image_key("9f86d081", ".png") == STORED[layout.IMAGE]


def test_a_rewritten_object_keeps_its_run_and_task_and_the_length_of_its_key() -> None:
    first = layout.rewritten(STORED[layout.ANSWER], "erasure-1")
    second = layout.rewritten(first, "erasure-2")
    assert len({STORED[layout.ANSWER], first, second}) == 3
    assert len(first) == len(second)
    for key in (first, second):
        found = layout.ANSWER.parse(key)
        assert found is not None
        assert (found["run"], found["task"]) == ("5d41402a", "12")


@pytest.mark.parametrize("field", ["", "x", "-1", "1.5", "9" * 19, "²"])
def test_a_field_that_is_no_id_is_no_number(field: str) -> None:
    assert layout.number(field) is None
    assert layout.number("12") == 12
