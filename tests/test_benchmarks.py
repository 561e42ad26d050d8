"""The measurements run, and judge figures as they say; what the figures are is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
