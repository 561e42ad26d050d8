"""``jupyter agentstore``: the server, and what is done to stores without one.

What belongs here: the command line. Without a subcommand it starts a Jupyter server with the extension.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..core.errors import AgentStoreError, Conflict, NotFound, StoreLocked, Unauthorized
from ..core.limits import store_id as check_store_id
from ..core.rows import iso
from .announce import SCHEME
from .shapes import DEFAULT_STORE

if TYPE_CHECKING:
    import httpx

    from ..eventlog.backup import Report

OK, FAILED, DAMAGED, LOCKED = 0, 1, 3, 4
_LOG_FILE = "eventlog.duckdb"

_EPILOG = """\
Exit codes: 0 done; 1 it failed, the message says why; 2 the command line is wrong; 3 a log is damaged;
4 another process has the store.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None for the process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        from .app import AgentStoreApp

        AgentStoreApp.launch_instance(arguments)  # type: ignore[no-untyped-call]
        return OK
    options = _parser().parse_args(arguments)
    try:
        return COMMANDS[options.command](options)
    except StoreLocked as error:
        return _complain(error.message, LOCKED)
    except AgentStoreError as error:
        return _complain(error.message, DAMAGED if error.code == "damaged_log" else FAILED)
    except OSError as error:
        return _complain(str(error), FAILED)
    except KeyboardInterrupt:
        return _complain("Interrupted; nothing was left half done.", 130)


def _complain(message: str, code: int) -> int:
    print(f"jupyter agentstore: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter agentstore", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
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

    command("stores", "List the stores: how large each is, and who has it open.")

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
    return parser


# ---- commands


def _stores(options: argparse.Namespace) -> int:
    from ..eventlog.lock import owner_of, unclean

    folder = _folder(options)
    names = _names(folder)
    if not names:
        print(f"There are no stores in {folder}.", file=sys.stderr)
    for name in names:
        place = folder / name
        size = sum(path.stat().st_size for path in place.iterdir() if path.is_file())
        owner = owner_of(place)
        state = ""
        if unclean(place):
            state = "to be opened by the next server: it crashed, or replies are owed"
        elif owner:
            state = (
                f"open in process {owner.get('pid')} on {owner.get('host')} {owner.get('url', '')}".rstrip()
            )
        print(f"{name}\t{size / 1e6:.1f} MB\t{state}".rstrip())
    return OK


def _backup(options: argparse.Namespace) -> int:
    from ..eventlog.backup import backup

    store_id = check_store_id(options.store)
    if options.url:
        authorization = f"token {options.token}" if options.token else ""
        return _download(options, store_id, options.url, "", authorization)
    place = _place(options, store_id)
    try:
        with _progress(options, "events") as progress:
            report = backup(place, options.file, progress, force=options.force)
    except StoreLocked as error:
        server = _announced(error.owner)
        if server is None:
            raise StoreLocked(
                f"{error.message} If that is a Jupyter server, name it: --url http://… and JUPYTER_TOKEN.",
                error.owner,
            ) from None
        return _download(
            options, place.name, server["url"], server.get("sock") or "", f"{SCHEME} {server['secret']}"
        )
    return _done("Backed up", report)


def _restore(options: argparse.Namespace) -> int:
    from ..eventlog.backup import restore

    store_id = check_store_id(options.store)
    folder = _folder(options)
    place = folder / _spelled(folder, store_id)
    with _progress(options, "events") as progress:
        report = restore(options.file, place, progress, force=options.force)
    if report.kept is not None:
        print(f"The log that was there is kept as {report.kept}.")
    return _done("Restored", report)


def _verify(options: argparse.Namespace) -> int:
    from ..eventlog.backup import verify

    folder = _folder(options)
    code = OK
    for what in options.what or _names(folder):
        path = Path(what) if Path(what).is_file() else folder / _spelled(folder, check_store_id(what))
        try:
            with _progress(options, "events") as progress:
                report = verify(path, progress)
        except StoreLocked as error:
            code = max(code, LOCKED)
            _complain(f"{error.message} Make a backup of it and verify that.", LOCKED)
            continue
        except AgentStoreError as error:
            code = max(code, DAMAGED if error.code == "damaged_log" else FAILED)
            _complain(f"{what}: {error.message}", FAILED)
            continue
        if report.faults:
            code = max(code, DAMAGED)
        print(f"{what}: {'; '.join(report.faults) or 'sound'}, {_counted(report)}")
    return code


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "stores": _stores,
    "backup": _backup,
    "restore": _restore,
    "verify": _verify,
}


