"""The tables of a state's file: their SQL, their rows to and from DuckDB, and what the file says of itself.

What belongs here: names, types and statements. When anything is written, and what is in memory meanwhile, is decided
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.events import replace_surrogates
from ..core.operations import Row
from ..core.schema import MAX_TIME, MIN_TIME, SQL_TYPES, Column, Schema, Table

if TYPE_CHECKING:
    import pyarrow
    from duckdb import DuckDBPyConnection

FORMAT = "jupyter_agentstore state"
VERSION = 1

COMMITS = "agentstore_commits"
META = "agentstore_meta"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO_BYTES = 26  # a time as JSON: "2024-01-01T00:00:00.000Z"
_encode = msgspec.json.Encoder().encode


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


class Layout:
    """A table as SQL and Arrow have it.

    Args:
        table: what is laid out.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.key = quote(table.key)
        self.name = quote(table.name)
        self.names = [column.name for column in table.columns]
        self.times = [index for index, column in enumerate(table.columns) if column.type == "timestamp"]
        self.time_names = [self.names[index] for index in self.times]
        self.ddl = f"create table {self.name} ({', '.join(map(_column, table.columns))})"
        self.select = ", ".join(
            f"epoch_ms({quote(c.name)})" if c.type == "timestamp" else quote(c.name) for c in table.columns
        )

    @cached_property
    def types(self) -> list[pyarrow.DataType]:
        """The Arrow types of the columns."""
        import pyarrow

        known = {
            "integer": pyarrow.int64(),
            "number": pyarrow.float64(),
            "boolean": pyarrow.bool_(),
            "timestamp": pyarrow.timestamp("ms", "UTC"),
        }
        return [known.get(column.type, pyarrow.string()) for column in self.table.columns]

    def row(self, values: Sequence[Any]) -> Row:
        """A row from what :attr:`select` fetched."""
        return dict(zip(self.names, values, strict=True))

    def arrow(self, rows: Iterable[Iterable[Any]]) -> pyarrow.RecordBatch:
        """Rows as values in the table's order, as Arrow."""
        import pyarrow

        columns = zip(*rows, strict=True)
        arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, self.types, strict=True)]
        return pyarrow.RecordBatch.from_arrays(arrays, names=self.names)

    def plain(self, rows: Iterable[Iterable[Any]]) -> list[Sequence[Any]]:
        """Rows as values in the table's order, as DuckDB's appender takes them: times as datetimes."""
        if not self.times:
            return [tuple(values) for values in rows]
        result: list[Sequence[Any]] = []
        for values in rows:
            row = list(values)
            for index in self.times:
                if row[index] is not None:
                    row[index] = _EPOCH + timedelta(milliseconds=row[index])
            result.append(row)
        return result

    def size(self, rows: Sequence[Row]) -> int:
        """The bytes of ``core.rows.jsonable(table, row)`` as compact JSON, of all rows together."""
        size = 0
        for start in range(0, len(rows), 1000):
            chunk = rows[start : start + 1000]
            size += len(_encode(chunk)) - len(chunk) - 1  # without brackets and commas
            for name in self.time_names:
                for row in chunk:
                    value = row[name]
                    if value is not None:
                        size += 13 if 10**12 <= value < 10**13 else _ISO_BYTES - len(str(value))
        return size

    def query(self, where: Mapping[str, Any], order: str | None, limit: int | None) -> tuple[str, list[Any]]:
        """The statement, and its values, that fetches rows; see ``State.rows``."""
        query = f"select {self.select} from {self.name}"
        conditions, values = [], []
        for name, value in where.items():
            column = self._known(name)
            if value is None:
                conditions.append(f"{column} is null")
            else:
                mark = "make_timestamptz(? * 1000)" if name in self.time_names else "?"
                conditions.append(f"{column} = {mark}")
                values.append(value)
        if conditions:
            query += f" where {' and '.join(conditions)}"
        if order is not None:
            name, _, direction = order.partition(" ")
            if direction not in ("", "asc", "desc"):
                raise ValueError(f"{order!r} is no order: a column, perhaps with 'desc' after it.")
            query += f" order by {self._known(name)} {direction}, {self.key} {direction}"
        if limit is not None:
            query += f" limit {int(limit)}"
        return query, values

    def _known(self, name: str) -> str:
        if name not in self.names:
            raise ValueError(f"The table {self.table.name} has no column {name!r}.")
        return quote(name)


def _column(column: Column) -> str:
    return f"{quote(column.name)} {SQL_TYPES[column.type]}"


EVENTS = Layout(
    Table(
        "events",
        (
            Column("seq", "integer"),
            Column("recordedAt", "timestamp"),
            Column("actor", "text"),
            Column("name", "text"),
            Column("args", "json"),
            Column("clientId", "text"),
            Column("sessionId", "text"),
        ),
        key="name",
    )
)
"""The log's queryable twin. (It has no text key; none is ever asked for.)"""

