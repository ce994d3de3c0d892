"""Download large files over HTTP: resumable, and verified before they get their final name."""

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
"""The longest pause between two attempts."""
TIMEOUT_S = 30.0
"""How long to wait for a silent connection."""
BUSY = (408, 425, 429)
"""HTTP statuses, besides all from 500, that are worth a retry."""

OnProgress = Callable[[int, int | None], None]
"""on_progress(done, total): bytes downloaded and in total; None if the server sends no total."""


class DownloadError(DataEngineError):
    """The file cannot be downloaded or has other content; the message says what to do."""


class _TryAgainError(Exception):
    """The server is busy or broke the response off."""


def check_address(url: str) -> str:
    """The URL for messages and cards: without user name, password and query, which may be secret.

    Raises:
        DownloadError: it is not an http or https URL.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise DownloadError(f"{url!r} is not a URL: {error}") from error
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
    on_progress: OnProgress = lambda done, total: None,
    on_message: Callable[[str], None] = lambda text: None,
    attempts: int = 6,
    wait_s: float = 1.0,
) -> None:
    """Download a file, unless it exists. A failure keeps the downloaded part in `<path>.partial`,
    and the next call resumes there (RFC 9110, section 14).

    Args:
        url: http or https.
        path: of the complete, verified file; its folder is made if missing.
        sha256: of the content, in hex.
        on_progress: called with the bytes so far.
        on_message: called with a message for each lost connection.
        attempts: how many attempts in a row may download nothing.
        wait_s: pause after the first of them, in seconds; doubled after each.

    Raises:
        DownloadError: the server refuses or does not answer, the disk is full, another process
            downloads the file, or the content differs; it is then moved to `<path>.bad`.
    """
    address = check_address(url)
    partial = path.with_name(f"{path.name}.partial")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:
                _lock(file, partial)
                try:
                    _Transfer(url, address, file, on_progress, on_message).run(attempts, wait_s)
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
            f"{path} cannot be written: {error}; the part so far is kept, the same command resumes"
        ) from error


def _lock(file: BinaryIO, partial: Path) -> None:
    """Lock the file: two processes appending to it would corrupt it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(f"another process is downloading {partial}; wait for it") from error


def _check(found: Path, path: Path, sha256: str, address: str) -> None:
    digest = sha256_of(found)
    if digest == sha256.lower():
        return
    bad, size = path.with_name(f"{path.name}.bad"), found.stat().st_size
    found.replace(bad)
    raise DownloadError(
        f"{address} sent another file: expected SHA-256 {sha256.lower()}, found {digest} "
        f"({size} bytes, now {bad}). Try again, which starts over; if that fails too, use another "
        "source (--url), or give the file's own SHA-256 if you trust it (--sha256)"
    )


class _Transfer:
    """One download; the length of `file` is the progress."""

    def __init__(
        self,
        url: str,
        address: str,
        file: BinaryIO,
        on_progress: OnProgress,
        on_message: Callable[[str], None],
    ) -> None:
        self._url, self._address, self._file = url, address, file
        self._on_progress, self._on_message = on_progress, on_message

    def run(self, attempts: int, wait_s: float) -> None:
        """Download to the end, over as many connections as needed."""
        furthest, failures = self._file.tell(), 0
        timeout = httpx.Timeout(TIMEOUT_S, connect=10)
        with httpx.Client(follow_redirects=True, timeout=timeout) as client:
            while True:
                try:
                    self._read(client)
                    return
                except httpx.UnsupportedProtocol as error:
                    raise DownloadError(f"{self._address} redirects elsewhere: {error}") from error
                except (httpx.TransportError, _TryAgainError) as error:
                    reason = str(error) or type(error).__name__
                except httpx.HTTPError as error:
                    raise DownloadError(f"{self._address}: {error}") from error
                done = self._file.tell()
                failures = 1 if done > furthest else failures + 1
                furthest = max(done, furthest)
                if failures >= attempts:
                    raise DownloadError(
                        f"{self._address} cannot be reached, tried {attempts} times: {reason}; "
                        f"{done} bytes are kept, the same command resumes there"
                    )
                pause = min(wait_s * 2 ** (failures - 1), MAX_WAIT_S)
                self._on_message(f"{reason}; trying again in {pause:.0f} s")
                time.sleep(pause)

    def _read(self, client: httpx.Client) -> None:
        """Append the missing part, over one connection."""
        have = self._file.tell()
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with client.stream("GET", self._url, headers=headers) as response:
            if have and response.status_code == 416:
                if _extent(response)[1] in (have, None):
                    return  # complete; the checksum decides
                self._restart()
                raise _TryAgainError("the part so far is longer than the file")
            total = self._begin(response, have)
            self._on_progress(self._file.tell(), total)
            for chunk in response.iter_raw():
                self._file.write(chunk)
                self._on_progress(self._file.tell(), total)
            if total is not None and self._file.tell() < total:
                raise _TryAgainError("the connection ended early")

    def _begin(self, response: httpx.Response, have: int) -> int | None:
        """Check the response, and restart the file if the response does not continue it.

        Returns:
            Bytes of the whole file; None if the server does not send it.
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
            self._on_message("the server does not resume; starting again")
            self._restart()
            if start:
                raise _TryAgainError("the server answered with another part of the file")
        return total

    def _restart(self) -> None:
        self._file.truncate(0)
        self._file.seek(0)


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """The offset in bytes at which the response begins, -1 if unknown, and the size of the whole
    file if known."""
    if response.status_code == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isdigit() else None
    match = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("content-range", "")
    )
    if match is None:
        return -1, None
    return int(match[1] or 0), int(match[2]) if match[2] else None
