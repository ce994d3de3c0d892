"""Requests that are refused: one exception, whose fields become the answer."""

from __future__ import annotations


class RefusedError(Exception):
    """A request cannot be granted. `status` is HTTP's, `error` a word for programs, the message is
    for people and says what to do next."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message


def sentence(message: str) -> str:
    """The message as people read it: it begins with a capital, unless its first word is a name, and
    ends with a full stop."""
    first = message.split(" ", 1)[0]
    begun = message[:1].upper() + message[1:] if first.isalpha() else message
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def invalid(message: str) -> RefusedError:
    """The request's content is wrong."""
    return RefusedError(422, "invalid", message)


def not_found(message: str) -> RefusedError:
    """There is no such thing, or it is not for this person to know."""
    return RefusedError(404, "not_found", message)


def lease_lost(task_id: int) -> RefusedError:
    """The task is not held by whoever asks."""
    return RefusedError(
        409,
        "lease_lost",
        f"task {task_id} is not yours any more: it was handed in, skipped, or held too long "
        "without a sign of life. Take the next one.",
    )
