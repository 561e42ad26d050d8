"""What an expression of user SQL may be, and how large its value can become.

What belongs here: the walk over expressions, functions and types. Queries and tables are walked by ``statement``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..core.errors import QueryRefused
from . import allowed, size
from .patterns import Patterns
from .scope import Scope, Shape, folded
from .size import NOTHING, RUNNING, SMALL, STORED, Size

Node = dict[str, Any]

MAX_DEPTH = 100
"""Nesting of expressions and subqueries."""

MAX_CONDITIONS = 1_000
"""ANDs and ORs: DuckDB takes 20 s to simplify 3,000 ORs in one AND, and cannot be interrupted there."""

MAX_DISTINCT = 100
"""Aggregates over distinct values: each has a table of its own, and 300 are not interrupted for 10 s."""

_LAMBDA_DEPTH = 3
_LOOKS_AWAY = frozenset({"current_catalog", "current_database", "current_schema"})


class Expressions:
    """One walk over one statement: its expressions.

    Attributes:
        patterns: what the statement's parameters are used for.
        seen: the nodes that the walk came by, by identity.
    """

    def __init__(self) -> None:
        self.patterns = Patterns()
        self.seen: set[int] = set()
        self._depth = 0
        self._lambdas = 0
        self._stars = 0
        self._conditions = 0
        self._distinct = 0
        self._spent = NOTHING
        self._grows = False

    def query(self, node: Node, outer: Scope) -> Shape:
        """Check a query and say what its columns are like."""
        raise NotImplementedError

    # What every node has

    def _keys(self, kind: str, node: Node, keys: frozenset[str]) -> None:
        for key in node.keys() - keys:
            raise QueryRefused(hint(key) or f"{kind} with {key!r} is not available here.")

    def _enter(self, kind: object, node: Node) -> str:
        if not isinstance(kind, str) or kind not in allowed.KEYS:
            raise QueryRefused(hint(kind) or f"{kind} is not available here.")
        self._keys(kind, node, allowed.KEYS[kind] | allowed.COMMON)
        self.seen.add(id(node))
        return kind

    def _part(self, kind: str, node: Node) -> Node:
        self._keys(kind, node, allowed.PARTS[kind])
        return node

    def _descend(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise too_deep()

    def _spend(self, name: str, made: Size) -> Size:
        """Account for a value that is made anew for each row."""
        self._grows = self._grows or bool(made.running)
        if made.copied:
            raise QueryRefused(
                f"{name}: a value that was gathered (by list, string_agg, a recursion, …) would be copied for each "
                "row of a join. Do this where it is gathered, or take it apart with unnest() after FROM."
            )
        self._spent += made
        if made.exceeds(size.VALUE) or self._spent.exceeds(size.STATEMENT):
            raise QueryRefused(
                f"{name}: the result could become too large; bound it, or make less of it at once."
            )
        return made

    def _hand_on(self, name: str, made: Size) -> Size:
        """Account for a value that points into others."""
        self._spend(name, replace(made, gathered=max(made.gathered, made.copied), copied=0))
        return made

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
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise QueryRefused(
                f"There are more than {MAX_CONDITIONS:,} ANDs and ORs in one another; put what is looked for into a "
                "list: x in (…)."
            )
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
        if self._enter(node["class"], node) == "CONSTANT":
            return NOTHING
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
            return self._hand_on("A list", size.total(made) + SMALL * len(made))
        if kind == "ARRAY_SLICE":
            return self._spend("[…:…]", made[0] | SMALL)
        return size.largest(made) | SMALL

    def _subquery(self, node: Node, scope: Scope) -> Size:
        if "child" in node:
            self._expression(node["child"], scope)
        made = self.query(self._part("subquery", node["subquery"])["node"], scope).column | SMALL
        return made if scope.one_row else made.repeated()

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
            raise no_function(name)
        arguments = [self._part("argument", argument)["expression"] for argument in node.get("arguments", ())]
        if "filter" in node:
            self._expression(node["filter"], scope)
        if "order_bys" in node:
            self._modifier(node["order_bys"], scope)
        if node.get("distinct"):
            self._distinct += 1
            if self._distinct > MAX_DISTINCT:
                raise QueryRefused(f"There are more than {MAX_DISTINCT} aggregates over distinct values.")
        if name in allowed.REGULAR_EXPRESSIONS and len(arguments) > 1:
            self.patterns.expression(name, arguments[1])
        if name in allowed.LAMBDAS:
            return self._spend(f"{name}()", self._lambda_function(name, arguments, scope))
        if name in allowed.JSON_PATHS and len(arguments) > 1:
            made = self._json_path(arguments[0], arguments[1], scope)
            self._expressions(arguments[2:], scope)
            return self._spend(name, SMALL if name in allowed.SMALL else made)
        made = size.result(name, arguments, self._expressions(arguments, scope))
        account = self._hand_on if name in allowed.HANDING_ON else self._spend
        return account(f"{name}()", made)

    def _window(self, node: Node, scope: Scope) -> Size:
        name = self._function_name(node)
        if name not in allowed.FUNCTIONS:
            raise no_function(name)
        self._expressions(node.get("partitions", ()), scope)
        self._orders(node.get("orders", ()), scope)
        self._orders(node.get("arg_orders", ()), scope)
        others = ("start_expr", "end_expr", "offset_expr", "default_expr", "filter_expr", "filter")
        made = self._expressions((node[key] for key in others if key in node), scope)
        arguments = [self._part("argument", argument)["expression"] for argument in node.get("arguments", ())]
        made = self._expressions(arguments, scope) + made
        result = self._hand_on(f"{name}()", size.result(name, arguments, made))
        return result if name in allowed.COLLECTING else result.repeated()

    def _json_path(self, value: Node, path: Node, scope: Scope) -> Size:
        made = self._expression(value, scope) | SMALL
        self._expression(path, scope)
        return made * (16 if self.patterns.path(path) else 1)

    def _lambda_function(self, name: str, arguments: Sequence[Node], scope: Scope) -> Size:
        elements = self._expression(arguments[0], scope) + SMALL
        rest = size.largest(self._expressions(arguments[2:], scope))
        function = arguments[1] if len(arguments) > 1 else {}
        if function.get("class") != "LAMBDA" or function["syntax_type"] == "SINGLE_ARROW":
            raise QueryRefused(f"{name}() takes a lambda: {name}(list, lambda x: …).")
        self._enter(function["class"], function)
        names = [self._parameter_name(node) for node in self._parameters_of(function["lhs"])]
        if self._lambdas >= _LAMBDA_DEPTH:
            raise QueryRefused(f"Lambdas can be nested {_LAMBDA_DEPTH} deep.")
        self._lambdas += 1

        def body(element: Size, so_far: Size = RUNNING) -> Size:
            inner = Scope(scope)
            sizes = [so_far, element] if name in allowed.REDUCING else [element]
            inner.variables.update(zip(names, sizes + [SMALL] * len(names), strict=False))
            return self._expression(function["expr"], inner)

        # What the body makes of all elements together, and what it adds for each of them, however small.
        whole, each = body(elements), body(NOTHING)
        if name in allowed.REDUCING:
            if whole.running > 1:
                raise QueryRefused(
                    f"{name}(): the lambda may add to its first argument, but not multiply it."
                )
            if (elements + rest + body(NOTHING, NOTHING)).running:
                raise QueryRefused(f"{name}() cannot use the step before of a recursive WITH.")
            whole, each = whole.steady() + elements, each.steady()
        self._lambdas -= 1
        if name in allowed.FILTERING:
            return elements
        return whole + size.for_each(elements, each, name) + rest

    def _parameters_of(self, lhs: Node) -> list[Node]:
        if lhs["class"] == "FUNCTION" and lhs["function_name"] == "row":
            self._enter(lhs["class"], lhs)
            return [self._part("argument", argument)["expression"] for argument in lhs["arguments"]]
        return [lhs]

    def _parameter_name(self, node: Node) -> str:
        if self._enter(node["class"], node) != "COLUMN_REF" or len(node["column_names"]) != 1:
            raise QueryRefused("The parameters of a lambda are plain names.")
        return folded(node["column_names"][0])


def hint(key: object) -> str | None:
    """What to say of a kind of node or key that is on no list, if there is anything."""
    text = allowed.HINTS.get(str(key))
    return f"{text}." if text else None


def too_deep() -> QueryRefused:
    """The error for a statement that is nested too deeply."""
    return QueryRefused("The statement is nested too deeply.")


def no_function(name: str) -> QueryRefused:
    """The error for a function that is on no list."""
    told = next((text for start, text in allowed.FUNCTION_HINTS.items() if name.startswith(start)), "")
    return QueryRefused(f"The function {name[:80]}() is not available here{': ' if told else ''}{told}.")
