"""One test on one column: Arrow columns in, NumPy masks out.

Nothing here hands Arrow a Python constant or list where it can be helped: for the first of them
Arrow imports pandas, which costs more than most filters do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from clipsearch.filters import Contains, Equal, In, Known, Range
from clipsearch.shards import as_numpy

Mask = npt.NDArray[np.bool_]
Numbers = tuple[npt.NDArray[Any], Mask]
Test = Equal | In | Contains | Range | Known

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(moment: datetime) -> int:
    """A wall-clock time as Parquet holds it: microseconds since 1970 by the same clock."""
    return (moment - _EPOCH) // _MICROSECOND


def string_array(texts: Sequence[str]) -> pa.Array:
    """An Arrow array of these texts. What is no UTF-8 (half a surrogate of a file name) becomes
    a replacement character, as in the names that an index shows."""
    encoded = [displayed(text).encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    return pa.StringArray.from_buffers(
        len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))
    )


def displayed(text: str) -> str:
    """A text that may hold bytes of a file name, as the index displays that name."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # halves of surrogates that are of no file name
        return text.encode("utf-8", "replace").decode("utf-8")


def folded(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts without regard to case, and to how letters with accents are put together (file
    names from a Mac have them in two parts)."""
    if not column.null_count and as_numpy(pc.string_is_ascii(column)).all():
        return pc.ascii_lower(column)  # the same, several times as fast
    return pc.utf8_lower(pc.utf8_normalize(column, form="NFC"))


def is_known(column: pa.Array | pa.ChunkedArray) -> Mask:
    """(n,) bool: where a column has a value."""
    return as_numpy(pc.is_valid(column)) if column.null_count else np.ones(len(column), bool)


def _true(column: pa.Array | pa.ChunkedArray) -> Mask:
    """Where a column of true and false is true: what is not known is not."""
    known = is_known(column)
    return as_numpy(column).astype(bool) & known


def numbers_of(column: pa.ChunkedArray) -> Numbers:
    """(n,) values of a column of numbers or of times, and where they are known."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return as_numpy(column), is_known(column)


def matches_text(column: pa.Array | pa.ChunkedArray, test: Test) -> Mask:
    """(n,) bool: the texts that pass."""
    if not len(column):
        return np.zeros(0, bool)
    if isinstance(test, Known):
        return is_known(column)
    if isinstance(test, Contains):
        pattern = folded(string_array([test.text]))[0].as_py()
        return _true(pc.match_substring(folded(column), pattern))
    values = test.values if isinstance(test, In) else (getattr(test, "value", ""),)
    wanted = folded(string_array([str(value) for value in values]))
    return _true(pc.is_in(folded(column), value_set=wanted))


def matches_repeated_text(column: pa.ChunkedArray, test: Test) -> Mask:
    """``matches_text`` for texts that stand many times, such as the names of cameras: each is
    looked at once. Texts that are encoded as a dictionary already will do."""
    mask = np.zeros(len(column), bool)
    start = 0
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    for chunk in encoded.chunks:
        passes = matches_text(chunk.dictionary, test)
        rows = np.flatnonzero(is_known(chunk.indices))
        codes = as_numpy(chunk.indices)[rows]
        mask[start + rows] = passes[codes]
        start += len(chunk)
    return mask


def matches_number(
    values: npt.NDArray[Any],
    known: Mask,
    test: Test,
    stored: Callable[[datetime], int] = microseconds,
) -> Mask:
    """(n,) bool: the numbers that are known and pass.

    stored : how a moment is written in ``values``.
    """
    if isinstance(test, Known):
        return known
    if isinstance(test, Range):
        mask = known.copy()
        for bound, is_open, (closed, opened) in (
            (test.low, test.low_open, (np.greater_equal, np.greater)),
            (test.high, test.high_open, (np.less_equal, np.less)),
        ):
            if bound is not None:
                number = stored(bound) if isinstance(bound, datetime) else bound
                mask &= (opened if is_open else closed)(values, number)
        return mask
    wanted = test.values if isinstance(test, In) else (getattr(test, "value", None),)
    return np.isin(values, np.array(wanted)) & known


def flat_rows(column: pa.ChunkedArray, is_map: bool = False) -> tuple[Any, ...]:
    """The values of a column of lists, and for each the row it stands in: (m,) int64 rows, the
    values; of a map the rows, its keys, and its values."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # which an older Arrow makes of no chunks
        array = pa.concat_arrays([*array.chunks, pa.nulls(0, column.type)])
    if not len(array):
        empty = string_array([])
        return (np.empty(0, np.int64), empty, empty) if is_map else (np.empty(0, np.int64), empty)
    offsets = as_numpy(array.offsets).astype(np.int64)
    rows = np.repeat(np.arange(len(array)), np.diff(offsets))
    start, length = int(offsets[0]), int(offsets[-1] - offsets[0])
    children = (array.keys, array.items) if is_map else (array.values,)
    return (rows, *(child.slice(start, length) for child in children))


def parsed_numbers(texts: pa.Array) -> Numbers:
    """(n,) float64 numbers of texts without nulls, and where a text is a number."""
    encoded = texts.dictionary_encode()
    numbers = np.full(len(encoded.dictionary), np.nan)
    for row, text in enumerate(encoded.dictionary.to_pylist()):
        try:
            numbers[row] = float(text)
        except ValueError:
            continue
    values = numbers[as_numpy(encoded.indices)]
    return values, np.isfinite(values)
