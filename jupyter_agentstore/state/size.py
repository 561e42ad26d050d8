"""How large a value of user SQL can become: a bound, worked out before anything runs.

What belongs here: sizes, what they may be, and how each kind of function makes its result's size from its arguments'.
DuckDB's ``memory_limit`` and ``interrupt`` hold for whole operators; within one call of a function they come late
(``len(range(200000000))`` took 14 GB), and constant calls run before the query does. So ``statement`` asks this
module, and refuses what could explode.

Bounds are rough, to a small factor; what they must catch is growth: a product, a power, a count from a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..core.errors import QueryRefused
from . import allowed

ELEMENT = 16
"""Bytes that an element of a list takes, however short it is."""


@dataclass(frozen=True, slots=True)
class Size:
    """A bound of a value's bytes: a sum of what is known and of multiples of what is not.

    Args:
        fixed: bytes, whatever the data.
        stored: times the longest value of the tables' columns, or a parameter.
        gathered: times what aggregates like ``list`` or ``string_agg`` gather; ``memory_limit`` holds for all such
            values of a query together.
        copied: times the same, but where a join may repeat such a value for each of many rows. That costs nothing
            until a function makes a new value of each.
        running: times the value of the step before, in a recursion or a reduction.
    """

    fixed: int = 0
    stored: int = 0
    gathered: int = 0
    copied: int = 0
    running: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(
            self.fixed + other.fixed,
            self.stored + other.stored,
            self.gathered + other.gathered,
            self.copied + other.copied,
            self.running + other.running,
        )

    def __or__(self, other: Size) -> Size:
        """The larger of two."""
        return Size(
            max(self.fixed, other.fixed),
            max(self.stored, other.stored),
            max(self.gathered, other.gathered),
            max(self.copied, other.copied),
            max(self.running, other.running),
        )

    def __mul__(self, factor: int) -> Size:
        return self.each(lambda part: part * factor)

    def each(self, change: Callable[[int], int]) -> Size:
        """It with every part changed."""
        return Size(
            change(self.fixed),
            change(self.stored),
            change(self.gathered),
            change(self.copied),
            change(self.running),
        )

    @property
    def varies(self) -> bool:
        """Whether it depends on data."""
        return bool(self.stored or self.gathered or self.copied or self.running)

    def exceeds(self, other: Size) -> bool:
        """Whether any part of it is larger than the other's."""
        return self | other != other

    def steady(self) -> Size:
        """It without what comes from the step before."""
        return replace(self, running=0)

    def repeated(self) -> Size:
        """It where rows are repeated."""
        return replace(self, gathered=0, copied=max(self.gathered, self.copied)) if self.gathered else self


NOTHING = Size()
SMALL = Size(ELEMENT)
STORED = Size(stored=1)
GATHERED = Size(gathered=1)
RUNNING = Size(running=1)

VALUE = Size(fixed=100_000, stored=64, gathered=16, copied=0, running=16)
"""What one value that a function makes may be. DuckDB works on 2,048 rows at a time."""

STATEMENT = Size(fixed=1_000_000, stored=5_000, gathered=128, copied=0, running=128)
"""What the results of all of a statement's calls may be together."""

Nodes = Sequence[dict[str, Any]]


def total(sizes: Sequence[Size]) -> Size:
    """The sum of sizes."""
    result = NOTHING
    for size in sizes:
        result += size
    return result


def largest(sizes: Sequence[Size]) -> Size:
    """The largest of sizes, part by part."""
    result = NOTHING
    for size in sizes:
        result |= size
    return result


