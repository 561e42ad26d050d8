"""Servers for the tests of this folder, and stores of their own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.phone import AUTHORIZED, Client, hang_up, opened
from tests.server.servers import Serve, Server, ok


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a server: ``serve(config, folder=…, token=…, environ=…)``. It ends with the session."""
    started: list[Server] = []

    def start(config: str = "", *, folder: Path | None = None, **options: Any) -> Server:
        server = Server(folder or tmp_path_factory.mktemp("server"), config, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
    for server in started:
        server.end()


@pytest.fixture(scope="session")
def server(serve: Serve) -> Server:
    """A server with a token and nothing special."""
    return serve()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of that server with a store of its own."""
    with server.client(params={"storeId": f"s-{uuid.uuid4().hex[:12]}"}) as client:
        yield client


@pytest.fixture
def conversation(http: httpx.Client) -> str:
    """The id of a conversation in that store."""
    return str(ok(http.post("conversations", json={"userId": "ada", "title": "Coffee"}))["conversationId"])


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    """No websocket outlives its test."""
    yield
    hang_up()


@pytest.fixture
def store_id() -> str:
    return f"s-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def clients(server: Server, store_id: str) -> tuple[Client, Client]:
    """Two connections to one store of the test's own."""
    return opened(server, store_id, **AUTHORIZED), opened(server, store_id, **AUTHORIZED)


@pytest.fixture
def client(clients: tuple[Client, Client]) -> Client:
    return clients[0]


@pytest.fixture(scope="session")
def ruled(serve: Serve) -> Server:
    """A server where a header says who calls, and rights depend on it."""
    return serve(
        "import agentstore_test_access as access\n"
        "import jupyter_agentstore.server.websocket as websocket\n"
        "websocket.ABSENT_SECONDS = websocket.RECHECK_SECONDS = 0.05\n"
        "c.ServerApp.identity_provider_class = access.ByHeader\n"
        "c.ServerApp.authorizer_class = access.Rights\n",
        token="",
    )
