"""The Jupyter server extension: its configuration, its start and its end.

What belongs here: traits, and the putting together of what they configure. What it serves is in ``handlers``, what it
holds in ``host``. Nothing slow is loaded before the server is up.
"""

from __future__ import annotations

import gc
import importlib
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_data_dir
from jupyter_server.extension.application import ExtensionApp
from traitlets import (
    Bool,
    Callable,
    CFloat,
    Float,
    Integer,
    List,
    TraitError,
    Unicode,
    Union,
    default,
    validate,
)

from .._version import __version__
from ..core.agent_schema import agent_schema
from ..core.schema import Schema
from .announce import Announcement
from .base import LocalIdentity
from .handlers import PREFIX, handlers
from .host import Host

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

    from ..agent import Runtime
    from ..agent.responder import Responder
    from ..state.query import Limits
    from ..store import Registry

MOUNTS = Path("/proc/self/mountinfo")
_SCRUBBED = ("token", "payload")
_GC = (50_000, 50, 100)  # by default 700, 10, 10: with those, collections took most of the loop's pauses
_TURN = 0.001  # seconds; by default 0.005, which the loop waits for each thread that has much to do
_WILDCARDS = ("", "0.0.0.0", "::")  # noqa: S104


class AgentStoreApp(ExtensionApp):
    """Agent stores in a Jupyter server: an agent's whole memory as an event log, with tables derived from it."""

    name = "agentstore"
    version = __version__
    description = __doc__ or ""
    extension_url = f"{PREFIX}/health"
    load_other_extensions = True
    examples = """
    jupyter agentstore                               # a Jupyter server with agent stores
    jupyter agentstore list                          # which stores there are
    jupyter agentstore backup support-bot copy.duckdb
    jupyter agentstore restore copy.duckdb support-bot
    jupyter agentstore verify                        # check every log
    """

    folder = Unicode(
        help="""The folder of the stores, one subfolder each. It must be on a local disk: locks and fsync cannot be
        relied on across a network. By default `agentstore` in Jupyter's data directory.""",
    ).tag(config=True)

    schema = Unicode(
        "jupyter_agentstore.core.agent_schema:agent_schema",
        help="""The events and tables of the stores, as "package.module:name" of a
        jupyter_agentstore.core.schema.Schema; `agent_schema.extend(...)` makes one. When it changes, the tables are
        built anew from the events.""",
    ).tag(config=True)

    idle_seconds = Float(
        300.0,
        min=1.0,
        help="Seconds without traffic after which a store's files are closed; the next call opens them again.",
    ).tag(config=True)

    query_seconds = Float(10.0, min=0.01, help="Seconds after which a user's SQL is interrupted.").tag(
        config=True
    )

    query_rows = Integer(100_000, min=1, help="The most rows that a user's SQL may give.").tag(config=True)

    query_bytes = Integer(64_000_000, min=1, help="The most bytes that a user's SQL may give.").tag(
        config=True
    )

    query_memory = Unicode(
        "2GB", help="The memory that all queries together may take, as DuckDB says it: '2GB', '500MB'."
    ).tag(config=True)

    query_concurrency = Integer(4, min=1, help="How many queries may run at once; more wait.").tag(
        config=True
    )

    body_bytes = Integer(
        100_000_000,
        min=1_000,
        help="The longest body of a request, in bytes; a longer one is answered with 413.",
    ).tag(config=True)

    max_connections = Integer(
        4096, min=1, help="How many websockets the server may have; more are answered with 503."
    ).tag(config=True)

    max_user_connections = Integer(
        256, min=1, help="How many websockets one user may have; more are answered with 429."
    ).tag(config=True)

    push_events_per_second = Integer(
        50_000,
        min=0,
        help="""How many events a second one websocket may push, on the whole; twice as many at once. What is more is
        refused with the error rate_limited, and clients push it again later. 0: no limit.""",
    ).tag(config=True)

    on_push = Union(
        [Unicode(), Callable()],
        default_value="",
        help="""A function that is called before events are written, by a push or over REST, with a
        jupyter_agentstore.server.hooks.PushInfo; also as "package.module:name". It may be async. What it raises of
        jupyter_agentstore.core.errors refuses the events.""",
    ).tag(config=True)

    on_pull = Union(
        [Unicode(), Callable()],
        default_value="",
        help="""A function that is called before a pull, a copy of the tables or a watch begins, with a
        jupyter_agentstore.server.hooks.PullInfo; also as "package.module:name". It may be async. What it raises of
        jupyter_agentstore.core.errors refuses it.""",
    ).tag(config=True)

    responder = Unicode(
        "simulated",
        help="""Who writes the replies: "simulated", which needs no model and no network, or "package.module:name" of
        an object with `async def reply(request)`, or of a class that makes one.""",
    ).tag(config=True)

    agent_name = Unicode(
        "simulated", help="The agent's name; the actor of its replies is `agent:<name>`."
    ).tag(config=True)

    reply_delay = List(
        CFloat(),
        [1.0, 3.0],
        minlen=2,
        maxlen=2,
        help="The shortest and the longest wait of the simulated agent before it replies, in seconds.",
    ).tag(config=True)

    concurrency = Integer(32, min=1, help="How many conversations the agent serves at once.").tag(config=True)

    tune_python = Bool(
        True,
        help="""Have Python look for garbage less often, and never again among the objects that a server has at its
        start, and have its threads take turns every millisecond instead of every five. Otherwise a busy store makes
        the whole server pause, up to a third of a second at a time.""",
    ).tag(config=True)

    host: Host | None = None

    @default("folder")
    def _default_folder(self) -> str:
        data_dir = self.serverapp.data_dir if self.serverapp is not None else jupyter_data_dir()
        return str(Path(data_dir) / "agentstore")

    @validate("reply_delay")
    def _check_delay(self, proposal: Any) -> Any:
        shortest, longest = proposal["value"]
        if not 0 <= shortest <= longest:
            raise TraitError("c.AgentStoreApp.reply_delay must be two numbers of seconds, the smaller first.")
        return proposal["value"]

    # ---- putting together

    def initialize_settings(self) -> None:
        """Read the configuration and put the host where the handlers find it."""
        try:
            schema = load_schema(self.schema)
            load_responder(self.responder, self.reply_delay)
            on_push = load_hook(self.on_push, "on_push")
            on_pull = load_hook(self.on_pull, "on_pull")
        except ValueError as error:
            self.log.critical("%s", error)
            if self.serverapp is not None and self.serverapp.starter_app is self:
                self.exit(1)
            raise
        folder = self.checked_folder()
        self.host = Host(
            app=self,
            identity=LocalIdentity(parent=self),
            open_stores=lambda: self._open_stores(folder, schema),
            open_runtime=self._open_runtime,
            open_limits=self._limits,
            queries=self.query_concurrency,
            body_bytes=self.body_bytes,
            connections=self.max_connections,
            user_connections=self.max_user_connections,
            on_push=on_push,
            on_pull=on_pull,
            log=self.log,
        )
        scrubbed = [*self.settings.get("extra_log_scrub_param_keys", ()), *_SCRUBBED]
        self.settings.update(
            {self.name: self.host, "extra_log_scrub_param_keys": list(dict.fromkeys(scrubbed))}
        )

    def initialize_handlers(self) -> None:
        """Add the extension's paths."""
        self.handlers.extend(handlers())

    def checked_folder(self, mounts: Path = MOUNTS) -> Path:
        """The folder of the stores; warns if it is on a network file system."""
        from ..eventlog.lock import network_filesystem

        folder = Path(self.folder).expanduser().absolute()
        kind = network_filesystem(folder, mounts)
        if kind is not None:
            self.log.warning(
                "The stores are in %s, on the network file system %s: two machines may both believe that they have "
                "a store, and what was acknowledged may not be on a disk. Set c.AgentStoreApp.folder to a local one.",
                folder,
                kind,
            )
        return folder

    def _open_stores(self, folder: Path, schema: Schema) -> Registry:
        from ..store import Registry

        return Registry(
            folder,
            schema,
            owner={"url": self._url()},
            idle_seconds=self.idle_seconds,
            query_memory=self.query_memory,
        )

    def _open_runtime(self, stores: Registry) -> Runtime:
        from ..agent import Runtime

        responder = load_responder(self.responder, self.reply_delay)
        return Runtime(stores, responder, concurrency=self.concurrency, name=self.agent_name)

    def _limits(self) -> Limits:
        from ..state.query import Limits

        return Limits(seconds=self.query_seconds, rows=self.query_rows, bytes=self.query_bytes)

    def _url(self) -> str:
        """The server's address for programs on this machine, without a token."""
        server = self.serverapp
        if server is None or server.sock:
            return server.connection_url if server is not None else ""
        ip = "127.0.0.1" if server.ip in _WILDCARDS else server.ip
        at = f"[{ip}]" if ":" in ip else ip
        return f"{'https' if server.certfile else 'http'}://{at}:{server.port}{server.base_url}"

    # ---- start and end

    async def _start_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        """Once the server is up: tell its user's programs where it is, and open what is needed."""
        if self.host is None:
            return
        self._announce(serverapp, self.host.secret)
        await self.host.start()
        if self.tune_python:
            gc.freeze()
            gc.set_threshold(*_GC)
            sys.setswitchinterval(_TURN)

    def _announce(self, serverapp: ServerApp, secret: str) -> None:
        self._announcement = Announcement(Path(serverapp.runtime_dir))
        try:
            self._announcement.publish(
                url=self._url(),
                sock=serverapp.sock,
                base_url=serverapp.base_url,
                root_dir=str(Path(serverapp.root_dir).absolute()),
                folder=str(Path(self.folder).expanduser().absolute()),
                host=socket.gethostname(),
                secret=secret,
            )
        except OSError as error:
            path = self._announcement.path
            self.log.warning("%s cannot be written, so kernels may not find the server: %s", path, error)

    async def stop_extension(self) -> None:
        """Close everything; what was acknowledged is on disk."""
        if self._announcement is not None:
            self._announcement.withdraw()
        if self.host is not None:
            await self.host.stop()

    _announcement: Announcement | None = None


