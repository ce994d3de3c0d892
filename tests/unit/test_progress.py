"""Progress on a terminal: bars, and nested pieces of work."""

from __future__ import annotations

import io

from rich.console import Console

from flows.workspace.progress import Lines, Terminal, on, share_in


def shown(total: int, unit: str) -> str:
    out = io.StringIO()
    terminal = Terminal(Console(file=out, force_terminal=True, width=140))
    with terminal.track("generate", total, "image"):
        for part in range(2):
            with terminal.track(f"shard {part}", 2, unit) as advance:
                advance(1)
                advance(1, "7.5 masks/image")
    return out.getvalue()


def test_a_part_moves_the_bar_of_the_whole() -> None:
    text = shown(4, "image")
    assert "4/4" in text
    assert "7.5 masks/image · shard 1" in text


def test_a_bar_is_forgotten_when_its_work_is_done() -> None:
    out = io.StringIO()
    terminal = Terminal(Console(file=out, force_terminal=True, width=140))
    for what in ("first", "second"):
        with terminal.track(what, 3, "image") as advance:
            advance(3)
    assert out.getvalue().count("3/3") >= 2
    assert "second" in out.getvalue()


def test_bytes_are_told_in_their_own_units() -> None:
    out = io.StringIO()
    terminal = Terminal(Console(file=out, force_terminal=True, width=140))
    with terminal.track("vit_b", 4_000_000, "byte") as advance:
        advance(1_000_000)
        advance(3_000_000)
    assert "4.0/4.0 MB" in out.getvalue()
    assert "B/s" in out.getvalue()


def test_a_log_hears_what_begins_and_how_far_it_has_come() -> None:
    lines: list[str] = []
    log = Lines(lines.append, every_seconds=-1)
    with log.track("train d-2", 200, "step") as advance:
        with log.track("a part", 7, "step") as part:
            part(40, "loss 0.2")
        with log.track("something else", 7, "image") as aside:
            aside(1)
        advance(60)
    with log.track("vit_b", 4_000_000, "byte") as advance:
        advance(1_000_000)
    assert lines[0] == "train d-2: 200 steps"
    assert lines[1].startswith("train d-2: 40 of 200 steps")
    assert lines[1].endswith("loss 0.2")
    assert lines[2].startswith("train d-2: 100 of")
    assert lines[4].startswith("vit_b: 1.0 MB of 4.0 MB")


def test_bars_are_for_terminals_alone() -> None:
    assert isinstance(on(Console(file=io.StringIO(), force_terminal=True)), Terminal)
    assert isinstance(on(Console(file=io.StringIO())), Lines)


def test_how_far_work_has_come_is_read_from_its_log() -> None:
    lines: list[str] = []
    log = Lines(lines.append, every_seconds=-1)
    assert share_in("") is None
    with log.track("generate", 40, "image") as advance:
        assert share_in("\n".join(lines)) is None  # it has only begun
        advance(10)
        lines.append("a photograph of 3 of 4 sizes is read")
        assert share_in("\n".join(lines)) == 0.25
        advance(20, "7.5 masks/image")
        assert share_in("\n".join(lines)) == 0.75
    with log.track("train d-2", 200, "step") as advance:
        advance(50)
        assert share_in("\n".join(lines)) == 0.25
