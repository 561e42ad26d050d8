"""An agent's whole memory as an event log inside Jupyter: chat with it, query it, share it live.

What belongs here: what a user imports, and the server extension's entry points. All of it is loaded when first
used, because every kernel and every Jupyter server that has the package pays for what this module loads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from jupyter_server.extension.application import ExtensionApp

_PUBLIC = {
    "ChatPane": ".widgets:ChatPane",
    "agent_schema": ".core.agent_schema:agent_schema",
    "connect": ".widgets:connect",
    "data": ".data",
    "errors": ".core.errors",
    "events": ".events",
}
"""Where the public names live: ``module`` or ``module:attribute``."""

__all__ = ["ChatPane", "__version__", "agent_schema", "connect", "data", "errors", "events"]


def __getattr__(name: str) -> Any:
    try:
        module, _, attribute = _PUBLIC[name].partition(":")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = import_module(module, __name__)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _jupyter_server_extension_points() -> list[dict[str, str | type[ExtensionApp]]]:
    """What a Jupyter server asks for the extension."""
    from .server.app import AgentStoreApp

    return [{"module": "jupyter_agentstore", "app": AgentStoreApp}]
