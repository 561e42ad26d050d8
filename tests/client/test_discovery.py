"""Which server a kernel finds, and when it finds none."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from jupyter_server.auth.security import passwd

from jupyter_agentstore.client import Store, connect
from jupyter_agentstore.client.discovery import Endpoint, Given, Hub, Parent, ServerFile
from jupyter_agentstore.core.errors import Unauthorized, Unreachable
from tests.client.jupyter import TOKEN, Jupyter, free_port, until


@contextmanager
def running(server: Jupyter) -> Iterator[Jupyter]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


def chats(store: Store) -> None:
    """The store can be written, read and followed."""
    seen: list[int] = []
    subscription = store.subscribe("conversations", lambda frame: seen.append(len(frame)))
    until(lambda: store.link.state == "connected")
    chat = store.conversation(title="Here")
    until(lambda: seen[-1] == 1)
    subscription.close()
    assert "Hello" in chat.send("Hello").reply(30).content


def test_a_kernel_finds_the_server_with_a_token_that_started_it(
    jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(jupyter.file))
    with connect("discovery-file") as store:
        assert store.link.where == jupyter.url
        chats(store)
    assert capsys.readouterr().out == ""


def test_without_the_extensions_file_jupyters_own_is_used(
    jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.folder / "runtime"))
    monkeypatch.setenv("JPY_PARENT_PID", str(jupyter.pid))
    with connect("discovery-parent") as store:
        chats(store)


def test_a_server_with_a_password_and_no_token_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Jupyter(tmp_path, token="", password=passwd("secret"))) as server:
        monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(server.file))
        with connect("locked-up") as store:
            chats(store)
            secret = json.loads(server.file.read_text())["secret"]
            assert secret not in repr(store) + store._repr_html_() + repr(vars(store.link))


def test_a_server_on_a_unix_socket_with_a_base_url_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sock", dir="/tmp"))  # a socket's path may have 107 characters
    try:
        with running(Jupyter(folder, sock=folder / "s", base_url="/x/y/")) as server:
            monkeypatch.setenv("JUPYTER_AGENTSTORE_SERVER", str(server.file))
            with connect("by-socket") as store:
                assert str(folder / "s") in repr(store)
                chats(store)
            address = (
                f"http+unix://{quote(str(folder / 's'), safe='')}/x/y/?token={TOKEN}"  # as Jupyter prints it
            )
            with connect("by-socket", url=address) as store:
                assert len(store.conversations) == 1
    finally:
        shutil.rmtree(folder)


def test_a_server_without_the_extension_is_passed_over_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(Jupyter(tmp_path / "server", extension=False)) as server:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "server" / "runtime"))
        monkeypatch.setenv("JPY_PARENT_PID", str(server.pid))
        with connect("alone") as store:
            assert store.link.state == "embedded"
            said = capsys.readouterr().out
            assert "does not have the extension" in said
            assert TOKEN not in said
        with pytest.raises(Unreachable, match="does not have the extension"):
            connect("alone", embedded=False)


def test_a_named_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        connect(url=f"http://127.0.0.1:{free_port()}", token="t")


def test_a_wrong_token_is_an_error(jupyter: Jupyter) -> None:
    with pytest.raises((Unauthorized, Unreachable), match="token"):
        connect(url=jupyter.url, token="wrong")


@pytest.mark.parametrize("page", ["", "/", "/lab", "/lab/tree/x.ipynb", "/tree", "/agentstore/"])
def test_an_address_may_be_as_the_browser_shows_it(jupyter: Jupyter, page: str) -> None:
    with connect("as-shown", url=f"{jupyter.url}{page}?token={TOKEN}") as store:
        assert store.link.where == jupyter.url
        assert TOKEN not in repr(store)


def test_a_running_servers_token_need_not_be_given(jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(jupyter.folder / "runtime"))
    with connect("known", url=jupyter.url) as store:
        assert store.status()["messageCount"] == 0


def test_a_hubs_single_user_server_is_found(jupyter: Jupyter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", f"http://0.0.0.0:{jupyter.port}/x/y/")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", TOKEN)
    with connect("hub") as store:
        assert store.link.where == jupyter.url


def test_no_source_shows_its_secrets(tmp_path: Path) -> None:
    file = tmp_path / "agentstore-1.json"
    file.write_text(
        json.dumps({"url": "http://localhost:1/", "base_url": "/", "secret": "s3cr3t", "folder": "f"})
    )
    (endpoint,) = ServerFile.named(str(file)).endpoints()
    given = Given("http://localhost:1?token=s3cr3t", token="s3cr3t")
    assert endpoint.authorization == "agentstore s3cr3t"
    assert [e.authorization for e in given.endpoints()] == ["token s3cr3t"]
    for shown in (repr(endpoint), str(endpoint), repr(given)):
        assert "s3cr3t" not in shown


def test_a_servers_file_gives_way_to_the_one_with_the_same_stores(tmp_path: Path) -> None:
    for pid, port, folder in ((1, 1111, "ours"), (2, 2222, "others"), (3, 3333, "ours")):
        (tmp_path / f"agentstore-{pid}.json").write_text(
            json.dumps(
                {"url": f"http://localhost:{port}/b/", "base_url": "/b/", "secret": "s", "folder": folder}
            )
        )
    source = ServerFile.named(str(tmp_path / "agentstore-1.json"))
    (tmp_path / "agentstore-1.json").unlink()
    assert [e.url for e in source.endpoints()] == ["http://localhost:3333/b"]


def test_damaged_files_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "jpserver-7.json").write_text("{half")
    (tmp_path / "agentstore-7.json").write_bytes(b"\xff\xfe[]")
    assert list(Parent(7).endpoints()) == []
    assert list(ServerFile.named(str(tmp_path / "agentstore-7.json")).endpoints()) == []
    assert list(Hub().endpoints()) == []


def test_only_addresses_of_this_machine_pass_the_proxy_by() -> None:
    here = ["http://localhost:1", "http://127.0.0.1:1", "https://[::1]:1"]
    assert all(Endpoint(url).loopback for url in here)
    assert not any(Endpoint(url).loopback for url in ["http://10.0.0.1", "https://localhost.example.com"])
    assert Endpoint("http://x", sock="/s").loopback


def test_the_environment_of_this_test_leads_nowhere() -> None:
    assert "JUPYTER_AGENTSTORE_SERVER" not in os.environ
