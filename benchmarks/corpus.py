"""Stores full of messages, built once a run and read by several measurements."""

from __future__ import annotations

import itertools
from pathlib import Path

from .report import Figure
from .setting import Setting, progress
from .systems import EventSourcing, Ours, SQLite, System
from .texts import messages

CONVERSATIONS = 10_000
BUSY = 1_000
"""Every other message is in one of these, so that each has some hundreds."""

_BATCH = 5_000
_built: dict[tuple[Path, str, int], Path] = {}

KINDS: dict[str, type[Ours | SQLite | EventSourcing]] = {
    kind.name: kind for kind in (Ours, SQLite, EventSourcing)
}


def corpus(setting: Setting, name: str, size: int) -> Path:
    """The folder of a closed system of that name that holds ``size`` messages in 10,000 conversations."""
    place = (setting.folder, name, size)
    if place not in _built:
        folder = setting.new_folder(f"corpus-{name}-{size}")
        system: System = KINDS[name]()
        system.open(folder)
        system.begin(CONVERSATIONS)
        said = itertools.islice(messages(CONVERSATIONS, busy=BUSY), size)
        batches = iter(lambda: list(itertools.islice(said, _BATCH)), [])
        for batch in progress(batches, f"{size:,} messages for {name}", -(-size // _BATCH)):
            system.commit(batch)
        system.catch_up()
        system.close()
        _built[place] = folder
    return _built[place]


def size_of(folder: Path) -> Figure:
    """Of all files in a folder."""
    return Figure(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, "MB")
