"""Health check of Prefect: whether a server answers, its version, and its workers."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from flows.prefect_api.client import api_url, login

SECONDS = 10.0
"""How long the server may take to answer."""


def look(root: Path, pool: str) -> tuple[str, str, str]:
    """Check the server, its version and its workers.

    Returns:
        What was found, what to do, and the level (`ok`, `look`, `wrong`).

    Raises:
        httpx.HTTPError: the server does not answer, or refuses.
    """
    url = api_url(root)
    if url is None:
        return "no server; commands start a temporary one", "", "ok"
    with httpx.Client(base_url=url, timeout=SECONDS, **login(root)) as client:
        _get(client, "/health")
        theirs, ours = str(_get(client, "/admin/version")), version("prefect")
        if theirs != ours:
            do = f"install prefect=={theirs} here, or {ours} on the server"
            return f"the server at {url} is {theirs}, this is {ours}", do, "wrong"
        online, paused = _workers(client, pool)
    detail = f"{url}, version {ours}"
    if online is None:
        return f"{detail}; no work pool {pool!r}", "`dataengine deploy` creates it", "look"
    if paused:
        return f"{detail}; work pool {pool!r} is paused", "resume it in Prefect", "look"
    if not online:
        do = f"start one: `dataengine up`, or `prefect worker start --pool {pool}`"
        return f"{detail}; no worker of pool {pool!r} is online: nothing will run", do, "look"
    return f"{detail}; {online} workers of pool {pool!r}", "", "ok"


def _workers(client: httpx.Client, pool: str) -> tuple[int | None, bool]:
    """How many workers of the pool are online (None: no such pool), and whether it is paused."""
    answer = client.get(f"/work_pools/{pool}")
    if answer.status_code == 404:
        return None, False
    answer.raise_for_status()
    workers = client.post(f"/work_pools/{pool}/workers/filter", json={})
    workers.raise_for_status()
    online = sum(worker.get("status") == "ONLINE" for worker in workers.json())
    return online, bool(answer.json().get("is_paused"))


def _get(client: httpx.Client, path: str) -> Any:
    answer = client.get(path)
    answer.raise_for_status()
    return answer.json()
