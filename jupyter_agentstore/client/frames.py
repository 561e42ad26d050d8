"""From Arrow to pandas, Python rows and HTML, the same for every way to a store.

What belongs here: conversions of a result. Times come out in UTC with their zone; text is pandas' own string type;
whole numbers that DuckDB sums up as huge ones are ordinary integers where they fit.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    import pyarrow

SHOWN_ROWS = 20
"""Rows of a table that a cell shows."""


def tidy(table: pyarrow.Table) -> pyarrow.Table:
    """The table with times in UTC, and decimals as integers or floats."""
    import pyarrow as pa

    for at, kind in enumerate(table.schema.types):
        wanted = None
        column = table.column(at)
        if pa.types.is_timestamp(kind) and kind.tz not in (None, "UTC"):
            wanted = pa.timestamp(kind.unit, "UTC")
        elif pa.types.is_decimal(kind):
            wanted = pa.float64()
            if kind.scale == 0:
                try:
                    column, wanted = column.cast(pa.int64()), None
                except pa.ArrowInvalid:
                    pass
                else:
                    table = table.set_column(at, table.schema.names[at], column)
        if wanted is not None:
            table = table.set_column(at, table.schema.names[at], column.cast(wanted))
    return table


def to_frame(table: pyarrow.Table) -> pandas.DataFrame:
    """A DataFrame of a table."""
    import pandas as pd
    import pyarrow as pa

    mapper = None
    if int(pd.__version__.partition(".")[0]) < 3:  # since 3, text is kept in Arrow's form by itself
        texts = {pa.string(): pd.StringDtype("pyarrow"), pa.large_string(): pd.StringDtype("pyarrow")}
        mapper = texts.get
    return tidy(table).to_pandas(types_mapper=mapper, split_blocks=True)


def to_rows(table: pyarrow.Table) -> list[dict[str, Any]]:
    """Python values, a dict a row."""
    return list(tidy(table).to_pylist())


def to_html(table: pyarrow.Table) -> str:
    """The first rows as an HTML table, every value escaped."""
    shown = tidy(table.slice(0, SHOWN_ROWS))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in shown.schema.names)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_short(value))}</td>' for value in row)}</tr>"
        for row in zip(*(column.to_pylist() for column in shown.columns), strict=True)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{_count(table)}</p>"


def to_text(table: pyarrow.Table) -> str:
    """The first rows as text."""
    if table.num_columns == 0:
        return _count(table)
    return f"{to_frame(table.slice(0, SHOWN_ROWS)).to_string()}\n{_count(table)}"


def _count(table: pyarrow.Table) -> str:
    rows = f"{table.num_rows:,} row{'' if table.num_rows == 1 else 's'}"
    return f"{rows}, the first {SHOWN_ROWS} shown" if table.num_rows > SHOWN_ROWS else rows


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 200 else text[:199] + "…"
