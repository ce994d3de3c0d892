"""`dataengine annotate` and `dataengine annotators`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from engine.annotation.access import LOCAL
from flows.cli.commands import LOOP, JsonOption, example, in_workspace, print_json
from flows.page.make_app import make_app
from flows.workspace.console import console, errors
from flows.workspace.settings import WorkspaceError

if TYPE_CHECKING:
    from flows.workspace.workspace import Workspace

app = typer.Typer(rich_markup_mode="markdown")
annotators = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Annotators: people who may use the annotation page.",
    epilog=example("dataengine annotators add ada --role reviewer", "dataengine annotators list"),
)


RoleOption = Annotated[str, typer.Option(help="Role: annotator, reviewer or admin.")]


HostOption = Annotated[str, typer.Option(help="Address to listen on.")]


PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")]


@app.command(
    rich_help_panel=LOOP,
    epilog=example("dataengine annotate --open", "dataengine annotate --host 0.0.0.0"),
)
def annotate(
    host: HostOption = "127.0.0.1",
    port: PortOption = 8765,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            help="Further host names to answer to, for example behind a proxy.",
        ),
    ] = None,
) -> None:
    """Start the annotation page: annotate, complete, review, and a dashboard.

    On 127.0.0.1, as long as no annotator is added, users of this machine need no sign-in. Any other
    address or host name needs annotators (`dataengine annotators add`) and a TLS proxy in front.
    """
    import uvicorn

    with in_workspace() as workspace:
        served = make_app(workspace, host, name or [])
        config = uvicorn.Config(
            served,
            host=host,
            port=port,
            log_level="warning",
            log_config=None,  # `flows.workspace.logs` sets up the log
            timeout_graceful_shutdown=2,
            server_header=False,
            proxy_headers=False,  # the app itself handles those of trusted proxies
        )
        server = uvicorn.Server(config)
        threading.Thread(target=_announce, args=(server, host, open_page), daemon=True).start()
        server.run()
        if not server.started:
            raise WorkspaceError(f"port {port} of {host} cannot be used; choose another --port")


def _announce(server: Any, host: str, open_page: bool) -> None:
    """Print the page's address once the server listens."""
    import time
    import webbrowser

    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://{host}:{port}/"
    console.print(f"annotation page: {url}   (Ctrl-C stops it; nothing is lost)")
    if open_page:
        webbrowser.open(url)


@annotators.command(epilog=example("dataengine annotators add ada --role reviewer"))
def add(
    name: Annotated[str, typer.Argument(help="Name of the annotator.")],
    role: RoleOption = "annotator",
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="Datasets that they may see; `*`: all."),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Address of the page, for the link.")
    ] = "http://127.0.0.1:8765",
    as_json: JsonOption = False,
) -> None:
    """Add an annotator, or change their role or datasets, and print a sign-in link that works once,
    for seven days. Without --dataset a new annotator sees all datasets."""
    from engine.annotation.access import ROLES, new_link_token

    if role not in ROLES:
        raise typer.BadParameter(f"there are {', '.join(ROLES)}", param_hint="--role")
    with in_workspace(as_json) as workspace:
        people = workspace.catalog.annotators
        chosen = _dataset_ids(workspace, dataset or [])  # raises if there is none
        person = people.get_or_create(name, role=role)
        if person.kind != "person" or name == LOCAL:
            raise typer.BadParameter(f"{name!r} is taken", param_hint="NAME")
        if dataset:
            people.set_datasets(person.id, chosen)
        people.set_role(person.id, role)
        people.enable(person.id)
        link = f"{url.rstrip('/')}/sign-in#{new_link_token(workspace.catalog, person)}"
        workspace.catalog.audit.add("annotator_added", name, role=role, datasets=dataset)
    if as_json:
        print_json({"name": name, "role": role, "link": link})
    else:
        errors.print(f"{name} is {role}; this link signs them in once, within seven days:")
        print(link)


def _dataset_ids(workspace: Workspace, names: list[str]) -> list[int] | None:
    if "*" in names:
        return None
    return [workspace.catalog.datasets.get(name).id for name in names]


@annotators.command("list", epilog=example("dataengine annotators list --json"))
def list_people(as_json: JsonOption = False) -> None:
    """List the annotators with their work."""
    with in_workspace(as_json) as workspace:
        from flows.operations.dashboard import annotator_rows

        rows = annotator_rows(workspace)
    if as_json:
        print_json({"annotators": rows})
        return
    table = Table("name", "role", "datasets", "tasks", "masks", "s/mask", "last seen")
    for row in rows:
        pace = "–" if row["seconds_per_mask"] is None else f"{row['seconds_per_mask']:.1f}"
        seen = "–" if row["last_seen"] is None else f"{row['last_seen']:%Y-%m-%d %H:%M}"
        datasets = "all" if row["datasets"] is None else ", ".join(row["datasets"]) or "none"
        done = (str(row["tasks"]), str(row["masks"]))
        table.add_row(row["name"], row["role"], datasets, *done, pace, seen)
    console.print(table)


@annotators.command(epilog=example("dataengine annotators token ada --name nightly --days 30"))
def token(
    name: Annotated[str, typer.Argument(help="Name of the annotator.")],
    purpose: Annotated[str, typer.Option("--name", help="What the token is for.")] = "script",
    days: Annotated[int, typer.Option(min=1, max=366, help="Days that it is valid.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Make an API token, with which a script acts as an annotator, and print it this once."""
    from engine.annotation.team import make_token

    with in_workspace(as_json) as workspace:
        person = workspace.catalog.annotators.find(name)
        if person is None or person.disabled_at is not None:
            raise typer.BadParameter(f"there is no annotator {name!r}", param_hint="NAME")
        secret, stored = make_token(workspace.catalog, person, purpose, days)
        workspace.catalog.audit.add("token_made", name, token=purpose, days=days)
    if as_json:
        print_json({"name": name, "token": secret, "expires_at": stored.expires_at})
    else:
        errors.print(f"{name}'s API token, valid until {stored.expires_at:%Y-%m-%d}:")
        print(secret)


@annotators.command(epilog=example("dataengine annotators remove ada"))
def remove(name: Annotated[str, typer.Argument(help="Name of the annotator.")]) -> None:
    """Sign an annotator out everywhere, and revoke their link and API tokens. Their work stays."""
    from engine.annotation.team import disable

    with in_workspace() as workspace:
        person = workspace.catalog.annotators.find(name)
        if person is None:
            raise typer.BadParameter(f"there is no annotator {name!r}", param_hint="NAME")
        disable(workspace.catalog, workspace.queue, person)
        workspace.catalog.audit.add("annotator_removed", name)
    console.print(f"{name} is signed out; `dataengine annotators add {name}` creates a new link")
