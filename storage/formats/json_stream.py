"""Read a JSON object whose lists are too long for memory: its lists' items come one at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 22
_ENDS = (*" \t\n\r,]}:",)
"""Characters that end a number."""
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonStreamError(ValueError):
    """Not a JSON object; the message says what was expected and at which byte."""


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the list `key`, or the whole value of `key` if that is no list (then `is_whole`);
    `begin` and `end` are its bytes in the file."""

    key: str
    value: Any
    begin: int
    end: int
    is_whole: bool = False


def read_items(path: Path) -> Iterator[Item]:
    """The members of the object in a file, in its order. An empty list yields an empty list.

    Raises:
        JsonStreamError: not a JSON object in UTF-8.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        reader = _Reader(file)
        yield from reader.items()


class _Reader:
    def __init__(self, file: Any) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._place = "", 0
        self._counted = (0, 0)
        """A place in the text, and its byte."""
        self._at_end = False
        if not file.peek(3).startswith(codecs.BOM_UTF8):
            return
        file.read(3)
        self._counted = (0, 3)

    def items(self) -> Iterator[Item]:
        self._expect("{")
        if not self._take("}"):
            while True:
                key, _, _ = self._value()
                if not isinstance(key, str):
                    raise self._error("a name in quotes")
                self._expect(":")
                yield from self._member(key)
                if self._take("}"):
                    break
                self._expect(",")
        self._skip()
        if self._place < len(self._text):
            raise self._error("the end of the file")

    def _member(self, key: str) -> Iterator[Item]:
        if not self._take("["):
            value, begin, end = self._value()
            yield Item(key, value, begin, end, is_whole=True)
            return
        if self._take("]"):
            yield Item(key, [], 0, 0, is_whole=True)
            return
        while True:
            yield Item(key, *self._value())
            if self._take("]"):
                return
            self._expect(",")

    def _value(self) -> tuple[Any, int, int]:
        """The next value and its bytes."""
        self._skip()
        while True:
            try:
                value, end = self._scan(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._more():
                    raise self._error(f"a value ({error.msg})") from error
            except RecursionError as error:
                raise JsonStreamError("nested too deeply to be annotations") from error
            else:
                # The rest of a number may not be read yet, nor what follows "1.".
                if self._text[end : end + 1] in _ENDS or not self._more():
                    begin_byte = self._byte_of(self._place)
                    self._place = end
                    return value, begin_byte, self._byte_of(end)

    def _take(self, character: str) -> bool:
        self._skip()
        if self._text[self._place : self._place + 1] != character:
            return False
        self._place += 1
        return True

    def _expect(self, character: str) -> None:
        if not self._take(character):
            raise self._error(repr(character))

    def _skip(self) -> None:
        """Go to the next character that is no space."""
        while True:
            self._place = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]
            if self._place < len(self._text) or not self._more():
                return

    def _more(self) -> bool:
        """Read on; forgets the text before the place."""
        if self._at_end:
            return False
        at = self._byte_of(self._place)
        self._text = self._text[self._place :]
        self._place, self._counted = 0, (0, at)
        # As much again as is there: an item of many chunks is scanned few times.
        data = self._file.read(max(CHUNK_BYTES, len(self._text)))
        self._at_end = not data
        try:
            self._text += self._decode(data, not data)
        except UnicodeDecodeError as error:
            raise JsonStreamError(f"not JSON, which is UTF-8 text ({error})") from error
        return bool(data)

    def _byte_of(self, place: int) -> int:
        known, byte = self._counted
        piece = self._text[known:place]
        byte += len(piece) if piece.isascii() else len(piece.encode())
        self._counted = (place, byte)
        return byte

    def _error(self, expected: str) -> JsonStreamError:
        found = self._text[self._place : self._place + 20]
        return JsonStreamError(
            f"expected {expected} at byte {self._byte_of(self._place)}, got {found!r}"
        )