ANOMALIES = Layout(
    Table(
        "anomalies",
        (
            Column("seq", "integer"),
            Column("name", "text"),
            Column("reason", "text"),
            Column("recordedAt", "timestamp"),
        ),
        key="name",
    )
)

_COMMITS = Table(
    COMMITS,
    (
        Column("id", "text"),
        Column("actor", "text"),
        Column("commitId", "text"),
        Column("seq", "integer"),
        Column("count", "integer"),
    ),
)


def commit_key(actor: str, commit_id: str) -> str:
    """The key of a commit: its id belongs to its actor."""
    return f"{len(actor)} {actor} {commit_id}"


def layouts(schema: Schema) -> dict[str, Layout]:
    """The tables that have keys: the schema's, and that of the commits."""
    return {table.name: Layout(table) for table in (*schema.table_list, _COMMITS)}


class Meta(msgspec.Struct):
    """What a state's file says of itself.

    Attributes:
        schema: hash of the schema that its tables were built with.
        backend_id: of the log that they follow.
        applied: the last event whose effect they hold.
        counters: JSON text; see :class:`~jupyter_agentstore.state.overlay.Counters`.
    """

    schema: str
    backend_id: str
    applied: int
    counters: str


_META_DDL = f"""create table {META} (format varchar, version integer, "schema" varchar, "backendId" varchar,
    applied bigint, counters varchar, "isThinking" boolean, "currentTask" varchar, "lastActivity" timestamptz)"""


def make(cursor: DuckDBPyConnection, schema: Schema, meta: Meta) -> None:
    """Make the tables in an empty file, all or none."""
    cursor.begin()
    cursor.execute(_META_DDL).fetchall()
    values = (FORMAT, VERSION, meta.schema, meta.backend_id, meta.applied, meta.counters)
    cursor.execute(f"insert into {META} values (?, ?, ?, ?, ?, ?, false, null, null)", values).fetchall()
    for layout in (EVENTS, ANOMALIES, *layouts(schema).values()):
        cursor.execute(layout.ddl).fetchall()
    cursor.execute(_agent_state(schema)).fetchall()
    cursor.commit()


def _agent_state(schema: Schema) -> str:
    """The view of the client document ``agentState``: what was set, and the counts that cannot drift from it."""
    messages = "select count(*) from messages" if "messages" in schema.tables else "select 0"
    conversations = schema.tables.get("conversations")
    has_status = conversations and any(column.name == "status" for column in conversations.columns)
    active = "select count(*) from conversations where status = 'active'" if has_status else "select 0"
    return f"""create view "agentState" as select "isThinking", "currentTask", "lastActivity",
        ({messages})::bigint as "totalMessages", ({active})::bigint as "activeConversations" from {META}"""


def read_meta(cursor: DuckDBPyConnection) -> Meta | None:
    """What the file says of itself; None if it is no state of this version.

    Raises:
        duckdb.Error: it cannot be read.
    """
    tables = cursor.execute(
        "select 1 from duckdb_tables() where database_name = current_database() and table_name = ?", (META,)
    ).fetchall()
    if not tables:
        return None
    rows = cursor.execute(f"select format, version from {META}").fetchall()
    if rows != [(FORMAT, VERSION)]:
        return None
    query = f'select "schema", "backendId", applied, counters from {META}'
    return Meta(*cursor.execute(query).fetchall()[0])


def save_meta(cursor: DuckDBPyConnection, applied: int, counters: str, document: Row | None) -> None:
    """Note the cursor and the counters, and the agent's document if it is given."""
    sets, values = "applied = ?, counters = ?", [applied, counters]
    if document is not None:
        sets += ', "isThinking" = ?, "currentTask" = ?, "lastActivity" = make_timestamptz(? * 1000)'
        values += [document["isThinking"], document["currentTask"], document["lastActivity"]]
    cursor.execute(f"update {META} set {sets}", values).fetchall()


def read_document(cursor: DuckDBPyConnection) -> Row:
    """The agent's document as it was last written."""
    query = f'select "isThinking", "currentTask", epoch_ms("lastActivity") from {META}'
    names = ("isThinking", "currentTask", "lastActivity")
    return dict(zip(names, cursor.execute(query).fetchall()[0], strict=True))


_DOCUMENT: Mapping[str, tuple[type, ...]] = {
    "isThinking": (bool,),
    "currentTask": (str, type(None)),
    "lastActivity": (int, type(None)),
}


def check_document(values: Mapping[str, Any]) -> Row:
    """What of the agent's document is set, so that it can be written; see ``State.document``."""
    for name, value in values.items():
        if type(value) not in _DOCUMENT.get(name, ()):
            raise ValueError(f"agentState.{name} cannot be set to {value!r}.")
        if type(value) is int and not MIN_TIME <= value <= MAX_TIME:
            raise ValueError(f"agentState.{name}: {value} is out of range.")
    result: Row = replace_surrogates(dict(values))
    return result
