"""Tables that commands print for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from flows.cli.commands import number
from flows.workspace.console import console

SHOWN_PROBLEMS = 10
"""Problems that a command prints."""


def print_rounds(rows: list[dict[str, Any]]) -> None:
    """Print the rounds of a loop, with the scores of the model of each."""
    sets = dict.fromkeys(row["scored_on"] for row in rows if row["scored_on"])
    caption = f"mIoU on {', then on '.join(sets)}" if sets else None
    table = Table(title="rounds", header_style="bold", caption=caption)
    for name in ("stage", "round", "images", "masks", "masks/image", "clicks/mask", "s/mask"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for name in ("model", "mIoU 1 click", "mIoU 3 clicks"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(
            row["stage"],
            str(row["round"]),
            number(row["images"]),
            number(row["masks"]),
            number(row["masks_per_image"], ".1f"),
            number(row["clicks_per_mask"], ".2f"),
            number(row["seconds_per_mask"], ".1f"),
            row["model"] or "–",
            number(row["miou_1_click"], ".3f"),
            number(row["miou_3_clicks"], ".3f"),
        )
    console.print(table)


def print_costs(costs: dict[str, Any]) -> None:
    """Print the cost ledger by stage and model, and its total; nothing if nothing ran."""
    if not costs["stages"]:
        return
    names = ("runs", "images", "masks", "accepted", "CPU h", "GPU h", "people h", "cost")
    table = Table("stage", "model", title="costs", header_style="bold")
    for name in (*names, "per accepted mask"):
        table.add_column(name, justify="right")
    for row in [*costs["stages"], {"stage": "total", "model": None, **costs["total"]}]:
        hours = [f"{row[f'{of}_seconds'] / 3600:.2f}" for of in ("cpu", "gpu", "people")]
        table.add_row(
            row["stage"],
            row["model"] or "",
            str(row.get("runs", "")),
            str(row["images"]),
            str(row["masks"]),
            ("~" if row["accepted_is_estimate"] else "") + number(row["accepted_masks"]),
            *hours,
            _money(row["cost"]),
            _money(row["cost_per_accepted_mask"]),
        )
    console.print(table)
    if costs["total"]["accepted_is_estimate"]:
        console.print("~ estimated from the share of the reviewed masks that was accepted")


def _money(value: float | None) -> str:
    """Two decimal places; amounts below 1 with two significant digits."""
    return number(value, ".2f" if value is None or value >= 1 or value == 0 else ".2g")


def print_checks(checks: list[dict[str, Any]]) -> None:
    """Print the results of health checks as a table."""
    colours = {"ok": "green", "look": "yellow", "wrong": "red"}
    table = Table("check", "", "what", "what to do")
    for check in checks:
        mark = f"[{colours[check['level']]}]{check['level']}[/]"
        table.add_row(check["name"], mark, escape(check["detail"]), escape(check["do"]))
    console.print(table)


def print_near_duplicates(number: int, pairs: Sequence[dict[str, str]]) -> None:
    """Print how many images nearly repeat another one (in brackets), and the first of them; nothing
    if none do."""
    if number:
        named = ", ".join(f"{pair['name']} ({pair['other']})" for pair in pairs)
        more = ", ..." if number > len(pairs) else ""
        what = "near-duplicate is" if number == 1 else "near-duplicates are"
        _print_warning(f"{number} {what} not annotated twice: {named}{more}")


def print_left_out(passed_over: Sequence[dict[str, Any]], problems: Sequence[str]) -> None:
    """Print what was not used, one line per kind, and the first problems."""
    for row in passed_over:
        named = ", ".join(row["examples"])
        more = ", ..." if row["count"] > len(row["examples"]) else ""
        _print_warning(f"not used: {row['count']} {row['what']}: {named}{more}")
    for problem in problems[:SHOWN_PROBLEMS]:
        _print_warning(f"  {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        console.print(f"  and {len(problems) - SHOWN_PROBLEMS} more problems")


def _print_warning(line: str) -> None:
    console.print(line, style="yellow", markup=False, highlight=False)
