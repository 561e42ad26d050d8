"""Where stores are, and what is said of them on a terminal.

What belongs here: what several commands need.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import NotFound
from ...core.rows import iso, number_of

if TYPE_CHECKING:
    from ...eventlog.backup import Report

OK, FAILED, USAGE, DAMAGED, LOCKED = 0, 1, 2, 3, 4
"""Exit codes."""

LOG_FILE = "eventlog.duckdb"


def complain(message: str, code: int) -> int:
    """Say what went wrong; the exit code."""
    print(f"jupyter agentstore: {message}", file=sys.stderr)
    return code


def configured_folder() -> Path:
    """The folder that Jupyter's configuration names for stores, else the default."""
    from jupyter_core.application import JupyterApp

    app = JupyterApp()
    for name in ("jupyter_server_config", "jupyter_agentstore_config"):
        app.config_file_name = name
        app.load_config_file()
    given = app.config.get("AgentStoreApp", {}).get("folder")
    return Path(given).expanduser() if isinstance(given, str) else Path(app.data_dir) / "agentstore"


def folder_of(options: argparse.Namespace) -> Path:
    """The folder of the stores."""
    return Path(options.folder) if options.folder else configured_folder()


def names(folder: Path) -> list[str]:
    """The ids of all stores, sorted."""
    return sorted((path.parent.name for path in folder.glob(f"[!.]*/{LOG_FILE}")), key=str.casefold)


def spelled(folder: Path, store_id: str) -> str:
    """A store's id as it was first spelled."""
    return next((name for name in names(folder) if name.casefold() == store_id.casefold()), store_id)


def place_of(options: argparse.Namespace, store_id: str) -> Path:
    """A store's folder.

    Raises:
        NotFound: there is none, with the names of those that there are.
    """
    folder = folder_of(options)
    name = spelled(folder, store_id)
    if not (folder / name).is_dir():
        there = ", ".join(names(folder)) or "none"
        raise NotFound(f"There is no store {store_id!r} in {folder}; there are: {there}.")
    return folder / name


# ---- what is shown


@contextmanager
def progress_bar(options: argparse.Namespace, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal."""
    if options.quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", unit_scale=True, leave=False) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield tell


def done(what: str, report: Report) -> int:
    """Say what was done; the exit code."""
    print(f"{what} {report.path}: {counted(report)}.")
    return OK


def counted(report: Report) -> str:
    """How many events there are, and of when the last one is."""
    last = f", the last one of {iso(report.last_recorded_at)}" if report.last_recorded_at else ""
    return f"{number_of(report.count, 'event')}{last}"
