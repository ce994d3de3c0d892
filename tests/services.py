"""Real servers for tests, each started on free ports and stopped with its test session."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

START_SECONDS = 60.0

WEED = Path(sys.executable).with_name("weed")
"""Of the package seaweedfs, beside this Python whether its environment is active or not."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """Address and keys of a running S3."""

    endpoint_url: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


def free_ports(count: int) -> list[int]:
    """Distinct free TCP ports of 127.0.0.1."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [int(opened.getsockname()[1]) for opened in sockets]


@contextlib.contextmanager
def running_seaweedfs(
    folder: Path, keys: tuple[str, str] = ("test-access", "test-secret")
) -> Iterator[S3Server]:
    """A SeaweedFS with its data in `folder` (created if missing), one empty bucket, and these
    access and secret keys.

    Raises:
        RuntimeError: it ended or did not answer within START_SECONDS; the message has its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = ("master", "volume", "filer", "admin", "s3")
    ports = free_ports(2 * len(parts))
    server = S3Server(f"http://127.0.0.1:{ports[-2]}", "engine", *keys)
    command = [str(WEED), "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-bucket={server.bucket}", "-webdav=false", "-admin.ui=false"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    for part, http, grpc in zip(parts, ports[::2], ports[1::2], strict=True):
        command += [f"-{part}.port={http}", f"-{part}.port.grpc={grpc}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    environment |= {"AWS_ACCESS_KEY_ID": keys[0], "AWS_SECRET_ACCESS_KEY": keys[1]}
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_s3(server, process, folder / "weed.log")
        yield server
    finally:
        _end_group(process)
        for port in ports:  # It does not delete its sockets.
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


def _wait_for_s3(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
            client.delete_object(Bucket=server.bucket, Key="ready")
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SeaweedFS did not start: {error}\n{tail}") from error
        time.sleep(0.1)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
