"""An Arrow table as JSON values.

What belongs here: one conversion for each kind of Arrow type. Whole columns are converted at once.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..core.rows import iso

if TYPE_CHECKING:
    import pyarrow

_PER_MILLISECOND = {"us": 1_000, "ns": 1_000_000}
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999  # the years 1 to 9999
_EPOCH = date(1970, 1, 1)


def to_json(table: pyarrow.Table) -> list[dict[str, Any]]:
    """The rows of a table as JSON values.

    Times are ISO-8601 text, with milliseconds and, where they have a zone, ``Z``; bytes are Base64; maps are objects;
    intervals are ISO-8601 durations. NaN, infinity and times that no calendar of ISO-8601 has are null. Columns of
    the same name are told apart by a number.
    """
    names = unique(table.column_names)
    columns = [_column(column.combine_chunks()) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def unique(names: Sequence[str]) -> list[str]:
    """Names with a number after those that were there already: ``a, a`` becomes ``a, a_1``."""
    taken = set(names)
    seen: set[str] = set()
    result = []
    for name in names:
        chosen, number = name, 0
        while chosen in seen or (number and chosen in taken):
            number += 1
            chosen = f"{name}_{number}"
        seen.add(chosen)
        result.append(chosen)
    return result


def _column(array: Any) -> list[Any]:
    import pyarrow

    if isinstance(array, pyarrow.ChunkedArray):  # combine_chunks leaves one when it is empty, or very long
        return [value for chunk in array.chunks for value in _column(chunk)]
    kind = array.type
    types = pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType):
        return _column(array.storage)
    if types.is_dictionary(kind):
        return _column(array.dictionary_decode())
    if types.is_struct(kind):
        return _structs(array)
    if types.is_map(kind):
        return _maps(array)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _lists(array)
    return _scalars(array, kind, types)


def _scalars(array: Any, kind: Any, types: Any) -> list[Any]:
    convert: Callable[[Any], Any]
    if types.is_timestamp(kind):
        convert = _moment(kind)
        array = array.cast("int64")
    elif types.is_date(kind):
        convert = _date
        array = array.cast("int32")
    elif types.is_floating(kind):
        convert = _finite
    elif types.is_decimal(kind):
        convert = int if kind.scale <= 0 else float
    elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        convert = _base64
    elif types.is_time(kind):
        convert = str
    elif types.is_interval(kind) or types.is_duration(kind):
        convert = _duration
    elif types.is_union(kind):
        convert = _plain
    else:
        return list(array.to_pylist())
    return [None if value is None else convert(value) for value in array.to_pylist()]


def _structs(array: Any) -> list[Any]:
    names = unique([field.name for field in array.type])
    columns = [_column(child) for child in array.flatten()]
    rows = (
        [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        if columns
        else [{}] * len(array)
    )
    return [row if valid else None for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)]


def _lists(array: Any) -> list[Any]:
    from pyarrow import compute

    values = iter(_column(array.flatten()))
    lengths = compute.list_value_length(array).to_pylist()
    return [None if length is None else list(islice(values, length)) for length in lengths]


def _maps(array: Any) -> list[Any]:
    import pyarrow

    entries = _structs(pyarrow.StructArray.from_arrays([array.keys, array.items], ["key", "value"]))
    offsets = array.offsets.to_pylist()
    return [
        {_key(pair["key"]): pair["value"] for pair in entries[start:stop]} if valid else None
        for start, stop, valid in zip(offsets, offsets[1:], array.is_valid().to_pylist(), strict=False)
    ]


def _key(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _moment(kind: Any) -> Callable[[int], str | None]:
    zone = kind.tz is not None

    def convert(value: int) -> str | None:
        milliseconds = value * 1_000 if kind.unit == "s" else value // _PER_MILLISECOND.get(kind.unit, 1)
        if not _FIRST <= milliseconds <= _LAST:
            return None
        text = iso(milliseconds)
        return text if zone else text[:-1]

    return convert


def _date(value: int) -> str | None:
    try:
        return (_EPOCH + timedelta(days=value)).isoformat()
    except OverflowError:
        return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _duration(value: Any) -> str:
    """ISO-8601, such as ``P1M2DT0.5S``."""
    if isinstance(value, timedelta):
        months, days, seconds = 0, value.days, value.seconds + value.microseconds / 1e6
    else:
        months, days, seconds = value.months, value.days, value.nanoseconds / 1e9
    text = "P" + (f"{months}M" if months else "") + (f"{days}D" if days else "")
    return text + (f"T{seconds:.9f}".rstrip("0").rstrip(".") + "S" if seconds or text == "P" else "")


def _plain(value: Any) -> Any:
    import pyarrow

    return _column(pyarrow.array([value]))[0]
