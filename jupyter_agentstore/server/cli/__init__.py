"""``jupyter agentstore``: the server, and what is done to stores without one.

What belongs here: the command line. Without a subcommand it starts a Jupyter server with the extension.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.errors import AgentStoreError, StoreLocked
from ..shapes import DEFAULT_STORE
from . import care, copies
from .places import DAMAGED, FAILED, LOCKED, OK, USAGE, complain, configured_folder

__all__ = ["COMMANDS", "DAMAGED", "FAILED", "LOCKED", "OK", "USAGE", "configured_folder", "main"]

_EPILOG = """\
Exit codes: 0 done; 1 it failed, the message says why; 2 the command line is wrong, or nobody is there to say yes;
3 a log is damaged; 4 a process has the store that cannot be asked.
"""

COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": care.list_,
    "verify": care.verify,
    "reset": care.reset,
    "delete": care.delete,
    "backup": copies.backup,
    "restore": copies.restore,
}
_ALIASES = {"stores": "list"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for the process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        from ..app import AgentStoreApp

        AgentStoreApp.launch_instance(arguments)  # type: ignore[no-untyped-call]
        return OK
    options = _parser().parse_args(arguments)
    try:
        return COMMANDS[_ALIASES.get(options.command, options.command)](options)
    except StoreLocked as error:
        return complain(error.message, LOCKED)
    except AgentStoreError as error:
        return complain(error.message, DAMAGED if error.code == "damaged_log" else FAILED)
    except OSError as error:
        return complain(str(error), FAILED)
    except KeyboardInterrupt:
        return complain("Interrupted; nothing was left half done.", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter agentstore", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            aliases=[alias for alias, of in _ALIASES.items() if of == name],
            help=what,
            description=what,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument(
            "--folder",
            type=Path,
            help="the folder of the stores; by default c.AgentStoreApp.folder, else 'agentstore' in Jupyter's data "
            "directory",
        )
        made.add_argument("--quiet", "-q", action="store_true", help="no progress")
        return made

    command("list", "List the stores: how large each is, and who has it open.")

    backup = command("backup", "Write a store's events to one file, consistently, while it may be in use.")
    backup.add_argument("store", nargs="?", default=DEFAULT_STORE, help=f"the store's id ({DEFAULT_STORE})")
    backup.add_argument("file", type=Path, help="the file to write")
    backup.add_argument("--force", action="store_true", help="replace an older backup of that name")
    backup.add_argument("--url", help="take it from this Jupyter server, such as http://localhost:8888/")
    backup.add_argument(
        "--token",
        default=os.environ.get("JUPYTER_TOKEN"),
        help="that server's token (better given as the environment's JUPYTER_TOKEN)",
    )

    restore = command("restore", "Make a store from a backup. Clients of the store then sync anew.")
    restore.add_argument("file", type=Path, help="the backup")
    restore.add_argument("store", nargs="?", default=DEFAULT_STORE, help=f"the store's id ({DEFAULT_STORE})")
    restore.add_argument(
        "--force",
        action="store_true",
        help="replace the store's log if it has one; the old one is kept beside it",
    )

    verify = command("verify", "Read whole logs or backups and check every event.")
    verify.add_argument("what", nargs="*", help="ids of stores, or backup files; by default all stores")

    reset = command("reset", "Give a store an empty log, also while it is open. Its clients then sync anew.")
    reset.add_argument("--purge", action="store_true", help="do not keep the old log beside the new one")

    delete = command("delete", "Remove a store with everything in it, also while it is open.")

    for each in (reset, delete):
        each.add_argument("store", help="the store's id")
        each.add_argument("--yes", "-y", action="store_true", help="do not ask")
    return parser
