"""A running store: log, tables and subscribers in one, and the registry that opens and closes stores.

What belongs here: the life of a store and the way of a commit through it. How anybody reaches it (REST, websocket,
a notebook) is a door's business. Importing this loads no DuckDB, and what runs a store when it is first asked for: a
Jupyter server that has the extension loads none of it at its start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .commits import Draft, Receipt, draft

if TYPE_CHECKING:
    from .registry import Registry
    from .snapshots import Snapshot
    from .store import Answer, Store

__all__ = ["Answer", "Draft", "Receipt", "Registry", "Snapshot", "Store", "draft"]

_LATER = {"Answer": ".store", "Registry": ".registry", "Snapshot": ".snapshots", "Store": ".store"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name], __name__), name)
    return value
