"""The same log gives the same tables, today and in the next version: ``golden/log.jsonl`` and what came of it.

The log has one event a line, with what a store may meet: conversations by every door, imports, consecutive questions,
text that was cut in the middle of a character, and whatever has no effect or cannot be read. Its dialogs are those of
``jupyter_agentstore/data``, whose ``README.md`` says where they are from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore.core.agent_schema import VERSION, agent_schema
from jupyter_agentstore.core.events import Event
from jupyter_agentstore.duck import Instance
from jupyter_agentstore.eventlog import MemoryLog
from jupyter_agentstore.state.state import State

GOLDEN = Path(__file__).parent / "golden"
MORE = {
    "anomalies": 'seq, name, epoch_ms("recordedAt")',  # its reasons are sentences, and may be put better
    "events": 'seq, epoch_ms("recordedAt"), actor, name, args, "clientId", "sessionId"',
    "agentstore_commits": 'actor, "commitId", seq, count',
    "agentState": '"isThinking", "currentTask", "lastActivity", "totalMessages", "activeConversations"',
}


def golden_log() -> list[Event]:
    with (GOLDEN / "log.jsonl").open(encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    return [Event(seq, e["recordedAt"], e["actor"], e["event"]) for seq, e in enumerate(read, 1)]


@pytest.fixture
def instance() -> Iterator[Instance]:
    instance = Instance()
    yield instance
    instance.close()


def tables_of(state: State) -> dict[str, Any]:
    """Everything that a state says of its log, as JSON values."""
    state.flush()
    found: dict[str, Any] = {
        name: sorted(state.rows(name), key=lambda row: row[table.key])
        for name, table in agent_schema.tables.items()
    }
    with state.reader() as cursor:
        for name, columns in MORE.items():
            rows = cursor.execute(f'select {columns} from "{name}"').fetchall()
            found[name] = sorted(list(row) for row in rows)
    found["counts"] = {name: state.count(name) for name in agent_schema.tables}
    found["tallies"] = {"conversations": state.tally("conversations")}
    found["sizes"] = {name: state.size(name) for name, table in agent_schema.tables.items() if table.sized}
    return found


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_the_golden_log_gives_the_golden_tables(instance: Instance, tmp_path: Path, group: int) -> None:
    golden = json.loads((GOLDEN / "tables.json").read_text("utf-8"))
    events = golden_log()
    state = State.open(instance, tmp_path, "s_golden", agent_schema, "golden", len(events))
    for first in range(0, len(events), group):
        state.apply(events[first : first + group])
        state.flush()
    made = {"version": VERSION, "schema": agent_schema.hash, "tables": tables_of(state)}
    state.close()
    if made == golden:
        return
    new = tmp_path / "tables.json"
    new.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", "utf-8")
    differ = [name for name in made["tables"] if made["tables"][name] != golden["tables"].get(name)]
    advice = f"If that is meant, replace tests/golden/tables.json by {new}."
    if differ and made["schema"] == golden["schema"]:
        advice = (
            "The same log gives other tables: stores in use would go on with old ones. If that is meant, raise "
            f"VERSION in core/agent_schema.py, run this test again and replace tests/golden/tables.json. ({new})"
        )
    pytest.fail(f"Version {golden['version']} -> {VERSION}, tables that differ: {differ or 'none'}. {advice}")


def test_the_golden_log_is_a_sound_log() -> None:
    log = MemoryLog()
    log.append(golden_log())
    assert log.verify() == len(golden_log())
    assert log.head > 60


def test_the_golden_log_holds_what_a_store_may_meet(instance: Instance) -> None:
    events = golden_log()
    state = State.open(instance, None, "s_golden", agent_schema, "golden", len(events))
    state.apply(events)
    tables = tables_of(state)
    state.close()
    names = {row[3] for row in tables["events"]}
    assert set(agent_schema.events) < names
    assert 15 < len(tables["anomalies"]) < 30
    assert {row["status"] for row in tables["conversations"]} == {"active", "paused"}
    assert {row["role"] for row in tables["messages"]} == {"user", "assistant", "system"}
    assert any("\ufffd" in row["content"] for row in tables["messages"])
    assert any("\ufffd" in (row["metadata"] or "") for row in tables["messages"])
    assert len(tables["pendingReplies"]) == 3
    assert all(tables[name] for name in tables)
