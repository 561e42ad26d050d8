"""What a cell shows: the chat pane. Importing this loads no widget library; a pane does when it is first made.

It is also what makes a bare conversation at the end of a cell show its pane: ``client`` does not know this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..client import Conversation, connect
from ..client import conversation as _conversation

if TYPE_CHECKING:
    from .pane import ChatPane as ChatPane

__all__ = ["ChatPane", "connect"]


def __getattr__(name: str) -> Any:
    if name != "ChatPane":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .pane import ChatPane

    return ChatPane


def _show(conversation: Conversation) -> Any:
    from .pane import ChatPane

    return ChatPane(conversation)


_conversation.pane = _show