# ---- places


def configured_folder() -> Path:
    """The folder that Jupyter's configuration names for stores, else the default."""
    from jupyter_core.application import JupyterApp

    app = JupyterApp()
    for name in ("jupyter_server_config", "jupyter_agentstore_config"):
        app.config_file_name = name
        app.load_config_file()
    given = app.config.get("AgentStoreApp", {}).get("folder")
    return Path(given).expanduser() if isinstance(given, str) else Path(app.data_dir) / "agentstore"


def _folder(options: argparse.Namespace) -> Path:
    return Path(options.folder) if options.folder else configured_folder()


def _names(folder: Path) -> list[str]:
    return sorted((path.parent.name for path in folder.glob(f"*/{_LOG_FILE}")), key=str.casefold)


def _spelled(folder: Path, store_id: str) -> str:
    """A store's id as it was first spelled."""
    return next((name for name in _names(folder) if name.casefold() == store_id.casefold()), store_id)


def _place(options: argparse.Namespace, store_id: str) -> Path:
    folder = _folder(options)
    name = _spelled(folder, store_id)
    if not (folder / name).is_dir():
        there = ", ".join(_names(folder)) or "none"
        raise NotFound(f"There is no store {store_id!r} in {folder}; there are: {there}.")
    return folder / name


def _announced(owner: dict[str, object]) -> dict[str, Any] | None:
    """What a server of this user, on this machine, says of itself, if it is the owner of a lock."""
    import socket

    from jupyter_core.paths import jupyter_runtime_dir

    if owner.get("host") != socket.gethostname():
        return None
    try:
        said = json.loads((Path(jupyter_runtime_dir()) / f"agentstore-{owner.get('pid')}.json").read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("secret") and said.get("url") else None


# ---- from a server


def _download(options: argparse.Namespace, store_id: str, url: str, sock: str, authorization: str) -> int:
    """Have a server make the backup."""
    import httpx

    target: Path = options.file
    if target.exists() and not options.force:
        raise Conflict(f"{target} is there already.")
    parts = urlsplit(url)
    base = f"http://localhost{parts.path}" if sock else url
    local = bool(sock) or parts.hostname in ("localhost", "127.0.0.1", "::1")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=sock) if sock else None,
            headers={"Authorization": authorization} if authorization else {},
            verify=not local,  # a server on this machine may have signed its own certificate
            trust_env=not local,
            timeout=httpx.Timeout(30.0, read=600.0),
        ) as client:
            where = f"{base.rstrip('/')}/agentstore/backup"
            with client.stream("GET", where, params={"storeId": store_id}) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refused(url, answer)
                _keep(options, answer, temporary)
        report = _checked(temporary)
        temporary.replace(target)
    except httpx.HTTPError as error:
        raise OSError(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{url} made the backup {target}: {_counted(report)}.")
    return OK


def _keep(options: argparse.Namespace, answer: httpx.Response, path: Path) -> None:
    total = int(answer.headers.get("Content-Length", 0))
    with path.open("xb") as file, _progress(options, "bytes") as progress:
        done = 0
        for part in answer.iter_bytes():
            file.write(part)
            done += len(part)
            if progress:
                progress(done, total)
        file.flush()
        os.fsync(file.fileno())
    if done != total:
        raise OSError(f"The server sent {done:,} of {total:,} bytes.")


def _checked(path: Path) -> Report:
    from ..eventlog.backup import verify

    return verify(path)


def _refused(url: str, answer: httpx.Response) -> AgentStoreError:
    if answer.status_code == 401:
        return Unauthorized(f"{url} does not accept the token; give it as the environment's JUPYTER_TOKEN.")
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"{answer.status_code} {answer.reason_phrase}; is the extension installed there?"
    return AgentStoreError(f"{url}: {message}")


# ---- what is shown


@contextmanager
def _progress(options: argparse.Namespace, unit: str) -> Iterator[Callable[[int, int], None] | None]:
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


def _done(what: str, report: Report) -> int:
    print(f"{what} {report.path}: {_counted(report)}.")
    return OK


def _counted(report: Report) -> str:
    last = f", the last one of {iso(report.last_recorded_at)}" if report.last_recorded_at else ""
    return f"{report.count:,} events{last}"


if __name__ == "__main__":
    sys.exit(main())
