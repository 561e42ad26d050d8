"""A notebook's side of agent stores: finding the server, or opening a store in this process, and working with it.

Importing this loads none of the libraries behind it; each is loaded when it is first needed.
"""

from .connect import connect
from .conversation import Conversation
from .link import Receipt
from .message import Message, Sent
from .sql import Query
from .store import Conversations, Store
from .subscription import Subscription

__all__ = [
    "Conversation",
    "Conversations",
    "Message",
    "Query",
    "Receipt",
    "Sent",
    "Store",
    "Subscription",
    "connect",
]
