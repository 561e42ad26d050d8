"""Registries on disk and in memory, and a store in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_agentstore.store import Registry, Store
from tests.drafts import conversation


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry(tmp_path / "stores")
    yield registry
    registry.close()


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with the conversation ``c``, on disk and in memory."""
    registry = Registry(tmp_path / "stores" if request.param == "disk" else None)
    store = registry.get("coffee", create=True)
    store.commit([conversation("c")], actor="ada").result(30)
    yield store
    registry.close()


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same store again and again, each time by a registry of its own."""
    registries: list[Registry] = []

    def open_() -> Store:
        while registries:
            registries.pop().close()
        registries.append(Registry(tmp_path / "stores"))
        return registries[0].get("coffee", create=True)

    yield open_
    while registries:
        registries.pop().close()