def for_each(elements: Size, value: Size, name: str) -> Size:
    """The size of a list with one value for each element of another list.

    Raises:
        QueryRefused: both depend on data, so that the result grows with their product.
    """
    if not value.varies:
        return elements.each(lambda part: -(-part * value.fixed // ELEMENT))
    if elements.varies:
        raise QueryRefused(
            f"{name}(): the result grows with the product of two values of unknown size. Take the list apart "
            "with unnest() after FROM instead, where other columns can be used row by row."
        )
    return value * -(-elements.fixed // ELEMENT)


# Constants in the statement's tree


def text_of(node: dict[str, Any]) -> str | None:
    """The text of a string constant; None for anything else."""
    if node.get("class") == "CONSTANT" and node["literal"].get("kind") == "STRING":
        return str(node["literal"].get("text", ""))
    return None


def number_of(node: dict[str, Any]) -> float | None:
    """The number of a numeric constant; None for anything else."""
    if node.get("class") == "CAST":
        return number_of(node["child"])
    if node.get("class") == "CONSTANT" and node["literal"].get("kind") in ("INTEGER", "NUMERIC", "FLOAT"):
        try:
            return float(node["literal"]["text"])
        except (KeyError, ValueError):
            return None
    return None


def bound_of(node: dict[str, Any]) -> int | None:
    """What a number cannot exceed: a constant, or ``least(…, constant)``."""
    if node.get("class") == "CAST":
        return bound_of(node["child"])
    if node.get("class") == "FUNCTION" and node.get("function_name") == "least":
        bounds = [bound_of(argument["expression"]) for argument in node.get("arguments", ())]
        return min((bound for bound in bounds if bound is not None), default=None)
    number = number_of(node)
    return None if number is None or abs(number) > 2**62 else max(0, int(number))


def _is_number(node: dict[str, Any]) -> bool:
    """Whether it is certainly a number, a time or an interval, so that ``+`` adds and joins no lists."""
    if node.get("class") == "CAST":
        return (
            str(node["type_expr"].get("type_name", "")).lower()
            not in allowed.LONG_TYPES | allowed.NESTED_TYPES
        )
    if node.get("class") == "FUNCTION":
        return node.get("function_name") in allowed.INTERVALS
    return number_of(node) is not None


# What functions make of their arguments


def result(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    """A bound of what a function gives.

    Args:
        name: one of :data:`allowed.FUNCTIONS` that takes no lambda.
        nodes: its arguments in the statement's tree.
        sizes: their bounds.

    Raises:
        QueryRefused: there is no bound.
    """
    rule = _RULES.get(name)
    if rule is not None:
        return rule(name, nodes, sizes)
    if name in allowed.COLLECTING or len(nodes) > allowed.TOP.get(name, len(nodes)):
        again = Size(running=2) if any(size.running for size in sizes) else NOTHING
        return GATHERED + again
    if name in allowed.SMALL or (name == "+" and any(map(_is_number, nodes))):
        return SMALL
    if name in allowed.STEADY:
        return largest(sizes) | SMALL
    return (total(sizes) | SMALL) * allowed.FACTORS.get(name, 1)


def _literal(name: str, nodes: Nodes, index: int, what: str) -> str:
    text = text_of(nodes[index]) if len(nodes) > index else None
    if text is None:
        raise QueryRefused(f"{name}(): the {what} must be a text written out in the statement.")
    return text


def _count(name: str, nodes: Nodes, index: int) -> int:
    bound = bound_of(nodes[index]) if len(nodes) > index else None
    if bound is None:
        raise QueryRefused(
            f"{name}(): the number must be written out in the statement, or bounded as in least(n, 100)."
        )
    return bound


def _repeat(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    return sizes[0] * _count(name, nodes, 1) + SMALL if sizes else SMALL


def _pad(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    return Size(4 * _count(name, nodes, 1))


def _resize(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    value = sizes[2] if len(sizes) > 2 else NOTHING
    return largest(sizes[:1]) + (value + SMALL) * _count(name, nodes, 1)


def _range(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    numbers = [number_of(node) for node in nodes]
    if len(nodes) == 1:
        count = float(_count(name, nodes, 0))
    elif all(number is not None for number in numbers) and len(numbers) in (2, 3):
        start, stop, step = (*(number or 0 for number in numbers), 1)[:3]
        count = abs(stop - start) / abs(step or 1)
    else:
        raise QueryRefused(
            f"{name}() of times or columns makes a list of unknown length. "
            f"Put it after FROM, where it makes rows: from {name}(…)."
        )
    return Size(min(int(min(count, 2**62)) + 1, 2**62) * ELEMENT)


def _join(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    separator = 1 if len(nodes) < 2 else len(_literal(name, nodes, 1, "separator").encode())
    return largest(sizes[:1]) * (2 + separator // ELEMENT) + SMALL


def _replace(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    if len(sizes) < 3:
        return largest(sizes)
    if sizes[2].varies:
        raise QueryRefused(
            f"{name}(): with a replacement that is not written out, the result grows with the product of two values "
            "of unknown size."
        )
    by = -(-sizes[2].fixed // max(1, len(text_of(nodes[1]) or "")))
    return sizes[0] * max(1, by) + SMALL


def _replace_pattern(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    replacement = _literal(name, nodes, 2, "replacement")
    if len(nodes) > 3 and "g" not in _literal(name, nodes, 3, "options"):
        return sizes[0] * (1 + replacement.count("\\")) + Size(len(replacement.encode()))
    return sizes[0] * (1 + len(replacement.encode())) + Size(len(replacement.encode()))


def _format(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    pattern = _literal(name, nodes, 0, "pattern")
    digits = "".join(c if c.isdigit() else " " for c in pattern).split()
    if any(len(number) > 3 for number in digits) or "*" in pattern or "{:{" in pattern.replace(" ", ""):
        raise QueryRefused(f"{name}(): widths and precisions must be written out, and below 1,000.")
    places = pattern.count("%") + pattern.count("{")
    return (total(sizes[1:]) + Size(1_000)) * places + Size(len(pattern.encode()))


def _aggregate(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    function = _literal(name, nodes, 1, "aggregate function's name").lower()
    if function not in allowed.AGGREGATES:
        raise QueryRefused(f"{name}(): {function!r} is not an aggregate function that can be used here.")
    return _join(name, nodes[1:], (sizes[0] + SMALL, *sizes[2:])) if nodes[2:] else sizes[0] * 3 + SMALL


def _transform(name: str, nodes: Nodes, sizes: Sequence[Size]) -> Size:
    structure = _literal(name, nodes, 1, "structure")
    fields = 1 + structure.count(",") + structure.count(":")
    return sizes[0] * (8 * fields if "[" in structure else 2) + Size(ELEMENT * fields)


_Rule = Callable[[str, Nodes, Sequence[Size]], Size]
_RULES: dict[str, _Rule] = {
    "repeat": _repeat, "lpad": _pad, "rpad": _pad,
    "list_resize": _resize, "array_resize": _resize, "range": _range, "generate_series": _range,
    "array_to_string": _join, "array_to_string_comma_default": _join, "list_string_agg": _join,
    "replace": _replace, "regexp_replace": _replace_pattern, "format": _format, "printf": _format,
    "list_aggregate": _aggregate, "list_aggr": _aggregate, "array_aggregate": _aggregate,
    "array_aggr": _aggregate, "aggregate": _aggregate,
    "json_transform": _transform, "json_transform_strict": _transform,
    "from_json": _transform, "from_json_strict": _transform,
}  # fmt: skip
