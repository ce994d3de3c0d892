"""A real HTTP server with one file and the faults that servers have."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """The served file, and its faults: each request takes the next of `faults`; later ones
    succeed.

    Faults: `drop` (half of what is left, then the connection ends), `nothing` (it ends at once),
    `whole` (as if there were no Range), `elsewhere` (another part than asked for), `unsaid`
    (a part, without saying which), or a number (that HTTP status).
    """

    content: bytes
    faults: list[str | int] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    """What was asked for so far."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/sam.pth"


@contextmanager
def serving(content: bytes) -> Iterator[FileServer]:
    """A server on a free port, stopped afterwards."""
    state = FileServer(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            fault = state.faults.pop(0) if state.faults else ""
            if isinstance(fault, int):
                self.send_error(fault)
            elif fault != "nothing":
                self._answer(asked, fault)
            self.close_connection = True

        def _answer(self, asked: str | None, fault: str) -> None:
            found = re.fullmatch(r"bytes=(\d+)-", asked or "")
            start, size = int(found[1]) if found and fault != "whole" else 0, len(state.content)
            if start >= size > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.end_headers()
                return
            start += fault == "elsewhere"
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start and fault != "unsaid":
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if fault == "drop" else body)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
