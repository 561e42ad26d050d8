"""What holds of a store in this process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_agentstore import events
from jupyter_agentstore.client import connect
from jupyter_agentstore.client.embedded import _held
from jupyter_agentstore.core.errors import InvalidRequest, InvalidStoreId, StoreLocked, Unreachable

HOLD = """
import sys
from jupyter_agentstore import connect
store = connect("shared", folder=sys.argv[1])
store.conversation(title="theirs")
print("ready", flush=True)
sys.stdin.readline()
print([chat.title for chat in store.conversations], flush=True)
"""

LOCK = """
import sys
from pathlib import Path
from jupyter_agentstore.eventlog import Lock
(Path(sys.argv[1]) / "taken").mkdir()
lock = Lock.take(Path(sys.argv[1]) / "taken")
print("ready", flush=True)
sys.stdin.readline()
lock.release()
"""

WRITE_AND_EXIT = """
import sys
from jupyter_agentstore import connect
chat = connect("kept", folder=sys.argv[1]).conversation("c", title="Kept")
chat.send("What is left of me?")
"""


def test_without_a_server_the_store_is_in_this_process_and_one_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect("mine") as store:
        said = capsys.readouterr().out
        assert said.count("\n") == 1
        assert "no Jupyter server" in said
        assert str(tmp_path / "jupyter-data" / "agentstore") in said
        assert store.link.state == "embedded"
        assert (tmp_path / "jupyter-data" / "agentstore" / "mine").is_dir()


def test_what_was_asked_for_is_not_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connect("mine", folder=tmp_path / "stores").close()
    connect("mine", embedded=True).close()
    assert capsys.readouterr().out == ""


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with connect("shared", folder=tmp_path) as store:
            assert [chat.title for chat in store.conversations] == ["theirs"]
            chat = store.conversation(title="mine")
            assert chat.send("Who answers this?").reply(30).role == "assistant"
            said, _ = other.communicate("\n", timeout=30)
            assert sorted(ast.literal_eval(said)) == ["mine", "theirs"]
            assert chat.send("And now that the other has gone?").reply(30).role == "assistant"
            assert len(chat.messages) == 4
    finally:
        other.kill()
        other.communicate(timeout=30)


def test_who_has_a_store_and_cannot_be_asked_is_named(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(StoreLocked, match=f"process {holder.pid}") as locked:
            connect("taken", folder=tmp_path)
        assert locked.value.owner["pid"] == holder.pid
        assert "use another folder" in locked.value.message
        connect("another", folder=tmp_path).close()  # the rest of the folder is free
    finally:
        holder.communicate("\n", timeout=30)
    connect("taken", folder=tmp_path).close()


def test_who_finds_the_store_in_a_server_is_told_how_to_connect_to_it() -> None:
    said = _held("support-bot", Path("/stores"), {"pid": 1, "url": "http://localhost:8888/"})
    assert "connect('support-bot', url='http://localhost:8888/')" in said


def test_a_process_that_just_ends_leaves_everything_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITE_AND_EXIT, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    with connect("kept", folder=tmp_path) as store:
        answers = store.conversation("c").messages
        assert answers["content"][0] == "What is left of me?"


def test_a_folder_is_opened_once_and_closed_with_its_last_store(tmp_path: Path) -> None:
    one = connect("a", folder=tmp_path)
    two = connect("b", folder=tmp_path)
    same = connect("a", folder=tmp_path)
    chat = one.conversation(title="shared")
    one.close()
    assert same.conversation(chat.id).title == "shared"
    same.close()
    two.close()
    with connect("a", folder=tmp_path) as again:
        assert len(again.conversations) == 1


def test_a_message_left_unanswered_is_answered_later(tmp_path: Path) -> None:
    with connect("a", folder=tmp_path) as store:
        sent = store.conversation("c", title="Later").send("Tell me later")
    with connect("a", folder=tmp_path) as store:
        chat = store.conversation("c")
        from jupyter_agentstore.client import Sent

        assert "Tell me later" in Sent(chat, sent.id, sent.content, sent.seq).reply(30).content


def test_arguments_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        connect(url="http://localhost:1", folder=tmp_path)
    with pytest.raises(InvalidRequest):
        connect(token="t")
    with pytest.raises(InvalidRequest):
        connect(folder=tmp_path, embedded=False)
    with pytest.raises(InvalidStoreId):
        connect("no/such id")
    with pytest.raises(Unreachable):
        connect(embedded=False)


def test_a_large_table_becomes_a_dataframe_quickly(tmp_path: Path) -> None:
    import time

    with connect("large", folder=tmp_path) as store:
        store.commit(events.ConversationCreated(id="c", userId="u"))
        store.commit_many(
            [
                events.MessageAdded(
                    conversationId="c",
                    role="user",
                    content=f"message {n} " * 5,
                    metadata='{"imported": true}',
                )
                for n in range(20_000)
            ]
        )
        store.df("messages")
        began = time.perf_counter()
        frame = store.df("messages")
        assert len(frame) == 20_000
        assert time.perf_counter() - began < 0.5
