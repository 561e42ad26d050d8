"""The measurements run, and judge figures as they say; what the figures are is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Figure, Table, Target, percentile

ROOT = Path(__file__).parents[1]


def test_a_quick_run_prints_a_table_with_its_command_and_saves_the_figures(tmp_path: Path) -> None:
    result = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "single",
        "--quick",
        "--json",
        str(result),
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("python -m benchmarks single --quick")
    [table] = json.loads(result.read_text())["tables"]
    assert set(table["rows"][0]["figures"]) == {"agentstore", "sqlite3", "eventsourcing"}
    assert list(tmp_path.iterdir()) == [result]


def test_kernels_are_measured_and_a_quick_run_does_without_livestore(tmp_path: Path) -> None:
    [table] = quick("sync", tmp_path)
    figures = {row["label"]: row["figures"] for row in table["rows"]}
    assert figures["both commit 200 at once, converged"] == figures["both commit 200 at once, rounds"]
    assert set(figures["commit to row subscription, p50"]) == {"agentstore"}


@pytest.mark.parametrize(("name", "label"), [("join", "joined"), ("idle", "memory, each connection")])
def test_a_measurement_of_kernels_runs(name: str, label: str, tmp_path: Path) -> None:
    [table] = quick(name, tmp_path)
    assert label in [row["label"] for row in table["rows"]]


def quick(name: str, folder: Path) -> list[dict[str, Any]]:
    """The tables of a quick run."""
    result = folder / "figures.json"
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--json", str(result)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    tables: list[dict[str, Any]] = json.loads(result.read_text())["tables"]
    return tables


def test_a_measurement_that_is_not_there_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "nonesuch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 2
    assert "nonesuch" in done.stderr


@pytest.mark.parametrize(
    ("target", "value", "met"),
    [(Target(1.0), 1.0, True), (Target(1.0), 1.1, False), (Target(5, most=False), 4, False)],
)
def test_a_target_is_met_or_missed(
    capsys: pytest.CaptureFixture[str], target: Target, value: float, met: bool
) -> None:
    table = Table("A title", ["ours"])
    table.add("a row", Figure(value, "ms"), target=target)
    table.print()
    assert ("MISSED" in capsys.readouterr().out) is not met
    assert table.plain()["rows"][0]["met"] is met


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 51.0, 100.0, 100.0]
