"""The DuckDB instance that a module's states share, as those of a server do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jupyter_agentstore.duck import Instance


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    shared = Instance()
    yield shared
    shared.close()
