"""Two small stores of one locked instance, for SQL that must not leave its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_agentstore.duck import Instance, alias_of
from jupyter_agentstore.state.query import Limits, run

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

OWN, OTHER = alias_of("own"), alias_of("other")
SECRET = "the other store's secret"
TABLES = frozenset(
    {"conversations", "messages", "conversationMemory", "pendingReplies", "events", "anomalies", "agentState"}
)
_TABLES = """
    create table conversations (id varchar, "userId" varchar, title varchar, "createdAt" timestamptz,
        "updatedAt" timestamptz, personality varchar, instructions varchar, status varchar);
    create table messages (id varchar, "conversationId" varchar, role varchar, content varchar,
        "timestamp" timestamptz, metadata varchar, seq bigint, actor varchar);
    create table "conversationMemory" (id varchar, "conversationId" varchar, fact varchar, "createdAt" timestamptz);
    create table "pendingReplies" ("conversationId" varchar, "lastMessageId" varchar, seq bigint);
    create table events (seq bigint, "recordedAt" timestamptz, actor varchar, name varchar, args varchar,
        "clientId" varchar, "sessionId" varchar);
    create table anomalies (seq bigint, name varchar, reason varchar, "recordedAt" timestamptz);
    create table agentstore_meta (key varchar, value varchar);
    create view "agentState" as select count(*) as "totalMessages" from messages;
    insert into agentstore_meta values ('backend', 'hidden');
    insert into conversations select 'c' || i, 'ada', 'Title ' || i, timestamptz '2024-01-01 00:00:00Z',
        timestamptz '2024-01-02 00:00:00Z', 'kind', 'be brief', 'active' from range(5) t(i);
"""


class Sandbox:
    """One store's tables, with another store beside it.

    Args:
        messages: how many it holds.
        words: how long each of them is.
        memory_limit: of the instance.
    """

    def __init__(self, messages: int = 50, words: int = 3, memory_limit: str = "500MB") -> None:
        self.instance = Instance(locked=True, memory_limit=memory_limit)
        for alias, text in ((OTHER, SECRET), (OWN, "word " * words)):
            self.instance.attach(None, alias)
            writer = self.instance.cursor(alias)
            for statement in _TABLES.split(";"):
                if statement.strip():
                    writer.execute(statement).fetchall()
            writer.execute(
                """insert into messages select 'm' || i, 'c' || i % 5, if(i % 2 = 0, 'user', 'assistant'), $text || i,
                    timestamptz '2024-01-01 00:00:00Z' + i * interval 1 hour,
                    if(i % 3 = 0, null, '{"model": "x", "tokens": ' || i || '}'), i + 1, 'ada'
                from range($n) t(i)""",
                {"text": text, "n": messages},
            ).fetchall()
            writer.execute(
                """insert into events
                select seq, timestamp, actor, 'v1.MessageAdded', json_object('id', id), 'server', 'rest'
                from messages"""
            ).fetchall()
        self.cursor: DuckDBPyConnection = self.instance.cursor(OWN)

    def run(self, sql: str, params: Any = None, **limits: Any) -> Any:
        """Run a statement as an analyst of the own store."""
        return run(self.cursor, sql, params, TABLES, Limits(**limits))

    def rows(self, sql: str, params: Any = None) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        return [tuple(row.values()) for row in self.run(sql, params).to_pylist()]

    def fingerprint(self) -> list[Any]:
        """What both stores hold, and which tables there are."""
        cursor = self.instance.cursor(OTHER)
        names = cursor.execute(
            "select database_name, table_name from duckdb_tables() order by all"
        ).fetchall()
        views = cursor.execute(
            "select view_name from duckdb_views() where not internal order by all"
        ).fetchall()
        sums = [
            cursor.execute(f'select count(*), bit_xor(hash(t)), sum(hash(t)) from {a}."{n}" t').fetchall()
            for a, n in names
        ]
        self.instance.release(OTHER, cursor)
        return [names, views, sums]
