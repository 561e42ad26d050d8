"""``jupyter agentstore`` and its subcommands, as typed."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import uuid
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from jupyter_agentstore.server import cli
from tests.server.phone import Client, address
from tests.server.servers import TOKEN, Serve, Server, ok


def run(*arguments: str | Path, server: Server | None = None, **environ: str) -> tuple[int, str, str]:
    """A command line in a process of its own: exit code, output, complaints."""
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_agentstore.server.cli", *map(str, arguments)],
        env={**(server.environ if server else {}), **environ} or None,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def closed(serve: Serve) -> Server:
    """A server that is gone, and has left a store with three conversations, ``Team``, and one with one, ``other``."""
    gone = serve()
    for store, count in (("Team", 3), ("other", 1)):
        with gone.client(params={"storeId": store}) as http:
            for _ in range(count):
                ok(http.post("conversations", json={"userId": "ada"}))
    assert gone.terminate() == 0
    return gone


def titles(server: Server, store: str) -> int:
    """How many conversations a store has, asked of a running server."""
    with server.client(params={"storeId": store}) as http:
        return len(ok(http.get("conversations"))["conversations"])


def test_stores_are_listed_from_the_folder_that_jupyter_is_configured_with(closed: Server) -> None:
    code, out, _ = run("list", server=closed)
    assert code == 0
    assert [line.split("\t")[0] for line in out.splitlines()] == ["other", "Team"]


def test_the_folder_of_the_configuration_file_is_honoured(
    closed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jupyter_server_config.py").write_text(f"c.AgentStoreApp.folder = {str(tmp_path / 'here')!r}")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    assert cli.configured_folder() == tmp_path / "here"


def test_a_backup_of_a_closed_store_is_restored_as_another(closed: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy.duckdb"
    code, out, _ = run("backup", "team", copy, server=closed)
    assert (code, "3 events" in out) == (0, True)
    assert run("verify", copy) == (0, f"{copy}: sound, {out.partition(': ')[2].rstrip().rstrip('.')}\n", "")
    folder = ["--folder", tmp_path / "stores"]
    assert run("restore", copy, "again", *folder)[0] == 0
    code, out, _ = run("verify", *folder)
    assert (code, out.startswith("again: sound, 3 events")) == (0, True)


def test_a_backup_replaces_nothing_unless_told_to(closed: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy.duckdb"
    folder = ["--folder", closed.stores]
    assert run("backup", "Team", copy, *folder)[0] == 0
    before = copy.read_bytes()
    code, _, said = run("backup", "other", copy, *folder)
    assert (code, "is there already" in said) == (1, True)
    assert copy.read_bytes() == before
    assert run("backup", "other", copy, "--force", *folder)[0] == 0
    code, _, said = run("restore", copy, "Team", *folder)
    assert (code, "nothing was restored" in said) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["backup", "nobody", "x.duckdb"], "There is no store 'nobody'"),
        (["backup", "../x", "x.duckdb"], "is no store id"),
        (["restore", "nothing.duckdb", "new"], "nothing.duckdb"),
        (["verify", "nobody"], "There is no"),
        (["reset", "nobody", "--yes"], "There is no store 'nobody'"),
        (["delete", "../x", "--yes"], "is no store id"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    closed: Server, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--folder", str(closed.stores)]) == cli.FAILED
    complaint = capsys.readouterr().err
    assert said in complaint
    assert "Traceback" not in complaint
    assert not list(tmp_path.iterdir())


def test_a_damaged_log_has_an_exit_code_of_its_own(
    closed: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "broken"
    place.mkdir()
    content = bytearray((closed.stores / "Team" / "eventlog.duckdb").read_bytes())
    for at in range(8192, len(content), 512):
        content[at] ^= 0xFF
    (place / "eventlog.duckdb").write_bytes(content)
    assert cli.main(["verify", "broken", "--folder", str(tmp_path)]) == cli.DAMAGED
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_command_line_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["backup", "--nonsense"])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        cli.main(["restore", "--help"])
    assert caught.value.code == 0
    assert "Exit codes" in capsys.readouterr().out


# ---- stores that a server has open


@pytest.fixture
def busy(server: Server, http: httpx.Client) -> str:
    """A store that the server has open, with two conversations."""
    for _ in range(2):
        ok(http.post("conversations", json={"userId": "ada"}))
    return str(http.params["storeId"])


def test_a_store_that_a_server_has_open_is_backed_up_by_that_server(
    server: Server, busy: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.duckdb"
    code, out, said = run("backup", busy, copy, server=server)
    assert (code, said) == (0, "")
    assert "2 events" in out
    assert server.announced["url"] in out
    assert server.announced["secret"] not in out
    with server.client(params={"storeId": busy}) as http:
        ok(http.post("conversations", json={"userId": "ada"}))
    assert "2 events" in run("verify", copy)[1]


def test_a_backup_is_taken_from_the_server_that_is_named(server: Server, busy: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.duckdb"
    url = ["--url", server.announced["url"]]
    code, out, _ = run("backup", busy, copy, *url, JUPYTER_TOKEN=TOKEN)
    assert (code, "2 events" in out) == (0, True)
    code, _, said = run("backup", busy, copy, *url, JUPYTER_TOKEN=TOKEN)
    assert (code, "is there already" in said) == (1, True)
    code, _, said = run("backup", busy, tmp_path / "b", *url, JUPYTER_TOKEN="wrong")
    assert (code, "does not accept the token" in said) == (1, True)
    code, _, said = run("backup", "nobody", tmp_path / "b", *url, JUPYTER_TOKEN=TOKEN)
    assert (code, "There is no store 'nobody'" in said) == (1, True)
    code, _, said = run("backup", busy, tmp_path / "b", "--url", "http://127.0.0.1:9/")
    assert (code, "does not answer" in said) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["copy.duckdb"]


def test_a_store_in_use_is_not_restored_over_and_the_list_says_who_has_it(
    server: Server, busy: str, tmp_path: Path
) -> None:
    assert run("backup", busy, tmp_path / "copy.duckdb", server=server)[0] == 0
    code, _, said = run("restore", tmp_path / "copy.duckdb", busy, "--force", server=server)
    assert code == cli.LOCKED
    assert str(server.process.pid) in said
    code, out, _ = run("list", server=server)
    [line] = [line for line in out.splitlines() if line.startswith(busy)]
    assert f"open in process {server.process.pid}" in line
    assert server.announced["url"] in line
    assert run("stores", server=server)[0] == 0, "as it was called before"


def test_a_store_that_a_server_has_open_is_checked_through_that_server(server: Server, busy: str) -> None:
    code, out, said = run("verify", busy, server=server)
    assert (code, said) == (0, "")
    assert out.startswith(f"{busy}: sound, 2 events")


def test_a_store_is_reset_and_deleted_under_a_running_server(
    server: Server, http: httpx.Client, busy: str
) -> None:
    code, out, _ = run("reset", busy, "--yes", server=server)
    assert code == 0
    assert "2 events" in out
    assert f"open in process {server.process.pid}" in out
    kept = next(line for line in out.splitlines() if line.startswith("The old log is kept as"))
    assert Path(kept.removeprefix("The old log is kept as ").rstrip(".")).exists()
    assert ok(http.get("events"))["head"] == 0
    assert titles(server, busy) == 0
    ok(http.post("conversations", json={"userId": "ada"}))
    code, out, _ = run("delete", busy.upper(), "--yes", server=server)
    assert (code, out.splitlines()[-1]) == (0, f"The store {busy!r} is deleted.")
    assert not (server.stores / busy).exists()
    assert ok(http.get("events"))["head"] == 0
    assert not (server.stores / busy).exists(), "reading makes no store"
    ok(http.post("conversations", json={"userId": "ada"}))
    assert titles(server, busy) == 1


def test_connected_clients_learn_that_their_store_is_another(server: Server, busy: str) -> None:
    with ExitStack() as sockets:

        def opened() -> Client:
            headers = {"Authorization": f"token {TOKEN}"}
            to = connect(address(server, busy), additional_headers=headers, proxy=None)
            return Client(sockets.enter_context(to), busy)

        client = opened()
        client.pull()
        client.events(2)
        old = client.backend_id
        assert run("reset", busy, "--yes", "--purge", server=server)[0] == 0
        closed = client.closed().rcvd
        assert closed is not None
        assert (closed.code, closed.reason) == (1012, "The store was reset or restored.")
        again = opened()
        again.backend_id = old
        assert "BackendIdMismatch" in json.dumps(again.error(again.pull(2)))
        fresh = opened()
        fresh.pull()
        assert fresh.receive()["values"][0]["batch"] == []
        assert fresh.backend_id != old


@pytest.mark.parametrize("command", ["reset", "delete"])
def test_nothing_is_lost_unless_somebody_agrees(closed: Server, tmp_path: Path, command: str) -> None:
    shutil.copytree(closed.stores / "Team", tmp_path / "Team")
    folder = ["--folder", tmp_path]
    code, out, said = run(command, "team", *folder)
    assert (code, "--yes" in said) == (2, True)
    assert "3 events" in out
    assert "open nowhere" in out
    for answer, wanted in ((b"n\n", 1), (b"\n", 1), (b"\x04", 1), (b"yes\n", 0)):
        assert on_a_terminal([command, "team", *folder], answer) == wanted
        if wanted:
            assert "3 events" in run("verify", "team", *folder)[1]
    if command == "delete":
        assert list(tmp_path.iterdir()) == []
    else:
        assert "0 events" in run("verify", "team", *folder)[1]
        assert len(list((tmp_path / "Team").glob("eventlog.duckdb.*"))) == 1


def on_a_terminal(arguments: list[str | Path], answer: bytes) -> int:
    """The exit code of a command line on a terminal, after an answer was typed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_agentstore.server.cli", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 1_000)
    os.write(ours, answer)
    try:
        return process.wait(60)
    finally:
        os.close(ours)


def test_a_store_with_a_broken_log_can_be_reset(tmp_path: Path) -> None:
    place = tmp_path / "broken"
    place.mkdir()
    (place / "eventlog.duckdb").write_bytes(b"no database" * 10_000)
    code, out, _ = run("reset", "broken", "--yes", "--folder", tmp_path)
    assert (code, "cannot be read" in out) == (0, True)
    assert run("verify", "--folder", tmp_path)[1].startswith("broken: sound, 0 events")


def test_a_backup_restored_under_a_running_server_is_found_there(
    server: Server, busy: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.duckdb"
    assert run("backup", busy, copy, server=server)[0] == 0
    name = f"Again-{uuid.uuid4().hex[:8]}"
    assert run("restore", copy, name, server=server)[0] == 0
    assert titles(server, name) == 2


def test_a_command_that_does_not_exist_is_named_with_those_that_do() -> None:
    code, _, complaints = run("bogus")
    assert code == 2
    assert "bogus" in complaints
    assert "verify" in complaints
    assert "Traceback" not in complaints
