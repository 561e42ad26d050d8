"""The rooms of the package import only what they may; and the contracts that say so would notice if they did not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CHECK = "from importlinter.cli import lint_imports_command; lint_imports_command()"

VIOLATIONS = {
    "core": ["import duckdb", "import time", "from .. import duck"],
    "duck.py": ["from . import events"],
    "events.py": ["from . import store"],
    "eventlog": ["from .. import state", "from .. import events"],
    "state": ["from .. import eventlog", "from .. import sync"],
    "sync": ["from .. import duck", "import asyncio", "from .. import store"],
    "store": ["from .. import sync", "from .. import agent", "import tornado"],
    "agent": ["from .. import eventlog", "from .. import state", "from .. import server"],
    "server": ["from .. import client", "from .. import widgets"],
    "client": ["from .. import eventlog", "from .. import server", "from .. import widgets"],
    "widgets": ["from .. import store", "from .. import server"],
}
"""What each room may not do; the tests below do it in a copy."""


def lint(folder: Path) -> tuple[bool, str]:
    """Check the package in a folder; whether its contracts hold, and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources, to break."""
    ignore = shutil.ignore_patterns("__pycache__", "static")
    shutil.copytree(ROOT / "jupyter_agentstore", tmp_path / "jupyter_agentstore", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken(said: str) -> set[str]:
    """The imports that the check complains of, as ``importer -> imported``."""
    return set(re.findall(r"jupyter_agentstore\.\S+ -> \S+", said))


def test_every_import_leads_to_a_room_that_may_be_known() -> None:
    kept, said = lint(ROOT)
    assert kept, said


def test_each_forbidden_import_is_noticed(copy: Path) -> None:
    package = copy / "jupyter_agentstore"
    expected = set()
    for room, statements in VIOLATIONS.items():
        name = room.removesuffix(".py")
        file = package / room if room.endswith(".py") else package / room / "intruder.py"
        importer = (
            f"jupyter_agentstore.{name}" if room.endswith(".py") else f"jupyter_agentstore.{name}.intruder"
        )
        with file.open("a") as sources:
            for statement in statements:
                sources.write(f"\n{statement}\n")
                imported = statement.split()[-1]
                internal = statement.startswith("from")
                expected.add(f"{importer} -> {'jupyter_agentstore.' if internal else ''}{imported}")
    kept, said = lint(copy)
    assert not kept
    assert expected - broken(said) == set(), said


def test_a_way_upwards_through_the_package_itself_is_noticed(copy: Path) -> None:
    package = copy / "jupyter_agentstore"
    with (package / "__init__.py").open("a") as sources:
        sources.write("\nfrom . import client\n")
    (package / "core" / "intruder.py").write_text("from jupyter_agentstore import connect\n")
    kept, said = lint(copy)
    assert not kept, said


def test_a_new_room_must_say_where_it_belongs(copy: Path) -> None:
    (copy / "jupyter_agentstore" / "attic").mkdir()
    (copy / "jupyter_agentstore" / "attic" / "__init__.py").touch()
    kept, said = lint(copy)
    assert not kept
    assert "attic" in said
