"""Which file a state begins with, the swap of one for another, and the way through many events.

What belongs here: what happens to a state's files as files. A file of another schema answers readers while a new one
is built beside it; whichever of them a killed process leaves behind, the next one goes on from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import ForeignFile
from ..core.events import Event
from ..core.schema import Schema
from ..duck import Instance
from .file import StateFile, discard, wal_of
from .tables import Layout, layouts

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


def take(
    instance: Instance, folder: Path, alias: str, schema: Schema, tables: dict[str, Layout]
) -> StateFile | None:
    """The file of a folder, of whatever log, if it was made with this schema; otherwise it is gone afterwards."""
    path = folder / FILE
    discard(folder / NEW_FILE)
    file = StateFile.find(instance, path, alias, tables, None, None)
    if file is not None and file.meta.schema != schema.hash:
        file.detach()
        discard(path)
        return None
    return file


def install(
    file: Path, instance: Instance, folder: Path, alias: str, schema: Schema, backend_id: str
) -> None:
    """Check a copy of a state's file and put it beside the one of a folder; see :func:`put_in_place`.

    Raises:
        ForeignFile: it is damaged, of another log or another schema; it is gone then.
        OSError: it cannot be moved or opened.
    """
    beside = folder / NEW_FILE
    if file != beside:
        discard(beside)
        shutil.move(file, beside)
    beside.chmod(0o600)
    found = StateFile.find(instance, beside, f"{alias}_n", layouts(schema), backend_id, None)
    if found is None:
        raise ForeignFile("What was to be installed are no tables of this store.")
    whole = found.whole
    found.detach()
    if not whole or found.meta.schema != schema.hash:
        discard(beside)
        what = "tables of another schema" if whole else "not all of the tables"
        raise ForeignFile(f"What was to be installed are {what}.")


def put_in_place(folder: Path) -> None:
    """Put a new file in the place of the old one; neither is attached."""
    discard(folder / FILE)
    (folder / NEW_FILE).replace(folder / FILE)
    if wal_of(folder / NEW_FILE).exists():
        wal_of(folder / NEW_FILE).replace(wal_of(folder / FILE))


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
