"""A TCP proxy in front of an S3 server, with faults on demand."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

DELAY_SECONDS = 2.0
READ_BYTES = 65_536
ERROR = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>by the proxy</Message>'
    b"</Error>"
)


class Fault(Enum):
    """The fault of a request."""

    NONE = "none"
    ERROR = "500"
    SLOW_DOWN = "503 SlowDown"
    SILENT = "no answer"
    CUT_ANSWER = "answer closed half-way"
    CUT_REQUEST = "request closed half-way"
    DELAY = "2 s delay"


FAULTS = list(Fault)


class FaultyProxy:
    """Forwards connections to `target`, in a process of its own: deltalake keeps the interpreter's
    lock while it waits for an answer. From the next request on, also of a connection that is open,
    `fault` is done to each `every`-th; `faults` counts them."""

    def __init__(self, target: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._shared = context.Array("i", [0, 1, 0])
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        arguments = (target, self._listening, self._shared)
        self._process = context.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    @property
    def faults(self) -> int:
        """Number of disturbed requests."""
        return int(self._shared[2])

    def disturb(self, fault: Fault, every: int = 1) -> None:
        """Set the fault of following requests."""
        with self._shared.get_lock():
            self._shared[0], self._shared[1] = FAULTS.index(fault), every

    def close(self) -> None:
        """Stop the proxy and close its connections."""
        self._process.kill()
        self._process.join()
        self._listening.close()


def _run(target: str, listening: socket.socket, shared: Any) -> None:
    _Forwarder(target, shared).accept(listening)


class _Forwarder:
    def __init__(self, target: str, shared: Any) -> None:
        parts = urlsplit(target)
        self._target = str(parts.hostname), int(parts.port or 80)
        self._shared, self._requests = shared, 0

    def accept(self, listening: socket.socket) -> None:
        while True:
            client, _ = listening.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, self._connect() as server:
            for first in _requests(client, server):
                fault = self._next_fault()
                if fault is Fault.DELAY:
                    time.sleep(DELAY_SECONDS)
                if fault in (Fault.NONE, Fault.DELAY):
                    server.sendall(first)
                    continue
                self._do(fault, first, client, server)
                return

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._target, timeout=10)

    def _fault(self) -> Fault:
        return FAULTS[int(self._shared[0])]

    def _next_fault(self) -> Fault:
        with self._shared.get_lock():
            if (fault := self._fault()) is Fault.NONE:
                return fault
            self._requests += 1
            if self._requests % self._shared[1]:
                return Fault.NONE
            self._shared[2] += 1
            return fault

    def _do(self, fault: Fault, first: bytes, client: socket.socket, server: socket.socket) -> None:
        if fault is Fault.SILENT:
            while self._fault() is Fault.SILENT:
                ready, _, _ = select.select([client], [], [], 0.1)
                if ready and not client.recv(READ_BYTES):
                    return
            return
        if fault in (Fault.ERROR, Fault.SLOW_DOWN):
            _read_rest(first, client, _length(first))
            status, code = {
                Fault.ERROR: (b"500 Internal Server Error", b"InternalError"),
                Fault.SLOW_DOWN: (b"503 Slow Down", b"SlowDown"),
            }[fault]
            body = ERROR % code
            client.sendall(
                b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%s" % (status, len(body), body)
            )
            return
        if fault is Fault.CUT_REQUEST:
            server.sendall(first[: len(first) // 2])
        else:
            self._cut_answer(first, client, server)
        _reset(client)
        _reset(server)

    def _cut_answer(self, first: bytes, client: socket.socket, server: socket.socket) -> None:
        """The server executes the request, and the client receives half of the answer."""
        server.sendall(first)
        answer = b""
        while True:
            ready, _, _ = select.select([client, server], [], [], 5)
            if client in ready:
                server.sendall(client.recv(READ_BYTES))
            if server in ready:
                answer += (data := server.recv(READ_BYTES))
                if answer.startswith(b"HTTP/1.1 100 "):
                    client.sendall(answer)
                    answer = b""
                elif b"\r\n\r\n" in answer or not data:
                    break
            if not ready:
                return
        client.sendall(answer[: len(answer) // 2])


def _requests(client: socket.socket, server: socket.socket) -> Iterator[bytes]:
    """Relay a connection until one side closes it; each first part of a request is left to the
    caller: what a client sends after the server has said something, or first of all."""
    is_new = True
    while True:
        ready, _, _ = select.select([client, server], [], [])
        if server in ready:
            if not (data := server.recv(READ_BYTES)):
                return
            client.sendall(data)
            is_new = not data.startswith(b"HTTP/1.1 100 ")  # the body of the same request follows
        elif client in ready:
            if not (data := client.recv(READ_BYTES)):
                return
            if is_new:
                is_new = False
                yield data
            else:
                server.sendall(data)


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def _read_rest(first: bytes, client: socket.socket, length: int) -> None:
    """Read the body, unless the client waits for permission to send it."""
    head, _, body = first.partition(b"\r\n\r\n")
    left = 0 if b"100-continue" in head.lower() else length - len(body)
    while left > 0 and (data := client.recv(READ_BYTES)):
        left -= len(data)


def _reset(connection: socket.socket) -> None:
    """Close with a reset, as after a crash."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
