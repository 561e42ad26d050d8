"""However a store comes back (killed in a rebuild, restored, without its tables), it has the tables of its log."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.core.errors import Rebuilding
from jupyter_agentstore.core.events import Event, wire
from jupyter_agentstore.duck import Instance, alias_of
from jupyter_agentstore.eventlog import DuckDBLog
from jupyter_agentstore.eventlog.backup import backup, restore
from jupyter_agentstore.store import Registry, Store
from tests.drafts import message
from tests.test_golden import golden_log

CHANGED = agent_schema.extend(version=1)
TABLES = (*agent_schema.tables, "events", "anomalies")
MORE = 40_000

REBUILD = """
import sys
from pathlib import Path
from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.store import Registry
store = Registry(Path(sys.argv[1]), agent_schema.extend(version=1)).get("coffee", create=False)
while True:
    done, total = store.progress or (0, 0)
    assert total, "the rebuild was over too soon"
    if done > total // 10:
        print("in the middle", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, dialogs: list[dict[str, Any]]) -> Path:
    """A store with the golden log and many messages after it, and the tables of the unchanged schema."""
    root = tmp_path_factory.mktemp("built")
    instance = Instance()
    log = DuckDBLog.open(instance, root / "coffee", alias_of("coffee"), create=True)
    golden = golden_log()
    log.append(golden)
    texts = [utterance["text"] for dialog in dialogs for utterance in dialog["utterances"]]
    events = []
    for number in range(MORE):
        draft = message(f"more-{number}", f"c{number % 50}", texts[number % len(texts)])
        seq = len(golden) + 1 + number
        body = wire(draft.name, draft.args, seq, draft.client_id, draft.session_id)
        events.append(Event(seq, golden[-1].recorded_at, "ada", body))
    log.append(events)
    instance.close()
    registry = Registry(root)
    registry.get("coffee", create=False).table("messages")
    registry.close()
    return root


def killed(root: Path) -> None:
    """Change the schema, and kill the process that rebuilds the tables."""
    child = subprocess.Popen(
        [sys.executable, "-c", REBUILD, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "in the middle\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert (root / "coffee" / "state.new.duckdb").exists()


def restored(root: Path) -> None:
    """Put a backup in the store's place."""
    backup(root / "coffee", root / "backup.duckdb")
    shutil.rmtree(root / "coffee")
    restore(root / "backup.duckdb", root / "coffee")


def bared(root: Path) -> None:
    """Delete the tables."""
    for file in (root / "coffee").glob("state.*"):
        file.unlink()


def tables_of(store: Store) -> dict[str, Any]:
    """Everything in the tables, in an order of its own."""
    while store.progress is not None:
        try:
            store.count("messages")
        except Rebuilding:
            store.read(0, 1)
    found = {name: store.table(name).sort_by(store.table(name).column_names[0]) for name in TABLES}
    return {name: table.to_pylist() for name, table in found.items()} | {"status": store.status()}


@pytest.mark.parametrize("how", [killed, restored, bared])
def test_a_store_comes_back_with_the_tables_of_its_log(
    built: Path, tmp_path: Path, how: Callable[[Path], None]
) -> None:
    expected_root, root = tmp_path / "expected", tmp_path / "stores"
    shutil.copytree(built, root)
    shutil.copytree(built, expected_root)
    schema = CHANGED if how is killed else agent_schema
    how(root)
    seen = []
    for folder, with_schema in ((expected_root, agent_schema), (root, schema)):
        registry = Registry(folder, with_schema)
        seen.append(tables_of(registry.get("coffee", create=False)))
        registry.close()
    expected, found = seen
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    assert len(found["messages"]) > 40_000
