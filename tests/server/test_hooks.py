"""A deployment's hooks: what they see, what they refuse, and what becomes of one that fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from traitlets import TraitError
from traitlets.config import Config

from jupyter_agentstore.server.app import AgentStoreApp, load_hook
from tests.server.phone import AUTHORIZED, opened
from tests.server.servers import Serve, Server, ok, refused, until

HOOKS = """
import asyncio, pathlib
from jupyter_agentstore.core.errors import Conflict, Forbidden, RateLimited

def note(text):
    with open("hooks.txt", "a") as file:
        file.write(text + "\\n")

def on_push(info):
    names = [event.name if event else None for event in info.events]
    note(f"push {info.store_id} {info.count} {info.door} {sorted(info.client_ids)} {names} {bool(info.actor)}")
    if "v1.Forbidden" in names:
        raise Forbidden("Not that.")
    if "v1.Later" in names:
        raise RateLimited("Later.", 2.5)
    if "v1.Broken" in names:
        raise RuntimeError("a secret of the deployment")

async def on_pull(info):
    await asyncio.sleep(0)
    note(f"pull {info.store_id} {info.kind} {info.cursor} {info.live}")
    if info.store_id == "closed":
        raise Forbidden("Closed.")
    if info.store_id == "broken":
        raise RuntimeError("a secret of the deployment")

c.AgentStoreApp.on_push = on_push
c.AgentStoreApp.on_pull = on_pull
"""


@pytest.fixture(scope="module")
def hooked(serve: Serve) -> Server:
    return serve(HOOKS)


def noted(server: Server, store_id: str) -> list[str]:
    """What the hooks have seen of a store."""
    path = server.folder / "root" / "hooks.txt"
    return [line.replace(f" {store_id} ", " ") for line in path.read_text().splitlines() if store_id in line]


def test_a_hook_sees_pushes_and_commits_and_who_pulls(hooked: Server, store_id: str) -> None:
    client = opened(hooked, store_id, **AUTHORIZED)
    client.pull(live=False)
    client.exit("1")
    client.exit(client.push(0, {"n": 1}, {"n": 2}))
    with hooked.client(params={"storeId": store_id}) as http:
        ok(http.post("conversations", json={"userId": "ada"}))
        assert http.get("snapshot").status_code == 200
    client.pull(2)
    client.events(1)
    client.watch()
    client.told("agent")
    assert noted(hooked, store_id) == [
        "pull pull 0 False",
        "push 2 sync ['c'] ['v1.Noted', 'v1.Noted'] True",
        "push 1 rest ['server'] ['v1.ConversationCreated'] True",
        "pull snapshot 0 False",
        "pull pull 2 True",
        "pull watch 0 True",
    ]


def test_what_a_hook_refuses_is_not_written_and_the_client_is_told_why(hooked: Server, store_id: str) -> None:
    client = opened(hooked, store_id, **AUTHORIZED)
    refused_push = client.error(client.push(0, {"n": 1}, name="v1.Forbidden"))
    assert refused_push["cause"] == {"name": "forbidden", "message": "Not that."}
    later = client.error(client.push(0, {"n": 1}, name="v1.Later"))
    assert later["cause"] == {"name": "rate_limited", "message": "Later.", "retryAfter": 2.5}
    assert client.exit(client.push(0, {"n": 1}))["_tag"] == "Success"
    client.pull()
    assert [item["eventEncoded"]["name"] for item in client.events(1)] == ["v1.Noted"]


def test_a_hook_that_fails_refuses_and_tells_only_the_log(hooked: Server, store_id: str) -> None:
    client = opened(hooked, store_id, **AUTHORIZED)
    failed = client.error(client.push(0, {"n": 1}, name="v1.Broken"))
    assert failed["cause"]["name"] == "error"
    assert "secret" not in str(failed)
    assert "a secret of the deployment" in hooked.log
    assert client.exit(client.push(0, {"n": 1}))["_tag"] == "Success"


def test_a_pull_that_a_hook_refuses_ends_and_one_that_it_cannot_judge_comes_back(hooked: Server) -> None:
    client = opened(hooked, "closed", **AUTHORIZED)
    assert client.error(client.pull())["cause"] == {"name": "forbidden", "message": "Closed."}
    assert client.error(client.watch())["cause"]["name"] == "forbidden"
    client.exit(client.push(0, {"n": 1}))
    with hooked.client(params={"storeId": "closed"}) as http:
        assert refused(http.get("snapshot"), 403, "forbidden") == "Closed."
    client = opened(hooked, "broken", **AUTHORIZED)
    client.pull()
    ended = client.closed()
    assert ended.rcvd is not None
    assert ended.rcvd.code == 1013
    assert "secret" not in ended.rcvd.reason


def test_a_rest_call_that_comes_too_fast_is_told_when_to_come_again(serve: Serve) -> None:
    server = serve(
        "from jupyter_agentstore.core.errors import RateLimited\n"
        "def slow_down(info):\n"
        "    raise RateLimited('Slowly.', 1.2)\n"
        "c.AgentStoreApp.on_push = slow_down"
    )
    with server.client(params={"storeId": "s"}) as http:
        answer = http.post("conversations", json={"userId": "ada"})
        refused(answer, 429, "rate_limited")
        assert answer.headers["retry-after"] == "2"
    assert not (server.stores / "s").exists()


def test_the_example_of_the_reference_works(serve: Serve) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    example = text.partition("### Hooks")[2].partition("```python\n")[2].partition("```")[0]
    assert "on_pull" in example
    server = serve(example + "\naudit.setLevel('INFO')\naudit.addHandler(logging.FileHandler('audit.txt'))")
    client = opened(server, "s", **AUTHORIZED)
    client.exit(client.push(0, {"n": 1}))
    client.pull()
    client.events(1)
    audit = server.folder / "root" / "audit.txt"
    until(lambda: "reads s from event 0" in audit.read_text())
    assert re.search(r"wrote 1 events to s$", audit.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonsense", "must be 'package.module:name'"),
        ("agentstore_no_such_module:hook", "cannot be imported"),
        ("jupyter_agentstore.core.agent_schema:TITLE", "is no function"),
    ],
)
def test_a_hook_that_is_none_is_refused_at_the_start(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_hook(given, "on_push")
    assert load_hook("", "on_push") is None
    assert load_hook(load_hook, "on_push") is load_hook
    assert load_hook("jupyter_agentstore.server.app:load_hook", "on_push") is load_hook
    with pytest.raises(TraitError):
        AgentStoreApp(config=Config({"AgentStoreApp": {"on_push": 7}}))


SLOW = """
import pathlib, time

def on_push(info):
    if info.store_id == "slow":
        pathlib.Path(f"asked-{time.monotonic_ns()}").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.02)

c.AgentStoreApp.on_push = on_push
"""


def test_a_hook_that_takes_its_time_holds_up_nobody_elses_store(serve: Serve) -> None:
    server = serve(SLOW)
    root = server.folder / "root"
    slow = [opened(server, "slow", **AUTHORIZED) for _ in range(20)]
    pushed = [client.push(0, {"n": 1}) for client in slow]
    until(lambda: len([*root.glob("asked-*")]) >= 16)
    with server.client(params={"storeId": "quick"}) as http:
        ok(http.get("events"))
    (root / "go").touch()
    exits = [client.exit(id)["_tag"] for client, id in zip(slow, pushed, strict=True)]
    assert exits.count("Success") == 1
