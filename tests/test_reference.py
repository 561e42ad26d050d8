"""Nothing that a user can call, set or read is missing from the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.events import Meta
from jupyter_agentstore.server.app import AgentStoreApp
from jupyter_agentstore.server.cli import COMMANDS
from jupyter_agentstore.server.handlers import ROUTES

REFERENCE = (Path(__file__).parents[1] / "docs" / "reference.md").read_text()


def row(begin: str) -> str:
    """The line of a table that begins so."""
    found = [line for line in REFERENCE.splitlines() if line.startswith(begin)]
    assert len(found) == 1, f"{begin!r} has {len(found)} lines in the reference"
    return found[0]


@pytest.mark.parametrize("path", [path for path, _ in ROUTES])
def test_every_call_is_described_with_its_fields(path: str) -> None:
    handler = dict(ROUTES)[path]
    for method in ("get", "post"):
        declared = getattr(getattr(handler, method), "operation", None)
        if declared is None:
            continue
        line = row(f"| `{method.upper()} {path}` |")
        for struct in (declared.body, declared.query):
            for name in struct.__struct_fields__ if struct else ():
                assert f"`{name}`" in line


@pytest.mark.parametrize("name", sorted(AgentStoreApp.class_own_traits(config=True)))
def test_every_setting_is_described(name: str) -> None:
    row(f"| `{name}` |")


@pytest.mark.parametrize("name", sorted(agent_schema.events))
def test_every_event_is_described_with_its_fields(name: str) -> None:
    line = row(f"| `{name}` |")
    assert all(f"`{field.name}`" in line for field in agent_schema.events[name].fields)


@pytest.mark.parametrize("name", sorted(agent_schema.tables))
def test_every_table_is_described_with_its_columns(name: str) -> None:
    line = row(f"| `{name}` |")
    assert all(f"`{column.name}`" in line for column in agent_schema.tables[name].columns)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_described(name: str) -> None:
    assert f"`jupyter agentstore {name}" in REFERENCE


def test_the_example_of_a_schema_works() -> None:
    code = REFERENCE.partition("```python\n")[2].partition("```")[0]
    made: dict[str, Any] = {}
    exec(code, made)
    fields = made["schema"].validate("v1.Rated", {"id": "r", "stars": 5})
    (insert,) = made["schema"].events["v1.Rated"].materialize(fields, Meta(1, 7, "ada", "server", "rest"))
    assert insert.row == {"id": "r", "stars": 5, "at": 7}
    assert made["schema"].hash != agent_schema.hash
