"""Refused requests: one exception, whose fields become the HTTP response."""

from __future__ import annotations


class RefusedError(Exception):
    """A request is refused. `status` is the HTTP status, `error` a word for programs; `message` is
    for people and says what to do next."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message


def sentence(message: str) -> str:
    """The message as a sentence: with a capital, unless its first word is a name, and a full
    stop."""
    first = message.split(" ", 1)[0]
    text = message[:1].upper() + message[1:] if first.isalpha() else message
    return text if text.endswith((".", "!", "?")) else f"{text}."


def invalid(message: str) -> RefusedError:
    """The request's content is wrong."""
    return RefusedError(422, "invalid", message)


def not_found(message: str) -> RefusedError:
    """The thing does not exist, or this visitor may not see it."""
    return RefusedError(404, "not_found", message)


def lease_lost(task_id: int) -> RefusedError:
    """The visitor does not hold the task."""
    return RefusedError(
        409,
        "lease_lost",
        f"task {task_id} is no longer yours: it was submitted, skipped, or its lease expired. "
        "Take the next one.",
    )


def not_late(task_id: int) -> RefusedError:
    """Nobody else has taken the task: there is no other version."""
    return RefusedError(409, "not_late", f"nobody else has task {task_id}")
