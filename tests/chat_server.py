"""A real HTTP server with OpenAI's chat interface, whose answers are recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ChatServer:
    """The server's state: each request takes the next of `faults`; later ones are answered.

    A fault is an HTTP status, a body that is sent as it is, or seconds of silence (a float).
    """

    answer: Callable[[str], str]
    """From a question."""
    faults: list[int | bytes | float] = field(default_factory=list)
    key: str = ""
    """If any, requests without it get 401."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def chatting(answer: Callable[[str], str], key: str = "") -> Iterator[ChatServer]:
    """A server on a free port, stopped afterwards."""
    state = ChatServer(answer, key=key)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append({"path": self.path, **body})
            fault = state.faults.pop(0) if state.faults else None
            if isinstance(fault, float):
                time.sleep(fault)
            elif isinstance(fault, bytes):
                self._send(200, fault)
            elif fault is not None:
                self._send(fault, b'{"error": {"message": "busy"}}')
            elif state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
                said = f"Incorrect API key provided: {self.headers.get('Authorization')}"
                self._send(401, json.dumps({"error": {"message": said}}).encode())
            else:
                text = state.answer(body["messages"][0]["content"])
                message = {"role": "assistant", "content": text}
                self._send(200, json.dumps({"choices": [{"message": message}]}).encode())

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

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
