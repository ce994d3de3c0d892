"""Commands replace only files in a user's folder that they wrote."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from storage.formats.folders import OURS, list_images
from storage.formats.images import write_png
from storage.local_store import LocalStore
from storage.objects import StorageError
from storage.os_errors import sentence_of
from storage.outputs import LIST, OutputExistsError, OutputFolder, written_by_us

THEIRS = b"somebody else's"


def test_a_file_of_ours_is_written_again_until_somebody_changes_it(tmp_path: Path) -> None:
    OutputFolder(tmp_path / "out").write("a.json", "1")
    path = OutputFolder(tmp_path / "out").write("a.json", "2")
    assert path.read_text() == "2"
    path.write_bytes(THEIRS)
    with pytest.raises(OutputExistsError, match=r"a\.json was not written by dataengine"):
        OutputFolder(tmp_path / "out").write("a.json", "3")
    assert path.read_bytes() == THEIRS


@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling"])
def test_what_is_in_the_way_stays_whatever_it_is(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "a.json", tmp_path / "other"
    other.write_bytes(THEIRS)
    if kind == "file":
        path.write_bytes(THEIRS)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(other if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(OutputExistsError):
        OutputFolder(tmp_path).write("a.json", "ours")
    assert other.read_bytes() == THEIRS
    assert OutputFolder(tmp_path).fresh_stem("a", [".json"], "a.png") == "a-2"


def test_names_that_are_made_up_never_meet(tmp_path: Path) -> None:
    """Names collide neither with each other, nor with existing files, nor over several runs."""
    (tmp_path / "a-3.png").write_bytes(THEIRS)
    sources = ["a-2.png", "a.png", "a.jpg", "sub/a.png", f"{'x' * 251}.png", f"{'x' * 251}.jpg"]
    endings = (".json", ".png")

    def run() -> dict[str, str]:
        folder, found = OutputFolder(tmp_path), {}
        for source in sources:
            found[source] = folder.fresh_stem(Path(source).stem, endings, source)
            for ending in endings:
                folder.write(found[source] + ending, source, source)
        return found

    first = run()
    assert len(set(first.values())) == len(sources)
    assert first["a-2.png"] == "a-2"
    assert "a-3" not in first.values()
    assert run() == first
    assert (tmp_path / "a-3.png").read_bytes() == THEIRS
    for source, stem in first.items():
        assert (tmp_path / f"{stem}.json").read_text() == source


def test_a_run_that_was_killed_leaves_files_that_are_still_ours(tmp_path: Path) -> None:
    """The list is written before the file, so either of two contents may exist."""
    folder = OutputFolder(tmp_path)
    folder.write("a.json", "old")

    def stopped() -> None:
        with folder.writing("a.json") as fresh:
            fresh.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (tmp_path / "a.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LIST, "a.json"]
    with (tmp_path / LIST).open("a") as file:
        file.write('\n{"name": "a.js')
    for content in ("new", "newer"):
        OutputFolder(tmp_path).write("a.json", content)
        assert (tmp_path / "a.json").read_text() == content


def test_our_pictures_are_nobodys_input_also_in_a_copy_of_the_folder(tmp_path: Path) -> None:
    picture = write_png(np.full((8, 8, 3), 90, np.uint8))
    for place in ("here", "copy"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "photo.png").write_bytes(picture)
    ours = OutputFolder(tmp_path / "here").write("overlay.png", picture + b"1")
    for name in (LIST, "overlay.png"):
        (tmp_path / "copy" / name).write_bytes((tmp_path / "here" / name).read_bytes())
    told: list[tuple[str, str]] = []
    found = list_images(tmp_path, lambda path, kind: told.append((path.name, kind)))
    assert [path.name for path in found] == ["photo.png"] * 2
    assert told == [(LIST, OURS), ("overlay.png", OURS)] * 2
    assert written_by_us([ours, tmp_path / "here" / "photo.png"]) == {ours}
    ours.write_bytes(picture)  # now a picture of the user has the name
    assert ours in list_images(tmp_path)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "choose another place, or mount"),
        (errno.EACCES, "check who owns it"),
        (errno.EIO, "check that the drive works"),
    ],
)
def test_a_write_that_the_system_refuses_names_the_file_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, "refused")  # without a file's name, as of a write

    folder = OutputFolder(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match="refused") as caught:
        folder.write("a.json", "1")
    sentence = sentence_of(caught.value)
    assert sentence is not None
    assert sentence.startswith(f"{tmp_path / 'a.json'}: refused; {told}")
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_hard_links_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", "a", None, "b")

    monkeypatch.setattr("storage.local_files.os.link", refuse)
    with pytest.raises(StorageError, match=r"a/b: .* no hard links; .*\[store\]"):
        LocalStore(tmp_path).put("a/b", b"1")
