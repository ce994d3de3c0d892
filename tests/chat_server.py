"""A real HTTP server with OpenAI's chat interface, whose answers are recorded."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np


@dataclass
class ChatServer:
    """The server's state: each request takes the next of `faults`; later ones are answered.

    A fault is an HTTP status, a body that is sent as it is, or seconds of silence (a float).
    """

    answer: Callable[[str], str]
    """From a question, without its pictures."""
    reply: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """From a request to the choice that is sent, in place of `answer`."""
    other: Callable[[str, bytes], dict[str, Any]] | None = None
    """From path and body of a request that is no chat to the JSON that is sent."""
    faults: list[int | bytes | float] = field(default_factory=list)
    key: str = ""
    """If any, requests without it get 401."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def asked_in(body: dict[str, Any]) -> str:
    """The text of a request's question."""
    content = body["messages"][0]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def pictures_in(body: dict[str, Any]) -> list[np.ndarray]:
    """The pictures of a request's question, RGB uint8 (H, W, 3)."""
    urls = [p["image_url"]["url"] for p in body["messages"][0]["content"] if p["type"] != "text"]
    coded = (base64.b64decode(url.partition(",")[2]) for url in urls)
    found = (cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR) for one in coded)
    return [np.asarray(one)[:, :, ::-1] for one in found]


def said(text: str, first_token: dict[str, float] | None = None) -> dict[str, Any]:
    """A choice: what was said, with log-probabilities of the first token, if any."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    if first_token is not None:
        rows = [{"token": token, "logprob": value} for token, value in first_token.items()]
        choice["logprobs"] = {"content": [{"token": text, "top_logprobs": rows}]}
    return choice


@contextmanager
def chatting(answer: Callable[[str], str], key: str = "") -> Iterator[ChatServer]:
    """A server on a free port, stopped afterwards."""
    state = ChatServer(answer, key=key)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.path.endswith("/chat/completions"):
                assert state.other is not None
                self._send(200, json.dumps(state.other(self.path, content)).encode())
                return
            body = json.loads(content)
            state.requests.append({"path": self.path, **body})
            fault = state.faults.pop(0) if state.faults else None
            if isinstance(fault, float):
                time.sleep(fault)
            elif isinstance(fault, bytes):
                self._send(200, fault)
            elif fault is not None:
                self._send(fault, b'{"error": {"message": "busy"}}')
            elif state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
                message = f"Incorrect API key provided: {self.headers.get('Authorization')}"
                self._send(401, json.dumps({"error": {"message": message}}).encode())
            else:
                choice = state.reply(body) if state.reply else said(state.answer(asked_in(body)))
                self._send(200, json.dumps({"choices": [choice]}).encode())

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
