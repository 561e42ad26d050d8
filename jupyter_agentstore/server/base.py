"""Who calls and what they may do: what every handler of the extension, REST or websocket, has in common.

What belongs here: identity, authority, the store that a call is about, and errors as JSON. What a call does is said
in the handlers.
"""

from __future__ import annotations

import getpass
import hmac
import math
import os
import re
from collections.abc import Awaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, cast

from jupyter_server.auth.identity import IdentityProvider, User
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async
from tornado.web import HTTPError

from ..core.agent_schema import AGENT
from ..core.errors import AgentStoreError, Forbidden, InvalidRequest, RateLimited, Unauthorized
from ..core.limits import store_id as check_store_id
from .announce import SCHEME
from .body import write_json
from .errors import describe
from .shapes import DEFAULT_STORE

if TYPE_CHECKING:
    from ..agent import Runtime
    from ..store import Registry
    from .host import Host

Action = Literal["read", "write", "execute"]

_SECRET = re.compile(rf"{SCHEME}\s+(\S+)\s*", re.IGNORECASE)


def server_user() -> str:
    """The user that the server runs as: JupyterHub's name for them, else the operating system's."""
    try:
        return os.environ.get("JUPYTERHUB_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number without a name
        return f"uid-{os.getuid()}"


class LocalIdentity(IdentityProvider):
    """Identifies whoever shows the announcement's secret: only the server's own user can read that file."""

    def get_user(self, handler: Any) -> User:
        """The server's own user."""
        return User(server_user())

    def is_token_authenticated(self, handler: Any) -> bool:
        """As with a token: no cookie was used, so no other site can have made the browser send it."""
        return True


class Access(JupyterHandler):
    """A handler that knows who calls, may ask what they may do, and answers errors as JSON."""

    @property
    def host(self) -> Host:
        """The stores, the agent and the settings of this server."""
        return cast("Host", self.settings["agentstore"])

    @property
    def stores(self) -> Registry:
        """All stores."""
        return self.host.stores

    @property
    def runtime(self) -> Runtime:
        """The agent."""
        return self.host.runtime

    @property
    def store_id(self) -> str:
        """The store that the call is about, as the caller spells it.

        Raises:
            InvalidStoreId: it is none.
            InvalidRequest: there are two.
        """
        given = self.get_query_arguments("storeId", strip=False)
        if len(given) > 1:
            raise InvalidRequest("The parameter 'storeId' is there more than once.", field="storeId")
        return check_store_id(given[0]) if given else DEFAULT_STORE

    # ---- who

    @property
    def identity_provider(self) -> IdentityProvider:
        shown = _SECRET.fullmatch(self.request.headers.get("Authorization", ""))
        if shown and hmac.compare_digest(shown[1].encode(), self.host.secret.encode()):
            return self.host.identity
        return super().identity_provider

    @property
    def actor(self) -> str:
        """The user's name, as events keep it."""
        return cast("User", self.current_user).username

    async def prepare(self) -> None:  # type: ignore[override]
        """Find out who calls, by Jupyter's rules, and have the stores ready.

        Raises:
            Unauthorized: nobody that is known.
            Forbidden: the user's name is one that only agents may have.
            tornado.web.HTTPError: Jupyter's rules on hosts, origins and XSRF.
        """
        try:
            await super().prepare()
        except HTTPError as error:
            # Jupyter looks for an XSRF token before it looks whether anybody is logged in.
            if error.status_code == 403 and self._is_stranger() and self.check_host():
                raise self._unauthorized() from None
            raise
        if self._needs_no_user():
            return
        if self._is_stranger():
            raise self._unauthorized()
        if self._is_made_up():
            self.current_user = self._jupyter_current_user = User(server_user())
        if self.actor.startswith(AGENT):
            raise Forbidden(f"Only agents may have a name that begins with {AGENT!r}.")
        await self.host.start()

    def get_login_url(self) -> str:
        """Programs call here: they are told that they are not logged in, not sent to a page."""
        raise self._unauthorized()

    def set_secure_cookie(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: a call with a token logs nobody in.

        Jupyter would hand out a cookie for the user that it makes up for a bare token, and a client that keeps
        cookies would be that user from its second call on.
        """

    def _is_stranger(self) -> bool:
        return getattr(self, "_jupyter_current_user", None) is None

    def _is_made_up(self) -> bool:
        """Whether the user was made up for this request, as for a bare token without a cookie that says who."""
        provider = self.identity_provider
        for name in ("get_user", "_get_user", "get_user_token", "get_user_cookie"):
            if getattr(type(provider), name) is not getattr(IdentityProvider, name):
                return False  # a provider with rules of its own knows whom it means
        return provider.get_user_cookie(self) is None

    def _needs_no_user(self) -> bool:
        method = getattr(self, (self.request.method or "").lower(), None)
        return bool(getattr(method, "__allow_unauthenticated", False))

    def _unauthorized(self) -> Unauthorized:
        return Unauthorized("Nobody is logged in, or the token is wrong: send 'Authorization: token …'.")

    # ---- what they may do

    async def may(self, action: Action, store_id: str) -> bool:
        """Whether the user may read, write or execute a store; asks the server's authorizer."""
        resource = f"agentstore:{await self.host.spelling(store_id)}"
        allowed: Any = self.authorizer.is_authorized(self, cast("User", self.current_user), action, resource)
        return bool(await ensure_async(allowed) if isinstance(allowed, Awaitable) else allowed)

    async def allow(self, action: Action, store_id: str) -> None:
        """Go on only if the user may do that.

        Raises:
            Forbidden: they may not.
        """
        if not await self.may(action, store_id):
            raise Forbidden(f"{self.actor!r} has no permission to {action} the store {store_id!r}.")

    # ---- errors

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with an error as JSON."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        status, body = describe(error, status_code)
        self.set_status(status)
        if hasattr(self, "_jupyter_current_user"):
            self.set_cors_headers()
        if status == 401:
            self.set_header("WWW-Authenticate", 'token realm="Jupyter server"')
        if status == 405:
            self.set_header("Allow", ", ".join(self._methods()))
        if isinstance(error, RateLimited):
            self.set_header("Retry-After", str(math.ceil(error.retry_after)))
        self.set_header("Content-Type", "application/json")
        self.finish(write_json(body))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log what went wrong without the query string, which may hold a token."""
        status, body = describe(value)
        call = f"{self.request.method} {self.request.path}"
        if status < 500:
            self.log.debug("%s: %d %s", call, status, body["error"]["message"])
        elif isinstance(value, AgentStoreError) or status == 507:
            self.log.error("%s: %d %s", call, status, value)
        else:
            self.log.error("%s failed.", call, exc_info=(typ, value, tb) if typ and value else True)

    def _methods(self) -> list[str]:
        own = type(self)
        return [
            m
            for m in self.SUPPORTED_METHODS
            if getattr(own, m.lower()) is not getattr(JupyterHandler, m.lower())
        ]
