"""Which names a part of user SQL sees, and how large the values behind them are.

What belongs here: the nesting of WITH, FROM, aliases and lambdas, for ``statement``. A name that could mean several
things has the size of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import size
from .size import NOTHING, SMALL, Size

_UNNAMED = ("unnamed_", "__unnamed")


def folded(name: str) -> str:
    """A name as it is compared: DuckDB ignores the case of ASCII letters."""
    return name.lower() if name.isascii() else name


@dataclass(frozen=True, slots=True)
class Shape:
    """What the columns of a table or subquery are like.

    Args:
        column: the largest column.
        row: all columns together, as a table's name used as a value means them.
        columns: how many there are.
        names: what they are called, or None if that is not known of all.
        parts: whether its rows are the parts of a list in the table before it.
    """

    column: Size = NOTHING
    row: Size = NOTHING
    columns: int = 0
    names: frozenset[str] | None = frozenset()
    parts: bool = False

    @classmethod
    def of(cls, columns: Sequence[Size]) -> Shape:
        """The shape of a row of given columns."""
        return cls(size.largest(columns), size.total(columns), len(columns), None)

    def __or__(self, other: Shape) -> Shape:
        columns = max(self.columns, other.columns)
        return Shape(self.column | other.column, self.row | other.row, columns, _joined(self, other.names))

    def with_column(self, column: Size, name: str | None) -> Shape:
        """It with one more column."""
        names = _joined(self, None if name is None else frozenset({folded(name)}))
        return Shape(self.column | column, self.row + column, self.columns + 1, names)

    def with_columns(self, column: Size, row: Size, columns: int) -> Shape:
        """It with several more columns, none larger than ``column`` and together as large as ``row``."""
        return Shape(self.column | column, self.row + row, self.columns + columns, None)

    def repeated(self) -> Shape:
        """It where its rows may be repeated."""
        return replace(self, column=self.column.repeated(), row=self.row.repeated())

    def renamed(self) -> Shape:
        """It with other names, which need not be known."""
        return replace(self, names=None)

    def may_have(self, name: str) -> bool:
        """Whether one of its columns may be called so."""
        return self.names is None or name in self.names


def _joined(shape: Shape, names: frozenset[str] | None) -> frozenset[str] | None:
    return None if shape.names is None or names is None else shape.names | names


class Scope:
    """The names that one query, or one lambda, adds to those around it.

    Attributes:
        ctes: what WITH names, each with the number of tables that it takes to make.
        variables: a lambda's parameters.
    """

    def __init__(self, outer: Scope | None = None) -> None:
        self.ctes: dict[str, tuple[Shape, int]] = {}
        self.variables: dict[str, Size] = {}
        self._aliases: dict[str, Size] = {}
        self._sources: list[tuple[str, Shape]] = []
        self._unnests = False
        self._outer = outer

    def add(self, name: str, shape: Shape) -> None:
        """Add a table, under its alias; one without has an empty name. Two or more may repeat each other's rows."""
        parts = shape.parts and len(self._sources) == 1  # of the one table before it: each is there once
        if self._sources:
            self.repeat()
        several = bool(self._sources) and not parts
        self._sources.append((name, shape.repeated() if several else shape))

    def repeat(self, unnests: bool = False) -> None:
        """Note that the rows of the tables so far may be there several times."""
        self._unnests = self._unnests or unnests
        self._sources = [(name, shape.repeated()) for name, shape in self._sources]

    def name(self, alias: str, value: Size) -> None:
        """Add the alias of a column of the result, which its neighbours can use."""
        alias = folded(alias)
        self._aliases[alias] = self._aliases.get(alias, NOTHING) | value

    def cte(self, name: str) -> tuple[Shape, int] | None:
        """What a name means by WITH."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope._outer
        return None

    @property
    def one_row(self) -> bool:
        """Whether it certainly has but one row, as a SELECT without FROM."""
        query = self._query()
        return not query._sources and not query._unnests

    def column(self) -> Size:
        """The largest column of the tables after FROM."""
        return size.largest([shape.column for _, shape in self._query()._sources])

    def row(self) -> Size:
        """All columns of the tables after FROM together."""
        return size.total([shape.row for _, shape in self._query()._sources])

    def width(self) -> int:
        """How many columns the tables after FROM have."""
        return sum(shape.columns for _, shape in self._query()._sources)

    def resolve(self, names: Sequence[str]) -> Size:
        """The size of what a reference means: a column, a field of one, a table as a value, an alias, a variable."""
        head, *fields = (folded(name) for name in names)
        made = SMALL
        scope: Scope | None = self
        inside = (
            True  # the query that the reference stands in; those around it may see each row several times
        )
        while scope is not None:
            if head in scope.variables:
                return made | scope.variables[head]
            found = scope._aliases.get(head, NOTHING)
            for name, shape in scope._sources:
                called = not name or name == head or name in fields
                if shape.may_have(head) or (fields and called):
                    found |= shape.column
                if not fields and (name == head or (not name and head.startswith(_UNNAMED))):
                    found |= shape.row
            made |= found if inside else found.repeated()
            inside = inside and bool(scope.variables)
            scope = scope._outer
        return made

    def _query(self) -> Scope:
        """The nearest scope that is a query's: a lambda has no FROM of its own."""
        scope = self
        while scope.variables and scope._outer is not None:
            scope = scope._outer
        return scope
