"""A running store: log, tables and subscribers in one, and the registry that opens and closes stores.

What belongs here: the life of a store and the way of a commit through it. How anybody reaches it (REST, websocket,
a notebook) is a door's business; importing this loads no DuckDB.
"""

from .commits import Draft, Receipt, draft
from .registry import Registry
from .snapshots import Snapshot
from .store import Answer, Store

__all__ = ["Answer", "Draft", "Receipt", "Registry", "Snapshot", "Store", "draft"]
