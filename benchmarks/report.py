"""Tables of figures: how they are kept, judged, printed and saved. Nothing here measures anything."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A number with its unit: ``ms``, ``s``, ``/s``, ``MB``, or nothing for a count."""

    value: float
    unit: str = ""

    def __str__(self) -> str:
        value = self.value
        if (self.unit in ("/s", "") and abs(value) >= 100) or abs(value) >= 1000:
            shown = f"{value:,.0f}"
        elif self.unit == "" and value == int(value):
            shown = f"{value:.0f}"
        elif abs(value) >= 10:
            shown = f"{value:.1f}"
        elif value >= 1:
            shown = f"{value:.2f}"
        else:
            shown = f"{value:.3g}"
        return f"{shown} {self.unit}".rstrip()


@dataclass(frozen=True)
class Target:
    """What a figure should be: at most or at least a bound, in the figure's unit."""

    bound: float
    most: bool = True

    def met(self, figure: Figure) -> bool:
        return figure.value <= self.bound if self.most else figure.value >= self.bound

    def shown(self, unit: str) -> str:
        bound = str(Figure(self.bound, unit)).replace(".00 ", " ").replace(".0 ", " ")
        return f"{'<=' if self.most else '>='} {bound}"


@dataclass
class Table:
    """Rows of figures, one column for each system; the first column is the one that targets speak of."""

    title: str
    columns: Sequence[str]
    note: str = ""
    rows: list[tuple[str, list[Figure | None], Target | None]] = field(default_factory=list)

    def add(self, label: str, *figures: Figure | None, target: Target | None = None) -> None:
        self.rows.append((label, list(figures), target))

    def print(self) -> None:
        lines = [["", *self.columns, "target"]]
        for label, figures, target in self.rows:
            cells = [str(figure) if figure else "–" for figure in figures]
            cells += ["–"] * (len(self.columns) - len(cells))
            verdict = ""
            if target is not None and figures[0] is not None:
                met = "met" if target.met(figures[0]) else "MISSED"
                verdict = f"{target.shown(figures[0].unit)}  {met}"
            lines.append([label, *cells, verdict])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        print(f"\n{self.title}")
        for line in lines:
            first, *middle, last = (
                cell.ljust(width) if i in (0, len(widths) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            print(f"  {first}  {'  '.join(middle)}   {last}".rstrip())
        if self.note:
            print(f"  ({self.note})")

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "title": self.title,
            "note": self.note,
            "rows": [
                {
                    "label": label,
                    "unit": next((f.unit for f in figures if f), ""),
                    "figures": {
                        column: figure.value
                        for column, figure in zip(self.columns, figures, strict=False)
                        if figure
                    },
                    "target": [("<=" if target.most else ">="), target.bound] if target else None,
                    "met": target.met(figures[0]) if target and figures[0] else None,
                }
                for label, figures, target in self.rows
            ],
        }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share (0 to 1) of the ordered values lies."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def median(values: Sequence[float]) -> float:
    return percentile(sorted(values), 0.5)


def add_latencies(
    table: Table, label: str, seconds: Sequence[Sequence[float]], target: Target | None
) -> None:
    """Rows for p50, p99, p99.9 and the longest, from each system's latencies; the target is the p50's."""
    ordered = [sorted(values) for values in seconds]
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("longest", 1.0)):
        figures = [Figure(percentile(values, share) * 1e3, "ms") if values else None for values in ordered]
        table.add(f"{label} {name}".strip(), *figures, target=target if name == "p50" else None)


def machine() -> str:
    """One line on what this was measured on and with."""
    cpu = platform.processor() or platform.machine()
    memory = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    import sqlite3

    versions = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    for name in ("duckdb", "eventsourcing", "pyarrow", "jupyter_server"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"{name} not installed")
    return f"{os.cpu_count()} × {cpu}{memory}, {sys.platform}; {', '.join(versions)}"
