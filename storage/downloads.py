"""Large files over HTTP: resumed where they stopped, checked before they get their name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import httpx

from engine.core.errors import DataEngineError

MAX_WAIT_S = 30.0
"""The longest pause between two tries."""
TIMEOUT_S = 30.0
"""How long a silent connection is waited for."""
BUSY = (408, 425, 429)
"""HTTP statuses, besides all from 500, that a later try may not meet."""

Tell = Callable[[int, int | None], None]
"""tell(done, total): bytes that are there, of how many; None where the server does not say."""


class DownloadError(DataEngineError):
    """The file could not be fetched, or is not the one expected; the message says what to do."""


class _TryAgainError(Exception):
    """The server is busy or broke its answer off."""


def check_address(url: str) -> str:
    """The address without user name, password and query, which may hold secrets: for messages
    and cards.

    Raises:
        DownloadError: it is no address of a file by http or https.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise DownloadError(f"{url!r} is no address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise DownloadError(f"{url!r} does not start with http:// or https:// and a host")
    return str(parsed.copy_with(userinfo=b"", query=None, fragment=None))


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    url: str,
    path: Path,
    sha256: str,
    *,
    tell: Tell = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
    attempts: int = 6,
    wait_s: float = 1.0,
) -> None:
    """Bring a file here, unless it is here already. What has come is kept in `<path>.partial`
    whatever happens, and the next call goes on from there (RFC 9110, section 14).

    Args:
        url: http or https.
        path: name of the whole and checked file; its folder is made if it is missing.
        sha256: of the content, in hex.
        tell: hears how far it is.
        say: hears of lost connections.
        attempts: how many tries in a row may bring nothing new.
        wait_s: pause after the first of them, in seconds; doubled after each.

    Raises:
        DownloadError: the server refuses or stays away, the disk is full, another process is at
            it, or the content is another one, which is then moved to `<path>.bad`.
    """
    address = check_address(url)
    partial = path.with_name(f"{path.name}.partial")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:
                _lock(file, partial)
                try:
                    _Transfer(url, address, file, tell, say).run(attempts, wait_s)
                    file.flush()
                    os.fsync(file.fileno())
                    _check(partial, path, sha256, address)
                    partial.replace(path)
                finally:
                    if partial.exists() and not partial.stat().st_size:
                        partial.unlink()
        else:
            _check(path, path, sha256, address)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error}; what has come is kept, the same command goes on"
        ) from error


def _lock(file: BinaryIO, partial: Path) -> None:
    """Two processes that append to one file would spoil it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(f"another process is fetching {partial}; wait for it") from error


def _check(found: Path, path: Path, sha256: str, address: str) -> None:
    digest = sha256_of(found)
    if digest == sha256.lower():
        return
    bad, size = path.with_name(f"{path.name}.bad"), found.stat().st_size
    found.replace(bad)
    raise DownloadError(
        f"{address} gave another file: expected SHA-256 {sha256.lower()}, found {digest} "
        f"({size} bytes, now {bad}). Try again, which starts from nothing; if that ends the same, "
        "take another source (--url), or give the file's own SHA-256 if you trust it (--sha256)"
    )


class _Transfer:
    """One file on its way; the end of `file` is how far it is."""

    def __init__(
        self, url: str, address: str, file: BinaryIO, tell: Tell, say: Callable[[str], None]
    ) -> None:
        self._url, self._address, self._file = url, address, file
        self._tell, self._say = tell, say

    def run(self, attempts: int, wait_s: float) -> None:
        """Read to the end, over as many connections as it takes."""
        furthest, failures = self._file.tell(), 0
        timeout = httpx.Timeout(TIMEOUT_S, connect=10)
        with httpx.Client(follow_redirects=True, timeout=timeout) as client:
            while True:
                try:
                    self._read(client)
                    return
                except httpx.UnsupportedProtocol as error:
                    raise DownloadError(f"{self._address} leads elsewhere: {error}") from error
                except (httpx.TransportError, _TryAgainError) as error:
                    reason = str(error) or type(error).__name__
                except httpx.HTTPError as error:
                    raise DownloadError(f"{self._address}: {error}") from error
                there = self._file.tell()
                failures = 1 if there > furthest else failures + 1
                furthest = max(there, furthest)
                if failures >= attempts:
                    raise DownloadError(
                        f"{self._address} cannot be reached, tried {attempts} times: {reason}; "
                        f"{there} bytes are kept, the same command goes on from there"
                    )
                pause = min(wait_s * 2 ** (failures - 1), MAX_WAIT_S)
                self._say(f"{reason}; trying again in {pause:.0f} s")
                time.sleep(pause)

    def _read(self, client: httpx.Client) -> None:
        """Append what is missing, over one connection."""
        have = self._file.tell()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with client.stream("GET", self._url, headers=headers) as response:
            if have and response.status_code == 416:
                if _extent(response)[1] in (have, None):
                    return  # it is all there; the checksum decides
                self._restart()
                raise _TryAgainError("what is there is longer than the file")
            total = self._begin(response, have)
            self._tell(self._file.tell(), total)
            for chunk in response.iter_raw():
                self._file.write(chunk)
                self._tell(self._file.tell(), total)
            if total is not None and self._file.tell() < total:
                raise _TryAgainError("the connection ended early")

    def _begin(self, response: httpx.Response, have: int) -> int | None:
        """Make the file end where the answer begins.

        Returns:
            Bytes of the whole file; None where the server does not say.
        """
        status = response.status_code
        if status in BUSY or status >= 500:
            raise _TryAgainError(f"the server answered HTTP {status}")
        if status not in (200, 206):
            raise DownloadError(
                f"{self._address} answered HTTP {status} {response.reason_phrase}; "
                "check the address, or give another one with --url"
            )
        start, total = _extent(response)
        if start != have:
            self._say("the server does not go on where it was; starting again")
            self._restart()
            if start:
                raise _TryAgainError("the server answered with another part of the file")
        return total

    def _restart(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """Where in the file the answer begins, -1 if it does not say, and the size of the whole file
    if it is told."""
    if response.status_code == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdigit() else None
    told = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("content-range", "")
    )
    if told is None:
        return -1, None
    return int(told[1] or 0), int(told[2]) if told[2] else None
