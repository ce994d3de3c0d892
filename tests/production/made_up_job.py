"""A job that only tests have: an entry in the registry, and its flow.

`python -m tests.production.made_up_job` adds the entry before anything reads the registry, as if it
stood there. Then it runs the commands of a JSON list, and prints what they print, and the
dashboard's button, as JSON.
"""

from __future__ import annotations

import json
import sys

from prefect import flow

from flows.deploy.job_forms import Form
from flows.deploy.jobs import JOBS, JobDefinition, JobOption, ScheduleCommand, Trigger

NAME = "count"


@flow
def count_images(workspace: str, dataset: str, shades: int | None = None) -> None:
    """A flow that would count images of so many shades."""


def main() -> None:
    """Add the job, and run the commands in the workspace of the current folder."""
    JOBS[NAME] = JobDefinition(
        name=NAME,
        entrypoint="tests.production.made_up_job.count_images",
        options=(JobOption(name="shades", help="shades to tell apart."),),
        triggers=(Trigger(event="dataengine.images.added"),),
        schedule=ScheduleCommand(help="Count the images by their shade.", example="0 5 * * *"),
        form=Form(
            title="Count images",
            defaults=lambda w, d: {"dataset": d, "shades": 3},
            describe=lambda w, d, f: f"count the images of {d.name}",
        ),
    )
    from typer.testing import CliRunner

    from flows.cli.main import app
    from flows.page.actions import WorkspaceActions
    from flows.workspace.workspace import open_workspace

    done = [
        CliRunner().invoke(app, arguments, catch_exceptions=False)
        for arguments in json.loads(sys.argv[1])
    ]
    actions = WorkspaceActions(open_workspace("."))
    button = next(action for action in actions.all() if action.name == NAME)
    plan = actions.plan(NAME, {"shades": 4})
    page = {"title": button.title, "plan": plan.text, "command": plan.command}
    print(json.dumps({"printed": [result.stdout for result in done], "page": page}))


if __name__ == "__main__":
    main()
