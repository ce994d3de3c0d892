"""`dataengine webhooks`: addresses that receive events."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.cli.commands import JsonOption, example, in_workspace, print_json
from flows.workspace.console import console, errors

if TYPE_CHECKING:
    from engine.annotation.webhook_desk import WebhookDesk
    from engine.annotation.webhook_sending import WebhookSender
    from flows.workspace.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Webhooks: addresses that receive signed events (docs/operating.md).",
    epilog=example(
        "dataengine webhooks add https://ci.example.org/hook --event dataengine.round.drained",
        "dataengine webhooks deliveries --json",
    ),
)

IdArgument = Annotated[int, typer.Argument(help="Number of the webhook, as in `webhooks list`.")]


def _sender(workspace: Workspace) -> WebhookSender:
    from engine.annotation.webhook_sending import WebhookSender

    return WebhookSender(workspace.catalog, workspace.settings.page.webhook_networks)


def _desk(workspace: Workspace) -> WebhookDesk:
    from engine.annotation.webhook_desk import WebhookDesk

    return WebhookDesk(workspace.catalog, _sender(workspace))


@contextmanager
def _refusals() -> Iterator[None]:
    """Errors of the page's rules as those of the command line."""
    from engine.annotation.errors import RefusedError

    try:
        yield
    except RefusedError as error:
        raise typer.BadParameter(error.message) from error


@app.command(
    epilog=example(
        "dataengine webhooks add https://ci.example.org/hook",
        "dataengine webhooks add https://ci.example.org/hook --event dataengine.model.promoted",
    )
)
def add(
    url: Annotated[str, typer.Argument(help="Address, https:// or http://.")],
    event: Annotated[
        list[str] | None, typer.Option("--event", help="An event; repeatable. Default: all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add a webhook, and print the secret that signs what it gets, this once."""
    from pydantic import ValidationError

    from engine.annotation.webhook_schemas import NewWebhook
    from engine.core.events import EVENTS

    try:
        given = NewWebhook(url=url, events=event or list(EVENTS))
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="URL") from error
    with in_workspace(as_json) as workspace, _refusals():
        made = _desk(workspace).add(None, given)
    if as_json:
        print_json({**made.view.model_dump(), "secret": made.secret})
    else:
        errors.print(f"webhook {made.view.id} receives {', '.join(made.view.events)}; its secret:")
        print(made.secret)


@app.command("list", epilog=example("dataengine webhooks list --json"))
def list_webhooks(as_json: JsonOption = False) -> None:
    """List the webhooks."""
    with in_workspace(as_json) as workspace:
        found = _desk(workspace).view().webhooks
    if as_json:
        print_json({"webhooks": [one.model_dump() for one in found]})
        return
    table = Table("id", "address", "events", "state", "added")
    for one in found:
        state = "paused" if one.is_paused else "active"
        added = f"{one.created_at:%Y-%m-%d}, {one.author or 'by a command'}"
        table.add_row(str(one.id), one.url, "\n".join(one.events), state, added)
    console.print(table)


@app.command(epilog=example("dataengine webhooks deliveries --json"))
def deliveries(as_json: JsonOption = False) -> None:
    """List the latest deliveries, newest first."""
    with in_workspace(as_json) as workspace:
        found = _desk(workspace).view().deliveries
    if as_json:
        print_json({"deliveries": [one.model_dump() for one in found]})
        return
    table = Table("id", "webhook", "event", "state", "attempts", "last answer", "queued")
    for one in found:
        answer = one.error or ("–" if one.status is None else str(one.status))
        cells = (one.event, one.state, str(one.attempts), answer)
        table.add_row(str(one.id), str(one.webhook_id), *cells, f"{one.created_at:%Y-%m-%d %H:%M}")
    console.print(table)


@app.command(epilog=example("dataengine webhooks test 1"))
def test(webhook: IdArgument) -> None:
    """Queue an event that says nothing for a webhook, and send what is due."""
    with in_workspace() as workspace, _refusals():
        queued = _desk(workspace).test(None, webhook)
        _sender(workspace).send_due()
        (found,) = [d for d in _desk(workspace).view().deliveries if d.id == queued.id]
    console.print(f"{found.state}: {found.error or f'status {found.status}'}", soft_wrap=True)
    if found.state != "delivered":
        raise typer.Exit(1)


@app.command(epilog=example("dataengine webhooks again 12"))
def again(
    delivery: Annotated[int, typer.Argument(help="Number, as in `webhooks deliveries`.")],
) -> None:
    """Queue an event that was delivered or given up once more, with the same id."""
    with in_workspace() as workspace, _refusals():
        _desk(workspace).again(None, delivery)


@app.command(epilog=example("dataengine webhooks pause 1"))
def pause(webhook: IdArgument) -> None:
    """Send a webhook nothing until it is resumed; events meanwhile are not kept for it."""
    with in_workspace() as workspace, _refusals():
        _desk(workspace).pause(None, webhook, True)


@app.command(epilog=example("dataengine webhooks resume 1"))
def resume(webhook: IdArgument) -> None:
    """Send a paused webhook events again."""
    with in_workspace() as workspace, _refusals():
        _desk(workspace).pause(None, webhook, False)


@app.command(epilog=example("dataengine webhooks remove 1"))
def remove(webhook: IdArgument) -> None:
    """Delete a webhook with its deliveries."""
    with in_workspace() as workspace, _refusals():
        _desk(workspace).drop(None, webhook)


@app.command(epilog=example("dataengine webhooks send"))
def send(as_json: JsonOption = False) -> None:
    """Send what is due, where no server of the page runs, which does so by itself."""
    with in_workspace(as_json) as workspace:
        number = _sender(workspace).send_due()
    if as_json:
        print_json({"tried": number})
    else:
        console.print(f"{number} tried")
