"""What a statement of user SQL may be: one that only reads this store's tables, with bounded values.

What belongs here: the walk over the tree that DuckDB makes of a statement (``json_serialize_sql``). Names are on the
lists of ``allowed``; how large values become is worked out by ``size``. Whatever is on no list is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core.errors import QueryFailed, QueryRefused
from . import allowed, size
from .scope import Scope, Shape, folded
from .size import GATHERED, NOTHING, RUNNING, SMALL, STORED, Size

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Node = dict[str, Any]

MAX_CHARS = 100_000
"""Length of a statement. Values belong into parameters."""

MAX_DEPTH = 100
"""Nesting of expressions and subqueries."""

MAX_SOURCES = 500
"""Tables and subqueries after FROM, a WITH counted as often as it is named."""

MAX_COLUMNS = 5_000
"""Columns of a subquery."""

MAX_GROUPINGS = 256
"""Grouping sets, as ``cube`` and ``rollup`` make them."""

_LAMBDA_DEPTH = 3
_TREE = "select json_serialize_sql(?, skip_null := true, skip_empty := true, skip_default := true)"
_LOOKS_AWAY = frozenset({"current_catalog", "current_database", "current_schema"})


def check(cursor: DuckDBPyConnection, sql: str, tables: frozenset[str]) -> frozenset[str]:
    """Refuse a statement that does more than to read the given tables.

    Args:
        cursor: a connection without an open result; nothing of the statement is run.
        sql: the statement.
        tables: the names of the tables and views that it may read, without regard to case.

    Returns:
        The names of the parameters that are paths into JSON (``"1"`` for the first ``?``): see :func:`is_recursive`.

    Raises:
        QueryRefused: it does something that is not on the lists, or its values could grow without bound.
        QueryFailed: it is no SQL.
    """
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
    checker = _Checker(frozenset(folded(name) for name in tables))
    try:
        checker.query(statements[0]["node"], Scope())
    except RecursionError:
        raise _too_deep() from None
    except (KeyError, TypeError, AttributeError) as error:
        raise QueryRefused("This form of statement is not known here.") from error
    return frozenset(checker.paths)


def is_recursive(path: object) -> bool:
    """Whether a path into JSON descends: ``$..a`` over deeply nested JSON gives a quadratic amount of text."""
    return isinstance(path, str) and path.startswith("$") and (".." in path or "**" in path)


def _parse(cursor: DuckDBPyConnection, sql: str) -> list[Node]:
    try:
        text = cursor.execute(_TREE, [sql]).fetchall()[0][0]
    except UnicodeEncodeError:
        raise QueryFailed("The statement is no valid text: it holds a lone surrogate.") from None
    try:
        tree = msgspec.json.decode(text)
    except RecursionError:
        raise _too_deep() from None
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
    if not isinstance(position, int) or not 0 <= position <= len(sql.encode()):
        return ""
    before = sql.encode()[:position].decode(errors="replace")
    return f" (line {before.count(chr(10)) + 1}, character {len(before) - before.rfind(chr(10))})"


def _too_deep() -> QueryRefused:
    return QueryRefused("The statement is nested too deeply.")


class _Checker:
    """One walk over one statement."""

    def __init__(self, tables: frozenset[str]) -> None:
        self.paths: set[str] = set()
        self._tables = tables
        self._depth = 0
        self._lambdas = 0
        self._sources = 0
        self._spent = NOTHING
        self._stars = 0

    # What every node has

    def _keys(self, kind: str, node: Node, keys: frozenset[str]) -> None:
        for key in node.keys() - keys:
            raise QueryRefused(_hint(key) or f"{kind} with {key!r} is not available here.")

    def _enter(self, kind: object, node: Node) -> str:
        if not isinstance(kind, str) or kind not in allowed.KEYS:
            raise QueryRefused(_hint(kind) or f"{kind} is not available here.")
        self._keys(kind, node, allowed.KEYS[kind] | allowed.COMMON)
        return kind

    def _part(self, kind: str, node: Node) -> Node:
        self._keys(kind, node, allowed.PARTS[kind])
        return node

    def _descend(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _too_deep()

    def _count_sources(self, number: int) -> None:
        self._sources += number
        if self._sources > MAX_SOURCES:
            raise QueryRefused(f"The statement names more than {MAX_SOURCES} tables and subqueries.")

    def _spend(self, name: str, made: Size) -> Size:
        self._spent += made
        if made.exceeds(size.VALUE) or self._spent.exceeds(size.STATEMENT):
            raise QueryRefused(
                f"{name}: the result could become too large; bound it, or make less of it at once."
            )
        return made

    # Queries

    def query(self, node: Node, outer: Scope) -> Shape:
        """Check a query and say what its columns are like."""
        kind = self._enter(node["type"], node)
        self._descend()
        self._count_sources(1)
        scope = Scope(outer)
        for item in node.get("cte_map", {}).get("map", ()):
            self._cte(folded(item["key"]), self._part("cte", item["value"]), scope)
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

    def _cte(self, name: str, value: Node, scope: Scope) -> None:
        body = value["query_node"]
        before = self._sources
        recursive = body["type"] == "RECURSIVE_CTE_NODE"
        shape = self._recursion(body, scope) if recursive else self.query(body, scope)
        scope.ctes[name] = (shape, self._sources - before)

    def _recursion(self, node: Node, scope: Scope) -> Shape:
        self._enter(node["type"], node)
        first = self.query(node["left"], scope)
        inner = Scope(scope)
        inner.ctes[folded(node["cte_name"])] = (
            Shape(first.column | RUNNING, first.row | RUNNING, first.columns),
            1,
        )
        step = self.query(node["right"], inner)
        if step.column.running > 1:
            raise QueryRefused(
                "A recursive WITH may add to the value of the step before, but not multiply it (x || x, list(x))."
            )
        column = first.column | step.column.steady() | GATHERED
        return Shape(column, first.row | step.row.steady() | GATHERED, first.columns)

    def _select(self, node: Node, scope: Scope) -> Shape:
        if "from_table" in node:
            self._table(node["from_table"], scope)
        if len(node.get("group_sets", ())) > MAX_GROUPINGS:
            raise QueryRefused(f"There are more than {MAX_GROUPINGS} grouping sets.")
        shape = Shape()
        for item in node["select_list"]:
            before = self._stars
            made = self._expression(item, scope)
            if self._stars == before:
                shape = shape.with_column(made)
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

    def _modifier(self, node: Node, scope: Scope) -> None:
        self._enter(node["type"], node)
        self._orders(node.get("orders", ()), scope)
        self._expressions(node.get("distinct_on_targets", ()), scope)
        for key in ("limit", "offset"):
            if key in node:
                self._expression(node[key], scope)

    def _orders(self, orders: Iterable[Node], scope: Scope) -> None:
        for order in orders:
            self._expression(self._part("order", order)["expression"], scope)

    # What stands after FROM

    def _table(self, node: Node, scope: Scope) -> None:
        kind = str(node["type"])
        kind = self._enter("TABLE_SUBQUERY" if kind == "SUBQUERY" else kind, node)
        self._descend()
        self._count_sources(1)
        if "sample" in node:
            self._part("sample", node["sample"])
        alias = folded(node.get("alias", ""))
        if kind == "BASE_TABLE":
            scope.add(alias or folded(node["table_name"]), self._base(node, scope))
        elif kind == "TABLE_SUBQUERY":
            scope.add(alias, self.query(self._part("subquery", node["subquery"])["node"], scope))
        elif kind == "JOIN":
            self._table(node["left"], scope)
            self._table(node["right"], scope)
            if "condition" in node:
                self._expression(node["condition"], scope)
        elif kind == "TABLE_FUNCTION":
            scope.add(alias or folded(node["function"]["function_name"]), self._table_function(node, scope))
        elif kind == "EXPRESSION_LIST":
            made = [self._expressions(row, scope) for row in node["values"]]
            scope.add(alias, Shape.of(max(made, key=len)) if made else Shape())
        elif kind == "PIVOT":
            self._pivot(node, alias, scope)
        self._depth -= 1

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
                f"There is no table {given[:80]!r} here; there are {', '.join(sorted(self._tables))}."
            )
        return Shape(STORED, STORED * 2, 16)

    def _table_function(self, node: Node, scope: Scope) -> Shape:
        function = node["function"]
        self._enter(function["class"], function)
        name = self._function_name(function)
        if name not in allowed.TABLE_FUNCTIONS:
            raise _no_function(name)
        made = self._expressions(
            (self._part("argument", a)["expression"] for a in function["arguments"]), scope
        )
        return Shape.of([size.largest(made) if name == "unnest" else SMALL] * 2)

    def _pivot(self, node: Node, alias: str, scope: Scope) -> None:
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
        scope.add(alias, Shape(column, inner.row() + column * entries, columns))

    # Expressions

    def _expressions(self, nodes: Iterable[Node], scope: Scope) -> list[Size]:
        return [self._expression(node, scope) for node in nodes]

    def _expression(self, node: Node, scope: Scope) -> Size:
        kind = self._enter(node["class"], node)
        self._descend()
        made: Size = getattr(self, "_" + kind.lower())(node, scope)
        self._depth -= 1
        return made

    def _column_ref(self, node: Node, scope: Scope) -> Size:
        names = node["column_names"]
        if len(names) == 1 and folded(names[0]) in _LOOKS_AWAY:
            raise QueryRefused(f"{names[0]} is not available here.")
        return scope.resolve(names)

    def _positional_reference(self, node: Node, scope: Scope) -> Size:
        return scope.column()

    def _star(self, node: Node, scope: Scope) -> Size:
        self._stars += 1
        made = scope.column()
        for item in node.get("replace_list", ()):
            made |= self._expression(item["value"], scope)
        if "expr" in node:
            made |= self._expression(node["expr"], scope)
        return made

    def _constant(self, node: Node, scope: Scope) -> Size:
        return Size(max(size.ELEMENT, len(str(node["literal"].get("text", "")).encode())))

    def _parameter(self, node: Node, scope: Scope) -> Size:
        return STORED

    def _comparison(self, node: Node, scope: Scope) -> Size:
        self._expressions((node["left"], node["right"]), scope)
        return SMALL

    def _conjunction(self, node: Node, scope: Scope) -> Size:
        self._expressions(node["children"], scope)
        return SMALL

    def _between(self, node: Node, scope: Scope) -> Size:
        self._expressions((node["input"], node["lower"], node["upper"]), scope)
        return SMALL

    def _case(self, node: Node, scope: Scope) -> Size:
        made = [self._expression(node["else_expr"], scope)] if "else_expr" in node else []
        for branch in node["case_checks"]:
            self._expression(self._part("case", branch)["when_expr"], scope)
            made.append(self._expression(branch["then_expr"], scope))
        return size.largest(made)

    def _collate(self, node: Node, scope: Scope) -> Size:
        return self._expression(node["child"], scope)

    def _cast(self, node: Node, scope: Scope) -> Size:
        made = self._expression(node["child"], scope)
        names: list[str] = []
        own = self._type_size(node["type_expr"], names)
        if not names or names[0] not in allowed.LONG_TYPES | allowed.NESTED_TYPES:
            return SMALL
        lists = {"list", "map", "array"} & set(names)
        return self._spend("A cast", made * (8 * len(names) if lists else 2) + own)

    def _type(self, node: Node, scope: Scope) -> Size:
        return self._type_size(node, [])

    def _type_size(self, node: Node, names: list[str]) -> Size:
        if node["class"] == "CONSTANT":
            return NOTHING
        self._enter(node["class"], node)
        self._descend()
        name = folded(node["type_name"])
        if node.get("schema") or node.get("catalog") or node["qualified_name"]["path"] != [node["type_name"]]:
            raise QueryRefused(f"Name the type {name[:80]!r} alone, without what stands before it.")
        if name not in allowed.TYPES:
            raise QueryRefused(f"The type {name[:80]!r} is not available here.")
        names.append(name)
        children = node.get("children", ())
        made = size.total([self._type_size(child, names) for child in children]) + SMALL
        if name == "array" and (length := size.number_of(children[-1])) is not None:
            made = made * max(1, min(int(length), 2**32))
        self._depth -= 1
        return made

    def _operator(self, node: Node, scope: Scope) -> Size:
        kind = node["type"]
        if kind not in allowed.OPERATORS:
            raise QueryRefused(f"{kind} is not available here.")
        made = self._expressions(node["children"], scope)
        if kind == "OPERATOR_UNPACK":
            return scope.row() | size.total(made)
        if kind == "ARRAY_CONSTRUCTOR":
            return self._spend("A list", size.total(made) + SMALL * len(made))
        return size.largest(made) | SMALL

    def _subquery(self, node: Node, scope: Scope) -> Size:
        if "child" in node:
            self._expression(node["child"], scope)
        return self.query(self._part("subquery", node["subquery"])["node"], scope).column | SMALL

    def _lambda(self, node: Node, scope: Scope) -> Size:
        # Where no lambda belongs, DuckDB takes `a -> b` for the path into JSON.
        if node["syntax_type"] != "SINGLE_ARROW":
            raise QueryRefused("A lambda can only be an argument of a function such as list_transform.")
        return self._spend("->", self._json_path(node["lhs"], node["expr"], scope))

    # Functions

    def _function_name(self, node: Node) -> str:
        given = str(node["function_name"])
        if node.get("schema") or node.get("catalog") or node["qualified_name"]["path"] != [given]:
            raise QueryRefused(f"Write the function as {given[:80]}(x, …), without anything before its name.")
        return folded(given)

    def _function(self, node: Node, scope: Scope) -> Size:
        name = self._function_name(node)
        if name not in allowed.FUNCTIONS:
            raise _no_function(name)
        arguments = [self._part("argument", argument)["expression"] for argument in node.get("arguments", ())]
        if "filter" in node:
            self._expression(node["filter"], scope)
        if "order_bys" in node:
            self._modifier(node["order_bys"], scope)
        if name in allowed.LAMBDAS:
            return self._spend(f"{name}()", self._lambda_function(name, arguments, scope))
        if name in allowed.JSON_PATHS and len(arguments) > 1:
            made = self._json_path(arguments[0], arguments[1], scope)
            self._expressions(arguments[2:], scope)
            return self._spend(name, SMALL if name in allowed.SMALL else made)
        made = size.result(name, arguments, self._expressions(arguments, scope))
        return self._spend(f"{name}()", made)

    def _window(self, node: Node, scope: Scope) -> Size:
        name = self._function_name(node)
        if name not in allowed.FUNCTIONS:
            raise _no_function(name)
        self._expressions(node.get("partitions", ()), scope)
        self._orders(node.get("orders", ()), scope)
        self._orders(node.get("arg_orders", ()), scope)
        others = ("start_expr", "end_expr", "offset_expr", "default_expr", "filter_expr", "filter")
        made = self._expressions((node[key] for key in others if key in node), scope)
        arguments = [self._part("argument", argument)["expression"] for argument in node.get("arguments", ())]
        made = self._expressions(arguments, scope) + made
        return self._spend(f"{name}()", size.result(name, arguments, made))

    def _json_path(self, value: Node, path: Node, scope: Scope) -> Size:
        made = self._expression(value, scope) | SMALL
        self._expression(path, scope)
        return made * (16 if self._wildcards(path) else 1)

    def _wildcards(self, path: Node) -> bool:
        """Whether a path gives lists. In a path that is computed for each row DuckDB allows no wildcards."""
        kind = path["class"]
        if kind == "PARAMETER":
            self.paths.add(str(path["identifier"]))
            return True
        if kind == "CONSTANT":
            text = size.text_of(path) or ""
            if is_recursive(text):
                raise QueryRefused("Paths into JSON that descend (`$..a`) are not available here.")
            return "*" in text
        if kind == "FUNCTION" and path["function_name"] == "list_value":
            found = [self._wildcards(item["expression"]) for item in path.get("arguments", ())]
            return True in found
        if not _has_column(path):
            raise QueryRefused("Write a path into JSON as one text, not as a computation.")
        return False

    def _lambda_function(self, name: str, arguments: Sequence[Node], scope: Scope) -> Size:
        elements = self._expression(arguments[0], scope) + SMALL
        rest = size.largest(self._expressions(arguments[2:], scope))
        function = arguments[1] if len(arguments) > 1 else {}
        if function.get("class") != "LAMBDA" or function["syntax_type"] == "SINGLE_ARROW":
            raise QueryRefused(f"{name}() takes a lambda: {name}(list, lambda x: …).")
        self._enter(function["class"], function)
        names = [_name_of(item) for item in _parts_of(function["lhs"])]
        if self._lambdas >= _LAMBDA_DEPTH:
            raise QueryRefused(f"Lambdas can be nested {_LAMBDA_DEPTH} deep.")
        self._lambdas += 1
        first = {names[0]: RUNNING} if name in allowed.REDUCING else {}
        others = names[1:] if first else names[:1]

        def body(element: Size) -> Size:
            inner = Scope(scope)
            inner.variables.update(
                {each: SMALL for each in names} | {each: element for each in others} | first
            )
            return self._expression(function["expr"], inner)

        # What the body makes of all elements together, and what it adds for each of them, however small.
        whole, each = body(elements), body(NOTHING)
        self._lambdas -= 1
        if name in allowed.FILTERING:
            return elements
        if first:
            if whole.running > 1:
                raise QueryRefused(
                    f"{name}(): the lambda may add to its first argument, but not multiply it."
                )
            whole, each = whole.steady() + elements, each.steady()
        return whole + size.for_each(elements, each, name) + rest


def _parts_of(lhs: Node) -> list[Node]:
    if lhs["class"] == "FUNCTION" and lhs["function_name"] == "row":
        return [argument["expression"] for argument in lhs["arguments"]]
    return [lhs]


def _name_of(node: Node) -> str:
    if node["class"] != "COLUMN_REF" or len(node["column_names"]) != 1:
        raise QueryRefused("The parameters of a lambda are plain names.")
    return folded(node["column_names"][0])


def _has_column(value: object) -> bool:
    if isinstance(value, dict):
        return value.get("class") == "COLUMN_REF" or any(map(_has_column, value.values()))
    return isinstance(value, list) and any(map(_has_column, value))


def _hint(key: object) -> str | None:
    text = allowed.HINTS.get(str(key))
    return f"{text}." if text else None


def _no_function(name: str) -> QueryRefused:
    hint = next((text for start, text in allowed.FUNCTION_HINTS.items() if name.startswith(start)), "")
    return QueryRefused(f"The function {name[:80]}() is not available here{': ' if hint else ''}{hint}.")
