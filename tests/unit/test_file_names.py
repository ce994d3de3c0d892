"""Matching annotations to files: names as tools write them, and names on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.formats.file_names import FileNames


@pytest.mark.parametrize(
    ("entry", "file"),
    [
        ("a.jpg", "a.jpg"),
        ("train/a.jpg", "a.jpg"),
        (r"C:\photos\train\a.jpg", "train/a.jpg"),
        ("/data/local-files/?d=photos/my%20a.jpg", "my a.jpg"),
        ("http://localhost:8080/data/upload/1/0a1b2c3d-my%20a.jpg", "my a.jpg"),
        ("https://host/get/a.jpg?X-Amz-Signature=12&d2=3", "deep/a.jpg"),
        ("s3://bucket/train/a#1.jpg", "train/a#1.jpg"),
        ("images/1/0a1b2c3d-a.jpg", "a.jpg"),
        ("images/1/0a1b2c3d-my_photo_1.jpg", "my photo (1).jpg"),
        ("../../label-studio/data/media/upload/1/0a1b2c3d-my_a.jpg", "deep/my a.jpg"),
        ("file:///home/me/a.jpg", "a.jpg"),
        ("gs://bucket/%C3%BCber.jpg", "u\u0308ber.jpg"),
        ("50%25.jpg", "deep/50%25.jpg"),
    ],
)
def test_names_that_tools_made_of_a_path_find_the_file(entry: str, file: str) -> None:
    names = FileNames(["other.jpg", entry], [file, "unrelated.png"])
    assert names.find(file) == ([1], None)
    assert names.without_file() == [0]


def test_only_the_name_of_an_upload_means_a_file_with_spaces() -> None:
    assert FileNames(["my_a.jpg"], ["my a.jpg"]).find("my a.jpg") == ([], None)
    twins = FileNames(["0a1b2c3d-my_a.jpg"], ["my a.jpg", "my (a).jpg"])
    assert twins.find("my a.jpg") == ([], None)
    assert twins.without_file() == [0]


def test_the_folders_own_name_tells_which_of_two_is_meant() -> None:
    entries = ["north/0001.png", "south/0001.png", "old/south/0001.png"]
    for folder, meant in (("/data/south", 1), ("/data/old/south", 2), ("/data/north", 0)):
        names = FileNames(entries, ["0001.png"], Path(folder))
        assert names.find("0001.png") == ([meant], None)
        assert names.without_file() == sorted({0, 1, 2} - {meant})


def test_an_exact_name_is_not_taken_where_the_folder_says_another() -> None:
    names = FileNames(["0001.png", "south/0001.png"], ["0001.png"], Path("/data/south"))
    numbers, doubt = names.find("0001.png")
    assert numbers == []
    assert doubt == "both 0001.png and south/0001.png are annotated: which is meant?"
    whole = FileNames(["0001.png", "south/0001.png"], ["0001.png", "south/0001.png"], Path("/data"))
    assert [whole.find(name)[0] for name in ("0001.png", "south/0001.png")] == [[0], [1]]


def test_many_folders_with_the_same_names_below_another_root_are_told_apart() -> None:
    entries = [f"export/scan{n}/slice.png" for n in range(500)]
    files = [f"scan{n}/slice.png" for n in reversed(range(500))]
    names = FileNames(entries, files)
    assert all(names.find(f"scan{n}/slice.png") == ([n], None) for n in range(500))
    assert names.without_file() == []
