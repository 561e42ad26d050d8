"""A deployment's own idea of who calls and what they may do."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth import Authorizer, IdentityProvider, User

RIGHTS = {
    "reader": {"read"},
    "writer": {"read", "write"},
    "owner": {"read", "write", "execute"},
    "agent:fake": {"read", "write", "execute"},
}


class ByHeader(IdentityProvider):
    """Believes a header, as behind a proxy that has done the checking."""

    def get_user(self, handler: Any) -> User | None:
        name = handler.request.headers.get("X-User")
        return User(name) if name else None

    def is_token_authenticated(self, handler: Any) -> bool:
        return True


class ByToken(IdentityProvider):
    """Takes a token for its bearer's name."""

    def get_user(self, handler: Any) -> User | None:
        name = handler.request.headers.get("Authorization", "").removeprefix("token ")
        return User(name) if name else None

    def is_token_authenticated(self, handler: Any) -> bool:
        return True


class Rights(Authorizer):
    """Rights by user; the store ``Secret`` is the owner's alone."""

    def is_authorized(self, handler: Any, user: User, action: str, resource: str) -> bool:
        if not resource.startswith("agentstore:"):
            return False
        if resource == "agentstore:Secret" and user.username != "owner":
            return False
        return action in RIGHTS.get(user.username, ())
