"""Patterns that are programs of their own: paths into JSON and regular expressions.

What belongs here: which of them user SQL may contain. Either can stand in the statement or come as a parameter, so
what a parameter is used for is kept until its value is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import QueryRefused
from .size import text_of

MAX_STEPS = 2_000
"""What a regular expression may come to when its counted repetitions are written out.

DuckDB's engine takes linear time, but linear in the product of text and expression, and cannot be interrupted within
2,048 rows: ``(a|b|c){1,50}`` fifteen times over held it for minutes.
"""

_RECURSIVE = "Paths into JSON that descend (`$..a`) are not available here."


class Patterns:
    """The patterns of one statement, those in its text checked, those in its parameters noted.

    Attributes:
        paths: names of the parameters that are paths into JSON (``"1"`` for the first ``?``).
        expressions: names of the parameters that are regular expressions.
    """

    def __init__(self) -> None:
        self.paths: set[str] = set()
        self.expressions: set[str] = set()

    def path(self, node: dict[str, Any]) -> bool:
        """Check a path into JSON and say whether it may find several values.

        Raises:
            QueryRefused: it descends, or what it is cannot be seen.
        """
        if node["class"] == "PARAMETER":
            self.paths.add(str(node["identifier"]))
            return True
        if node["class"] == "CONSTANT":
            text = text_of(node) or ""
            _check_path(text)
            return "*" in text
        if node["class"] == "FUNCTION" and node["function_name"] == "list_value":
            several = [self.path(item["expression"]) for item in node.get("arguments", ())]
            return True in several
        if not _has_column(node):  # one that is computed for each row can have no wildcards: DuckDB says so
            raise QueryRefused("Write a path into JSON as one text, not as a computation.")
        return False

    def expression(self, name: str, node: dict[str, Any]) -> None:
        """Check a regular expression.

        Raises:
            QueryRefused: it is too large, or neither written out nor a parameter.
        """
        if node["class"] == "PARAMETER":
            self.expressions.add(str(node["identifier"]))
        elif node["class"] == "CONSTANT":
            _check_expression(text_of(node) or "")
        else:
            raise QueryRefused(
                f"{name}(): write the regular expression out, or pass it as a parameter; contains(a, b) finds one "
                "text in another."
            )

    def check(self, params: Mapping[str, Any]) -> None:
        """Check what the statement's parameters turn out to be.

        Raises:
            QueryRefused: one of them may not be what it is used for.
        """
        for name in self.paths & params.keys():
            value = params[name]
            for text in value if isinstance(value, list | tuple) else (value,):
                _check_path(str(text))
        for name in self.expressions & params.keys():
            _check_expression(str(params[name]))


def _check_path(path: str) -> None:
    """Refuse one that descends: over deeply nested JSON it finds a quadratic amount of text."""
    if path.startswith("$") and (".." in path or "**" in path):
        raise QueryRefused(_RECURSIVE)


def _check_expression(expression: str) -> None:
    if steps(expression) > MAX_STEPS:
        raise QueryRefused(
            f"The regular expression {expression[:40]!r} is too large: with its repetitions written out it has more "
            f"than {MAX_STEPS:,} steps."
        )


def steps(expression: str) -> int:
    """About how long a regular expression is with its counted repetitions written out."""
    groups: list[int] = []  # the steps of the groups around, so far
    total, last, index = 0, 0, 0
    while index < len(expression):
        character = expression[index]
        index += 1
        if character == "(":
            groups.append(total)
            total, last = 0, 0
            continue
        if character == ")" and groups:
            last, total = total + 1, groups.pop() + total + 1
            continue
        if character == "{":
            end = expression.find("}", index)
            counts = expression[index:end].split(",") if end > 0 else []
            if counts and all(count.strip().isdecimal() or not count.strip() for count in counts):
                times = max((int(count) for count in counts if count.strip()), default=1)
                total += last * (max(times, 1) - 1)
                last *= max(times, 1)
                index = end + 1
                continue
        last = 1
        if character == "[":
            index = _after_class(expression, index)
            last = 5
        elif character == "\\":
            last = 100 if expression[index : index + 1] in ("p", "P") else 2
            index += 1
        elif character == ".":
            last = 5
        elif character in "*+?|^$":
            last = 1
        total += last
        if total > 10**9:
            return total
    return total + sum(groups)


def _after_class(expression: str, index: int) -> int:
    index += expression.startswith("^", index)
    end = expression.find("]", index + 1)  # a bracket that comes first stands for itself
    return end + 1 if end > 0 else len(expression)


def _has_column(value: object) -> bool:
    if isinstance(value, dict):
        return value.get("class") == "COLUMN_REF" or any(map(_has_column, value.values()))
    return isinstance(value, list) and any(map(_has_column, value))
