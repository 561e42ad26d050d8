"""The extension as Jupyter sees it: configuration, start, end, and what it costs."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pyarrow
import pytest
from jupyter_server.serverapp import ServerApp
from traitlets import TraitError
from traitlets.config import Config
from websockets.sync.client import connect

import jupyter_agentstore as agentstore
from jupyter_agentstore import __version__
from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.server.announce import Announcement
from jupyter_agentstore.server.app import AgentStoreApp, load_responder, load_schema
from tests.server.phone import Client, address
from tests.server.servers import TOKEN, Serve, Server, head, ok, refused, until


def run(server: Server, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in a server's environment."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=server.environ,
        cwd=server.folder / "root",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# ---- configuration


def test_jupyter_lists_the_extension(server: Server) -> None:
    done = run(server, "jupyter", "server", "extension", "list")
    said = re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr)
    assert re.search(r"jupyter_agentstore +enabled", said), said
    assert re.search(rf"jupyter_agentstore {re.escape(__version__)} +OK", said), said


def test_every_trait_has_a_help_text() -> None:
    own = AgentStoreApp.class_own_traits(config=True)
    assert {"schema", "folder", "idle_seconds", "query_seconds", "responder", "reply_delay"} <= own.keys()
    assert not [name for name, trait in own.items() if len(trait.help) < 20]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nonsense", "must be 'package.module:name'"),
        ("agentstore_no_such_module:schema", "cannot be imported: ModuleNotFoundError"),
        ("jupyter_agentstore.core.agent_schema:nothing", "has no 'nothing'"),
        ("jupyter_agentstore.core.agent_schema:TITLE", "is a str, not a Schema"),
    ],
)
def test_a_schema_that_cannot_be_loaded_says_why(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        load_schema(path)
    assert "c.AgentStoreApp.schema" in str(caught.value)


def test_the_schemas_and_responders_that_come_with_it_are_found() -> None:
    assert load_schema("jupyter_agentstore.core.agent_schema:agent_schema") is agent_schema
    assert hasattr(load_responder("simulated", [0, 0]), "reply")
    assert hasattr(load_responder("jupyter_agentstore.agent.simulated:Simulated", [0, 0]), "reply")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gpt", "must be 'package.module:name'"),
        ("jupyter_agentstore.core.agent_schema:TITLE", "neither a responder nor makes one"),
        ("builtins:dict", "has no method 'reply'"),
    ],
)
def test_a_responder_that_cannot_be_loaded_says_why(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_responder(path, [0, 0])


def test_delays_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(TraitError, match="smaller first"):
        AgentStoreApp(config=Config({"AgentStoreApp": {"reply_delay": [3.0, 1.0]}})).reply_delay  # noqa: B018


def test_a_server_started_for_it_ends_when_it_cannot_be_configured(server: Server) -> None:
    done = run(
        server,
        "jupyter_agentstore.server.cli",
        "--AgentStoreApp.schema=nonsense",
        "--allow-root",
        "--no-browser",
    )
    assert done.returncode == 1
    assert "c.AgentStoreApp.schema: 'nonsense' must be" in done.stderr


def test_help_tells_of_settings_and_subcommands(server: Server) -> None:
    done = run(server, "jupyter_agentstore.server.cli", "--help-all")
    assert done.returncode == 0
    assert "--AgentStoreApp.folder" in done.stdout
    assert "jupyter agentstore backup" in done.stdout


def test_a_network_file_system_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"36 35 98:0 / {tmp_path} rw,noatime master:1 - nfs4 server:/x rw\n")
    app = AgentStoreApp(folder=str(tmp_path / "stores"))
    app.log = logging.getLogger("test")
    with caplog.at_level(logging.WARNING):
        app.checked_folder(mounts)
    assert "nfs4" in caplog.text
    assert "c.AgentStoreApp.folder" in caplog.text


def test_loading_the_extension_takes_less_than_a_tenth_of_a_second_and_none_of_the_slow_libraries() -> None:
    code = (
        "import sys, time, jupyter_server.serverapp, jupyter_server.extension.application\n"
        "began = time.process_time()\n"
        "import jupyter_agentstore\n"
        "app = jupyter_agentstore._jupyter_server_extension_points()[0]['app']()\n"
        "took = time.process_time() - began\n"
        "slow = ('anywidget', 'duckdb', 'ipywidgets', 'pandas', 'pyarrow', 'httpx', 'websockets')\n"
        "slow = [module for module in slow if module in sys.modules]\n"
        "print(took, slow)"
    )
    for _ in range(3):  # others may be at work on the machine
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
        )
        took, _, loaded = done.stdout.partition(" ")
        assert loaded.strip() == "[]"
        if float(took) < 0.1:
            return
    pytest.fail(f"It took {took} s.")


# ---- within a server, as Jupyter's own tests have it


@pytest.fixture
def jp_server_config() -> Config:
    return Config({"ServerApp": {"jpserver_extensions": {"jupyter_agentstore": True}}})


async def test_the_first_request_opens_what_is_needed_even_before_the_server_says_start(
    jp_serverapp: ServerApp, jp_fetch: Any, jp_data_dir: Path
) -> None:
    app = jp_serverapp.extension_manager.extension_points["agentstore"].app
    host = jp_serverapp.web_app.settings["agentstore"]
    assert host.app is app
    assert not host.ready
    answer = await jp_fetch("agentstore", "conversations", method="POST", body='{"userId": "ada"}')
    assert json.loads(answer.body)["conversation"]["userId"] == "ada"
    assert host.ready
    assert (jp_data_dir / "agentstore" / "default-agent" / "eventlog.duckdb").exists()
    await app.stop_extension()
    with pytest.raises(Exception, match="503"):
        await jp_fetch("agentstore", "conversations")


async def test_stopping_withdraws_the_announcement(jp_serverapp: ServerApp, jp_runtime_dir: Path) -> None:
    app = jp_serverapp.extension_manager.extension_points["agentstore"].app
    await app._start_jupyter_server_extension(jp_serverapp)
    path = jp_runtime_dir / f"agentstore-{os.getpid()}.json"
    assert os.environ["JUPYTER_AGENTSTORE_SERVER"] == str(path)
    assert json.loads(path.read_text())["pid"] == os.getpid()
    await app.stop_extension()
    await app.stop_extension()
    assert not path.exists()
    assert "JUPYTER_AGENTSTORE_SERVER" not in os.environ


def test_another_servers_announcement_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", "before")
    announcement = Announcement(tmp_path)
    announcement.publish(url="http://localhost/")
    announcement.path.write_text("somebody else's by now")
    announcement.withdraw()
    assert announcement.path.read_text() == "somebody else's by now"


# ---- a deployment's own schema


def test_a_deployments_own_events_are_in_log_sql_dataframes_and_websocket(serve: Serve) -> None:
    # Started by `jupyter agentstore`, for a change.
    config = "c.AgentStoreApp.schema = 'agentstore_test_schema:schema'"
    own = serve(config, module="jupyter_agentstore.server.cli")
    with own.client() as http:
        event = {"name": "v1.DrinkOrdered", "args": {"id": "o1", "drink": "mocha"}}
        ok(http.post("events", json={"events": [event]}))
        assert ok(http.get("events"))["events"][0]["args"] == event["args"]
        assert ok(http.post("query", json={"sql": "select drink from orders"}))["rows"] == [
            {"drink": "mocha"}
        ]
        table = pyarrow.ipc.open_stream(io.BytesIO(http.get("tables/orders").content)).read_all()
        assert table.column("drink").to_pylist() == ["mocha"]
        assert set(ok(http.get("openapi.json"))["components"]["schemas"]["orders"]["properties"]) == {
            "id",
            "drink",
            "orderedAt",
        }
        wrong = {"name": "v1.DrinkOrdered", "args": {"id": "o2", "drink": "tea"}}
        refused(http.post("events", json={"events": [wrong]}), 422, "invalid_event", "drink")
        refused(http.post("events", json={"events": [event]}), 409, "conflict", "id")
        ok(http.post("conversations", json={"userId": "ada"}))
    store = agentstore.connect(url=own.announced["url"], token=TOKEN)
    assert store.df("orders")["drink"].tolist() == ["mocha"]
    store.close()
    with connect(address(own, "default-agent", f"&token={TOKEN}"), proxy=None) as socket:
        phone = Client(socket, "default-agent")
        phone.pull()
        [event, _] = phone.events(2)
        assert event["eventEncoded"]["args"] == {"id": "o1", "drink": "mocha"}
        pushed = phone.push(2, {"id": "o2", "drink": "latte"}, name="v1.DrinkOrdered")
        assert phone.exit(pushed)["_tag"] == "Success"
    with own.client() as http:
        rows = ok(http.post("query", json={"sql": "select drink from orders order by id"}))["rows"]
    assert rows == [{"drink": "mocha"}, {"drink": "latte"}]


def test_a_server_whose_schema_cannot_be_loaded_says_so_and_goes_on_without(
    serve: Serve, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError):
        # It never announces itself: only Jupyter's own part is up.
        serve(
            "c.AgentStoreApp.schema = 'agentstore_test_schema:NOT_A_SCHEMA'\nc.ServerApp.port_retries = 0\n"
            "c.ServerApp.reraise_server_extension_failures = True",
            folder=tmp_path,
        )
    assert (
        "'agentstore_test_schema:NOT_A_SCHEMA' is a int, not a Schema" in (tmp_path / "log.txt").read_text()
    )


# ---- the end


def test_sigterm_loses_nothing_that_was_acknowledged(serve: Serve, tmp_path: Path) -> None:
    first = serve(folder=tmp_path)
    acknowledged: list[str] = []
    enough = threading.Event()

    def write(worker: int) -> None:
        with first.client(params={"storeId": f"s{worker % 2}"}) as http:
            number = 0
            while True:
                made = f"{worker}-{number}"
                try:
                    answer = http.post("conversations", json={"userId": "ada", "id": made})
                except httpx.TransportError:
                    return
                if answer.status_code != 200:
                    assert answer.status_code == 503, answer.text
                    return
                acknowledged.append(made)
                number += 1
                if len(acknowledged) > 100:
                    enough.set()

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for writer in writers:
        writer.start()
    assert enough.wait(60)
    assert first.terminate() == 0
    for writer in writers:
        writer.join()
    assert not list((tmp_path / "runtime").glob("agentstore-*.json"))
    assert not list(first.stores.glob("*/*.wal"))
    second = serve(folder=tmp_path)
    kept = set()
    for store in ("s0", "s1"):
        with second.client(params={"storeId": store}) as http:
            kept |= {row["id"] for row in ok(http.get("conversations"))["conversations"]}
    assert set(acknowledged) <= kept


def test_a_message_that_waited_at_the_end_is_answered_after_the_next_start(
    serve: Serve, tmp_path: Path
) -> None:
    first = serve("c.AgentStoreApp.reply_delay = [600.0, 600.0]", folder=tmp_path)
    with first.client() as http:
        made = ok(http.post("conversations", json={"userId": "ada"}))["conversationId"]
        ok(http.post("chat", json={"conversationId": made, "content": "Anybody there?"}))
        until(lambda: ok(http.get("agent/status"))["isThinking"])
    assert first.terminate() == 0
    second = serve(folder=tmp_path)
    with second.client() as http:
        page = {"conversationId": made}
        messages = until(lambda: ok(http.get("messages", params=page))["messages"][1:])
        assert [message["actor"] for message in messages] == ["agent:simulated"]
        assert head(http) == 5


def test_a_store_that_a_server_with_another_schema_has_is_said_to_be_locked(
    serve: Serve, server: Server, http: httpx.Client
) -> None:
    ok(http.post("conversations", json={"userId": "ada"}))
    other = serve(
        f"c.AgentStoreApp.folder = {str(server.stores)!r}\n"
        "c.AgentStoreApp.schema = 'agentstore_test_schema:schema'"
    )
    with other.client(params=http.params) as locked:
        for answer in (locked.get("conversations"), locked.post("conversations", json={"userId": "bob"})):
            message = refused(answer, 423, "store_locked")
            assert str(server.process.pid) in message
            assert server.announced["url"] in message
