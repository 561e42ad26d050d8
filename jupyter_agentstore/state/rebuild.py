"""Which file a state begins with, the swap of one for another, and the way through many events.

What belongs here: what happens to a state's files as files. A file of another schema answers readers while a new one
is built beside it; whichever of them a killed process leaves behind, the next one goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.events import Event
from ..core.schema import Schema
from ..duck import Instance
from .file import StateFile, discard, wal_of
from .tables import Layout

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .state import State

FILE = "state.duckdb"
NEW_FILE = "state.new.duckdb"

_BATCH_EVENTS = 30_000
_BATCH_BYTES = 32_000_000
"""What :func:`catch_up` writes together: DuckDB spends half the time on it that it spends on 10,000 events at a
time. In memory it takes five times the bytes, and there may be two of it."""


def choose(
    instance: Instance,
    folder: Path | None,
    alias: str,
    schema: Schema,
    tables: dict[str, Layout],
    backend_id: str,
    head: int,
) -> tuple[StateFile, StateFile | None]:
    """The file to write to, and an older one that answers readers meanwhile; see ``State.open``."""
    if folder is None:
        return StateFile.make(instance, None, alias, schema, tables, backend_id), None
    path, beside = folder / FILE, folder / NEW_FILE
    old = StateFile.find(instance, path, alias, tables, backend_id, head)
    if old is not None and old.meta.schema == schema.hash:
        discard(beside)
        return old, None
    if old is not None and old.meta.applied == 0:
        old.detach()
        discard(path)
        old = None
    new_alias = f"{alias}_n" if old else alias
    new = StateFile.find(instance, beside, new_alias, tables, backend_id, head)
    if new is not None and new.meta.schema != schema.hash:
        new.detach()
        discard(beside)
        new = None
    if old is None and new is not None:  # killed while they were swapped
        _move(new, path)
    if new is None:
        new = StateFile.make(instance, beside if old else path, new_alias, schema, tables, backend_id)
    return new, old


def replace(new: StateFile, old: StateFile) -> None:
    """Put a new file in the place of an old one, and attach it under the old one's name.

    Nobody reads either of them. Killed in between, one of them is there and whole, perhaps as of an earlier event.
    """
    assert old.path is not None
    old.detach()
    wal_of(old.path).unlink(missing_ok=True)
    _move(new, old.path, old.alias)


def _move(new: StateFile, path: Path, alias: str | None = None) -> None:
    """Rename an attached file; ``alias`` is its name in DuckDB from then on."""
    assert new.path is not None
    new.checkpoint()
    new.detach()
    new.path.replace(path)
    if wal_of(new.path).exists():
        wal_of(new.path).replace(wal_of(path))
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    new.path, new.alias = path, alias or new.alias
    new.instance.attach(new.path, new.alias)
    new.connect()


def catch_up(state: State, pages: Iterable[Sequence[Event]], progress: Callable[[int], None] | None) -> None:
    """See ``State.catch_up``."""
    from concurrent.futures import ThreadPoolExecutor

    writing: Future[None] | None = None
    events = size = 0
    with ThreadPoolExecutor(1, "agentstore-write") as helper:
        for page in pages:
            state.apply(page)
            events += len(page)
            size += sum(len(event.body) for event in page)
            if progress:
                progress(state.applied)
            if events >= _BATCH_EVENTS or size >= _BATCH_BYTES:
                if writing is not None:
                    writing.result()
                writing = helper.submit(state.flush)
                events = size = 0
        if writing is not None:
            writing.result()
    state.flush()
