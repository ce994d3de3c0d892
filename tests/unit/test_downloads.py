"""Downloads end with the right file or an error with advice, and resume."""

from __future__ import annotations

import hashlib
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from storage.downloads import DownloadError, check_address, fetch
from tests.file_server import FileServer, serving

CONTENT = random.Random(1).randbytes(1_000_003)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as state:
        yield state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "sam.pth"


def partial(path: Path) -> Path:
    return path.with_name("sam.pth.partial")


def get(server: FileServer, path: Path, **options: object) -> list[tuple[int, int | None]]:
    """Download, and return the reported progress."""
    told: list[tuple[int, int | None]] = []
    fetch(
        server.url,
        path,
        SHA256,
        on_progress=lambda done, total: told.append((done, total)),
        wait_s=0.001,
        **options,  # type: ignore[arg-type]
    )
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return told


def test_a_file_is_fetched_once(server: FileServer, path: Path) -> None:
    told = get(server, path)
    assert (told[0], told[-1]) == ((0, len(CONTENT)), (len(CONTENT), len(CONTENT)))
    get(server, path)
    assert server.ranges == [None]


def test_a_dropped_connection_is_taken_up_where_it_was(server: FileServer, path: Path) -> None:
    server.faults = ["drop", "drop"]
    told = get(server, path)
    half = len(CONTENT) // 2
    assert server.ranges == [None, f"bytes={half}-", f"bytes={half + (len(CONTENT) - half) // 2}-"]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {total for _, total in told} == {len(CONTENT)}


def test_connections_that_bring_something_are_no_failures(server: FileServer, path: Path) -> None:
    server.faults = ["drop"] * 9
    get(server, path, attempts=2)


@pytest.mark.parametrize("fault", ["whole", "elsewhere", "unsaid"])
def test_a_server_that_does_not_go_on_is_asked_for_everything(
    server: FileServer, path: Path, fault: str
) -> None:
    server.faults = ["drop", fault]
    get(server, path)
    assert server.ranges[2:] in ([], [None])


def test_busy_servers_are_asked_again(server: FileServer, path: Path) -> None:
    server.faults = [503, "nothing", 429, 500]
    get(server, path)


def test_a_server_that_stays_away_is_given_up_and_gone_on_with_later(
    server: FileServer, path: Path
) -> None:
    server.faults = ["drop", *["nothing"] * 3]
    with pytest.raises(DownloadError, match=r"tried 3 times.*500001 bytes are kept"):
        get(server, path, attempts=3)
    assert partial(path).read_bytes() == CONTENT[: len(CONTENT) // 2]
    get(server, path)
    assert server.ranges[-1] == "bytes=500001-"


def test_a_missing_file_is_not_asked_for_again(server: FileServer, path: Path) -> None:
    server.faults = [404]
    with pytest.raises(DownloadError, match=r"HTTP 404.*--url"):
        get(server, path)
    assert len(server.ranges) == 1
    assert list(path.parent.iterdir()) == []


def test_what_is_whole_already_is_only_checked(server: FileServer, path: Path) -> None:
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT)
    get(server, path)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]  # answered by 416


def test_what_is_longer_than_the_file_is_fetched_anew(server: FileServer, path: Path) -> None:
    path.parent.mkdir()
    partial(path).write_bytes(CONTENT + b"more")
    get(server, path)
    assert server.ranges == [f"bytes={len(CONTENT) + 4}-", None]


def test_another_file_is_set_aside_and_fetched_from_nothing_next_time(
    server: FileServer, path: Path
) -> None:
    other = CONTENT[:-1] + b"?"
    server.content = other
    with pytest.raises(DownloadError) as raised:
        get(server, path)
    for part in (SHA256, hashlib.sha256(other).hexdigest(), "sam.pth.bad", "--url", "--sha256"):
        assert part in str(raised.value)
    assert path.with_name("sam.pth.bad").read_bytes() == other
    path.with_name("sam.pth.bad").unlink()
    server.content = CONTENT
    get(server, path)
    assert server.ranges == [None, None]


def test_a_file_that_was_spoilt_after_it_came_is_not_taken(server: FileServer, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"spoilt")
    with pytest.raises(DownloadError, match="found"):
        get(server, path)
    assert not path.exists()


def test_ctrl_c_leaves_what_came(server: FileServer, path: Path) -> None:
    def stop(done: int, total: int | None) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, path, SHA256, on_progress=stop)
    kept = partial(path).read_bytes()
    assert len(kept) > 300_000
    assert CONTENT.startswith(kept)
    get(server, path)
    assert server.ranges[1] == f"bytes={len(kept)}-"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_came(server: FileServer, path: Path) -> None:
    with files_of_at_most(400_000), pytest.raises(DownloadError, match="cannot be written"):
        fetch(server.url, path, SHA256)
    assert partial(path).read_bytes() == CONTENT[:400_000]
    get(server, path)
    assert server.ranges[1] == "bytes=400000-"


def test_one_process_fetches_a_file_at_a_time(server: FileServer, path: Path) -> None:
    def meanwhile(done: int, total: int | None) -> None:
        with pytest.raises(DownloadError, match="another process"):
            fetch(server.url, path, SHA256)

    fetch(server.url, path, SHA256, on_progress=meanwhile)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/x", "sam.pth", "http://", "http://h:port/x"]
)
def test_only_http_addresses_are_taken(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"address|http://"):
        fetch(url, tmp_path / "x", SHA256)
    assert list(tmp_path.iterdir()) == []


def test_secrets_in_an_address_are_not_told() -> None:
    assert check_address("https://me:pw@host:8443/a.pth?token=1#x") == "https://host:8443/a.pth"
