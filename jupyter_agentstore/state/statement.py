"""What a statement of user SQL may be: one that only reads this store's tables, with bounded values.

What belongs here: the walk over the tree that DuckDB makes of a statement (``json_serialize_sql``). Names are on the
lists of ``allowed``; how large values become is worked out by ``size``. Whatever is on no list is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import msgspec

from ..core.errors import QueryFailed, QueryRefused
from . import allowed, size
from .expression import Expressions, Node, no_function, too_deep
from .patterns import Patterns
from .scope import Scope, Shape, folded
from .size import GATHERED, NOTHING, RUNNING, SMALL, STORED

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_CHARS = 100_000
"""Length of a statement. Values belong into parameters."""

MAX_SOURCES = 500
"""Tables and subqueries after FROM, a WITH counted as often as it is named."""

MAX_COLUMNS = 5_000
"""Columns of a subquery."""

MAX_GROUPINGS = 256
"""Grouping sets, as ``cube`` and ``rollup`` make them."""

_UNKNOWN = "This form of statement is not known here."
_TREE = "select json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)"


@dataclass(frozen=True)
class Checked:
    """What is known of a statement that may run.

    Args:
        patterns: what its parameters are used for; their values are to be checked with it.
        bulky: whether single values of its answer can be large, as those of ``list`` and ``string_agg``.
        repeating: whether a join may repeat such values from row to row of the answer.
        tables: that it reads, as they are spelled in the schema.
    """

    patterns: Patterns
    bulky: bool = False
    repeating: bool = False
    tables: frozenset[str] = frozenset()


def check(cursor: DuckDBPyConnection, sql: str, tables: frozenset[str]) -> Checked:
    """Refuse a statement that does more than to read the given tables.

    Args:
        cursor: a connection without an open result; nothing of the statement is run.
        sql: the statement.
        tables: the names of the tables and views that it may read, without regard to case.

    Returns:
        What is to be known to run it.

    Raises:
        QueryRefused: it does something that is not on the lists, or its values could grow without bound.
        QueryFailed: it is no SQL.
    """
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise QueryFailed("The statement is no valid text: it holds a lone surrogate.") from None
    if len(sql) > MAX_CHARS:
        raise QueryRefused(
            f"The statement is longer than {MAX_CHARS:,} characters; pass values as parameters."
        )
    if "\0" in sql:
        raise QueryFailed("The statement holds a NUL character.")
    statements = _parse(cursor, sql)
    if not statements:
        raise QueryFailed("There is no statement.")
    if len(statements) > 1:
        raise QueryRefused("Only one statement can be run at a time.")
    checker = _Checker(tables)
    try:
        column = checker.query(statements[0]["node"], Scope()).column
        if not _all_seen(statements[0], checker.seen):
            raise QueryRefused(_UNKNOWN)
    except RecursionError:
        raise too_deep() from None
    except (KeyError, TypeError, AttributeError) as error:
        raise QueryRefused(_UNKNOWN) from error
    bulky = bool(column.gathered or column.copied or column.running)
    return Checked(checker.patterns, bulky, bool(column.copied), frozenset(checker.read))


def _parse(cursor: DuckDBPyConnection, sql: str) -> list[Node]:
    text = cursor.execute(_TREE, [sql]).fetchall()[0][0]
    try:
        tree = msgspec.json.decode(text)
    except RecursionError:
        raise too_deep() from None
    if not tree["error"]:
        return list(tree["statements"])
    message = str(tree.get("error_message", ""))
    if not message.startswith("Only SELECT statements"):
        raise QueryFailed(f"{message}{_where(sql, tree.get('position'))}")
    verb = sql.split(maxsplit=1)[0].upper() if sql.strip() else ""
    if verb.startswith("PIVOT"):
        raise QueryRefused(
            "PIVOT needs its values written out: pivot messages on role in ('user', 'assistant') using count(*)."
        )
    raise QueryRefused(
        "Only a SELECT (also FROM …, WITH …, VALUES, PIVOT, UNPIVOT) can be run here; it only reads."
    )


def _where(sql: str, position: object) -> str:
    """Where a byte of the statement stands, as text that can follow a message."""
    try:
        before = sql.encode()[: int(str(position))].decode(errors="replace")
    except ValueError:
        return ""
    return f" (line {before.count(chr(10)) + 1}, character {len(before) - before.rfind(chr(10))})"


def _unnests(value: object) -> bool:
    """Whether a part of a tree calls unnest()."""
    if isinstance(value, dict):
        if "select_list" in value:  # a query of its own
            return False
        return value.get("function_name") == "unnest" or any(map(_unnests, value.values()))
    return isinstance(value, list) and any(map(_unnests, value))


def _all_seen(value: object, seen: set[int]) -> bool:
    """Whether the walk came by every node: one that it does not know of must not slip through."""
    if isinstance(value, dict):
        if id(value) not in seen and ("class" in value or "table_name" in value or "function_name" in value):
            return False
        return all(_all_seen(child, seen) for child in value.values())
    return not isinstance(value, list) or all(_all_seen(child, seen) for child in value)


class _Checker(Expressions):
    """One walk over one statement."""

    def __init__(self, tables: frozenset[str]) -> None:
        super().__init__()
        self._tables = {folded(name): name for name in tables}
        self.read: set[str] = set()
        self._sources = 0
        self._recursive = False

    def _count_sources(self, number: int) -> None:
        self._sources += number
        if self._sources > MAX_SOURCES:
            raise QueryRefused(f"The statement names more than {MAX_SOURCES} tables and subqueries.")

    # Queries

    def query(self, node: Node, outer: Scope) -> Shape:
        """Check a query and say what its columns are like."""
        kind = self._enter(node["type"], node)
        self._descend()
        self._count_sources(1)
        scope = Scope(outer)
        self._with(node, scope)
        if kind == "SELECT_NODE":
            shape = self._select(node, scope)
        elif kind == "SET_OPERATION_NODE":
            shape = Shape()
            for child in node["children"]:
                shape |= self.query(child, scope)
            scope.add("", shape)
        else:
            raise QueryRefused(f"{kind} is not available here.")
        for modifier in node.get("modifiers", ()):
            self._modifier(modifier, scope)
        self._depth -= 1
        return shape

    def _with(self, node: Node, scope: Scope) -> None:
        for item in node.get("cte_map", {}).get("map", ()):
            value = self._part("cte", item["value"])
            body = value["query_node"]
            before = self._sources
            recursive = body["type"] == "RECURSIVE_CTE_NODE"
            shape = self._recursion(body, scope) if recursive else self.query(body, scope)
            if value.get("aliases", []) != body.get("aliases", []):
                shape = shape.renamed()
            scope.ctes[folded(item["key"])] = (shape, self._sources - before)

    def _recursion(self, node: Node, outer: Scope) -> Shape:
        self._enter(node["type"], node)
        self._descend()
        scope = Scope(outer)
        self._with(node, scope)
        first = self.query(node["left"], scope)
        if first.column.running or self._recursive:
            raise QueryRefused("A recursive WITH cannot use another one's step before.")
        self._recursive = True
        given = frozenset(map(folded, node.get("aliases", ())))
        names = given if len(given) == first.columns else None if given else first.names
        before = Shape(first.column | RUNNING, first.row | RUNNING, first.columns, names)
        scope.ctes[folded(node["cte_name"])] = (before, 1)
        step = self.query(node["right"], scope)
        self._recursive = False
        if step.column.running > 1:
            raise QueryRefused(
                "A recursive WITH may add to the value of the step before, but not multiply it (x || x, list(x))."
            )
        gathered = GATHERED if self._grows else NOTHING
        column = first.column | step.column.steady() | gathered
        shape = Shape(column, first.row | step.row.steady() | gathered, first.columns, names)
        scope.add("", shape)
        for modifier in node.get("modifiers", ()):
            self._modifier(modifier, scope)
        self._depth -= 1
        return shape

    def _select(self, node: Node, scope: Scope) -> Shape:
        if "from_table" in node:
            self._table(node["from_table"], scope)
        if len(node.get("group_sets", ())) > MAX_GROUPINGS:
            raise QueryRefused(f"There are more than {MAX_GROUPINGS} grouping sets.")
        if _unnests(node["select_list"]):
            scope.repeat(unnests=True)
        shape = Shape()
        for item in node["select_list"]:
            before = self._stars
            made = self._expression(item, scope)
            if self._stars == before:
                name = item.get("alias") or (
                    item["column_names"][-1] if item["class"] == "COLUMN_REF" else None
                )
                shape = shape.with_column(made, name)
                if item.get("alias"):
                    scope.name(item["alias"], made)
            else:
                whole = item["class"] == "STAR" and "expr" not in item
                columns, row = scope.width(), scope.row()
                shape = shape.with_columns(made, row | made if whole else made * columns, columns)
                if not whole:
                    self._spend("columns(…)", made * columns)
            if shape.columns > MAX_COLUMNS:
                raise QueryRefused(f"A subquery has more than {MAX_COLUMNS:,} columns.")
        for key in ("where_clause", "having", "qualify"):
            if key in node:
                self._expression(node[key], scope)
        self._expressions(node.get("group_expressions", ()), scope)
        if "sample" in node:
            self._part("sample", node["sample"])
        return shape

    # What stands after FROM

    def _table(self, node: Node, scope: Scope) -> None:
        kind = str(node["type"])
        kind = self._enter("TABLE_SUBQUERY" if kind == "SUBQUERY" else kind, node)
        self._descend()
        self._count_sources(1)
        if "sample" in node:
            self._part("sample", node["sample"])
        alias = folded(node.get("alias", ""))
        if kind == "JOIN":
            self._table(node["left"], scope)
            self._table(node["right"], scope)
            if "condition" in node:
                self._expression(node["condition"], scope)
        elif kind != "EMPTY":
            name, shape = self._source(kind, node, scope)
            scope.add(alias or name, shape.renamed() if "column_name_alias" in node else shape)
        self._depth -= 1

    def _source(self, kind: str, node: Node, scope: Scope) -> tuple[str, Shape]:
        """The name by which a table is known if it is given none, and what it is like."""
        if kind == "BASE_TABLE":
            return folded(node["table_name"]), self._base(node, scope)
        if kind == "TABLE_SUBQUERY":
            return "", self.query(self._part("subquery", node["subquery"])["node"], scope)
        if kind == "TABLE_FUNCTION":
            return folded(node["function"]["function_name"]), self._table_function(node, scope)
        if kind == "EXPRESSION_LIST":
            rows = [Shape.of(self._expressions(row, scope)) for row in node["values"]]
            return "", reduce(or_, rows)
        if kind == "PIVOT":
            return "", self._pivot(node, scope)
        raise QueryRefused(_UNKNOWN)

    def _base(self, node: Node, scope: Scope) -> Shape:
        given = str(node["table_name"])
        if node.get("schema_name") or node.get("catalog_name") or node["qualified_name"]["path"] != [given]:
            raise QueryRefused(f"Name the table {given!r} alone, without what stands before it.")
        name = folded(given)
        if (cte := scope.cte(name)) is not None:
            shape, sources = cte
            self._count_sources(sources)
            return shape
        if name not in self._tables:
            raise QueryRefused(
                f"There is no table {given[:80]!r} here; there are {', '.join(sorted(self._tables.values()))}."
            )
        self.read.add(self._tables[name])
        return Shape(STORED, STORED * 2, 16, None)

    def _table_function(self, node: Node, scope: Scope) -> Shape:
        function = node["function"]
        self._enter(function["class"], function)
        if "filter" in function or function.get("distinct") or len(function.get("order_bys", ())) > 1:
            raise QueryRefused(_UNKNOWN)
        name = self._function_name(function)
        if name not in allowed.TABLE_FUNCTIONS:
            raise no_function(name)
        made = self._expressions(
            (self._part("argument", a)["expression"] for a in function["arguments"]), scope
        )
        if name != "unnest":
            return Shape.of([SMALL])
        return replace(Shape.of([size.largest(made)]), parts=True)

    def _pivot(self, node: Node, scope: Scope) -> Shape:
        inner = Scope(scope)
        self._table(node["source"], inner)
        made = self._expressions(node.get("aggregates", ()), inner)
        entries = 1
        for pivot in node["pivots"]:
            self._part("pivot", pivot)
            self._expressions(pivot.get("pivot_expressions", ()), inner)
            entries *= max(1, len(pivot.get("entries", ())))
            for entry in pivot.get("entries", ()):
                if "star_expr" in self._part("pivot entry", entry):
                    made.append(self._expression(entry["star_expr"], inner))
        columns = inner.width() + entries * max(1, len(node.get("aggregates", ())))
        if columns > MAX_COLUMNS:
            raise QueryRefused(f"PIVOT would make more than {MAX_COLUMNS:,} columns.")
        column = size.largest(made) | inner.column()
        if "unpivot_names" in node:
            self._spend("UNPIVOT", column)
        return Shape(column, inner.row() + column * entries, columns, None)