def load_schema(path: str) -> Schema:
    """The schema that a trait names.

    Raises:
        ValueError: there is none, with a sentence that says so.
    """
    if path == "jupyter_agentstore.core.agent_schema:agent_schema":
        return agent_schema
    found = _load(path, "schema")
    if not isinstance(found, Schema):
        raise ValueError(f"c.AgentStoreApp.schema: {path!r} is a {type(found).__name__}, not a Schema.")
    return found


def load_responder(path: str, delay: list[float]) -> Responder:
    """The responder that a trait names.

    Raises:
        ValueError: there is none, with a sentence that says so.
    """
    if path == "simulated":
        from ..agent import Simulated

        return Simulated((delay[0], delay[1]))
    found = _load(path, "responder")
    if isinstance(found, type) or not hasattr(found, "reply"):
        if not callable(found):
            raise ValueError(f"c.AgentStoreApp.responder: {path!r} is neither a responder nor makes one.")
        found = found()
    if not hasattr(found, "reply"):
        raise ValueError(f"c.AgentStoreApp.responder: {path!r} has no method 'reply'.")
    return found  # type: ignore[no-any-return]


def load_hook(given: Any, trait: str) -> Any:
    """The function that a trait names or is; None if it is empty.

    Raises:
        ValueError: there is none, with a sentence that says so.
    """
    found = _load(given, trait) if isinstance(given, str) and given else given
    if found and not callable(found):
        raise ValueError(f"c.AgentStoreApp.{trait}: {given!r} is no function.")
    return found or None


def _load(path: str, trait: str) -> Any:
    """What ``package.module:name`` names."""
    say = f"c.AgentStoreApp.{trait}"
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{say}: {path!r} must be 'package.module:name'.")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        raise ValueError(f"{say}: the module {module!r} has no {name!r}.") from None
    except Exception as error:
        raise ValueError(
            f"{say}: the module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
