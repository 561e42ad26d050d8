"""Servers for the tests of this folder, and stores of their own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

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
