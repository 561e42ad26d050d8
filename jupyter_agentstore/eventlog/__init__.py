"""The log of events: the only thing of a store that must never be lost.

What belongs here: keeping events in order, durably, and giving them back. What they mean belongs to the schema,
what they amount to belongs to the state. Importing this loads no DuckDB.
"""

from .contract import EventLog
from .duckdb import DuckDBLog
from .lock import Lock, network_filesystem, unclean
from .memory import MemoryLog

__all__ = ["DuckDBLog", "EventLog", "Lock", "MemoryLog", "network_filesystem", "unclean"]
