"""JSON text of whole columns, made by Arrow's kernels instead of an object for each value.

N = rows. All functions take a column (an Arrow array) and return one of strings of the same length.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_PLAIN = (32, 126)
"""Codes of characters that `json.dumps` leaves as they are, except quote and backslash."""
_FIRST_COUNT, _LAST_COUNT = 48, 111
"""Codes of the characters of COCO's compressed run lengths."""


def integers(column: pa.Array) -> pa.Array:
    """Whole numbers; nulls stay null."""
    return pc.cast(column, pa.string())


def numbers(column: pa.Array, names: pa.Array, what: str) -> pa.Array:
    """Floats, in the fewest digits that give the same float of the column's type; nulls stay null.

    Args:
        column: float32 or float64.
        names: of the rows, for messages.
        what: a row has, for messages.

    Raises:
        ValueError: a value is not finite, which JSON lacks.
    """
    bad = pc.invert(pc.is_finite(column))
    if pc.any(bad).as_py():
        row = pc.index(bad, True).as_py()
        text = f"{what} {column[row].as_py()}, which is not a finite number and not JSON"
        raise ValueError(f"mask {names[row].as_py()} has a {text}")
    written = pc.cast(column, pa.string())
    whole = pc.invert(pc.match_substring_regex(written, "[.e]"))
    return pc.if_else(whole, joined(written, ".0"), written)


def texts(column: pa.Array) -> pa.Array:
    """Strings, quoted and escaped as `json.dumps` does; nulls stay null."""
    codes = _bytes_of(column)
    special = len(codes) and (codes.min() < _PLAIN[0] or codes.max() > _PLAIN[1])
    if not special and not (codes == ord('"')).any() and not (codes == ord("\\")).any():
        return joined('"', column, '"')
    written = [None if value is None else json.dumps(value) for value in column.to_pylist()]
    return pa.array(written, pa.string())


def run_length_texts(counts: pa.Array, names: pa.Array) -> pa.Array:
    """COCO's compressed run lengths (binary), escaped but not quoted.

    Raises:
        ValueError: a value has characters that COCO does not use; `names` are those of the rows.
    """
    codes = _bytes_of(counts)
    if len(codes) and not (codes.min() >= _FIRST_COUNT and codes.max() <= _LAST_COUNT):
        for name, value in zip(names.to_pylist(), counts.to_pylist(), strict=True):
            if min(value) < _FIRST_COUNT or max(value) > _LAST_COUNT:
                raise ValueError(f"mask {name} has run lengths with characters not of COCO")
    plain = counts.cast(pa.string())
    return pc.replace_substring(plain, "\\", "\\\\")


Parts = tuple[pa.Array | str, ...]
"""Columns, and texts that are the same in all rows, of one string."""


def joined(*parts: pa.Array | str) -> pa.Array:
    """The parts of each row in one string; null if one of them is."""
    return pc.binary_join_element_wise(*parts, "")


def optional(prefix: str, values: pa.Array) -> pa.Array:
    """Prefix and value, or nothing for a null."""
    return pc.fill_null(joined(prefix, values), "")


def list_of(values: Sequence[pa.Array]) -> pa.Array:
    """A JSON list of one value of each column."""
    parts: list[pa.Array | str] = ["["]
    for number, column in enumerate(values):
        parts += [","] if number else []
        parts.append(column)
    return joined(*parts, "]")


def grouped(lines: pa.Array, starts: np.ndarray, separator: str = ",") -> pa.Array:
    """The lines of each group in one string.

    Args:
        lines: N strings.
        starts: int, of the groups' first rows and, at the end, N.
        separator: between two lines.
    """
    offsets = pa.array(starts, pa.int32())
    return pc.binary_join(pa.ListArray.from_arrays(offsets, lines), separator)


def _bytes_of(column: pa.Array) -> np.ndarray:
    """All bytes of a binary column as uint8, one value after the other."""
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    data = column.buffers()[2]
    if data is None or not len(column):
        return np.zeros(0, np.uint8)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
