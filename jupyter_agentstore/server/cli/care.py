"""``list``, ``verify``, ``reset`` and ``delete``.

What belongs here: asking first, and saying what came out. The work is done by a registry, in whichever process has
the store.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import AgentStoreError, DamagedLog, ForeignFile, StoreLocked
from ...core.limits import store_id as check_store_id
from ...core.rows import number_of
from .places import (
    DAMAGED,
    FAILED,
    LOCKED,
    OK,
    USAGE,
    complain,
    counted,
    folder_of,
    names,
    place_of,
    progress_bar,
    spelled,
)

if TYPE_CHECKING:
    from ...store import Registry


def list_(options: argparse.Namespace) -> int:
    """``list``."""
    folder = folder_of(options)
    found = names(folder)
    if not found:
        print(f"There are no stores in {folder}.", file=sys.stderr)
    for name in found:
        place = folder / name
        print(f"{name}\t{_megabytes(_size(place))}\t{_state(place)}".rstrip())
    return OK


def verify(options: argparse.Namespace) -> int:
    """``verify``."""
    from ...eventlog import backup

    folder = folder_of(options)
    code = OK
    with _registry(folder) as registry:
        for what in options.what or names(folder):
            try:
                with progress_bar(options, "events") as progress:
                    if Path(what).is_file():
                        report = backup.verify(Path(what), progress)
                    else:
                        place_of(options, check_store_id(what))
                        report = registry.verify(spelled(folder, what), progress)
            except StoreLocked as error:
                code = max(code, LOCKED)
                complain(f"{error.message} Make a backup of it and verify that.", LOCKED)
                continue
            except AgentStoreError as error:
                code = max(code, DAMAGED if error.code == "damaged_log" else FAILED)
                complain(f"{what}: {error.message}", FAILED)
                continue
            if report.faults:
                code = max(code, DAMAGED)
            print(f"{what}: {'; '.join(report.faults) or 'sound'}, {counted(report)}")
    return code


def reset(options: argparse.Namespace) -> int:
    """``reset``."""
    place = place_of(options, check_store_id(options.store))
    with _registry(place.parent) as registry:
        fate = "is removed for good" if options.purge else "is kept beside the new one"
        if not _agreed(options, registry, place, f"It gets an empty log; the old one {fate}."):
            return _left_alone(place)
        backend_id, kept = registry.reset(place.name, purge=options.purge)
    if kept is not None:
        print(f"The old log is kept as {kept}.")
    print(f"The store {place.name!r} is empty; its backendId is {backend_id}.")
    return OK


def delete(options: argparse.Namespace) -> int:
    """``delete``."""
    place = place_of(options, check_store_id(options.store))
    with _registry(place.parent) as registry:
        if not _agreed(options, registry, place, "All of it is removed for good."):
            return _left_alone(place)
        registry.delete(place.name)
    print(f"The store {place.name!r} is deleted.")
    return OK


@contextmanager
def _registry(folder: Path) -> Iterator[Registry]:
    from ...store import Registry

    registry = Registry(folder, owner={"doing": "maintenance"}, share=False)
    try:
        yield registry
    finally:
        registry.close()


def _agreed(options: argparse.Namespace, registry: Registry, place: Path, fate: str) -> bool:
    """Say what will be lost, and ask whether that is meant."""
    try:
        about = registry.about(place.name)
        what = f"{number_of(about.events, 'event')}, {_megabytes(about.size)}, {_who(about.owner) or 'open nowhere'}"
    except (DamagedLog, ForeignFile) as error:
        what = f"{_megabytes(_size(place))}, and its log cannot be read: {error.message.rstrip('.')}"
    print(
        f"The store {place.name!r} in {place.parent} has {what}.\n{fate} Clients of the store start afresh."
    )
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise SystemExit(complain("Nobody is there to say yes; if it is meant, say --yes.", USAGE))
    try:
        return input("Go on? [y/N] ").strip().casefold() in ("y", "yes")
    except EOFError:
        return False


def _left_alone(place: Path) -> int:
    return complain(f"The store {place.name!r} was left as it is.", FAILED)


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir() if path.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _state(place: Path) -> str:
    """What the lock file says."""
    from ...eventlog.lock import holder_of, unclean

    if unclean(place):
        return "to be opened by the next server: it crashed, or replies are owed"
    return _who(holder_of(place))


def _who(owner: dict[str, Any]) -> str:
    if not owner:
        return ""
    how = "asleep" if owner.get("asleep") else "open"
    url = f" ({owner['url']})" if owner.get("url") else ""
    return f"{how} in process {owner.get('pid')} on {owner.get('host')}{url}"
