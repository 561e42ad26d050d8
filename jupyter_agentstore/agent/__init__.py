"""The agent: what waits for a reply gets one, exactly once.

What belongs here: noticing what waits, asking a responder, committing its reply. It reaches a store as everybody
does, by commits and reads. A model is reached by a :class:`Responder`; the one that comes along is simulated.
"""

from .responder import Reply, Request, Responder
from .runtime import Runtime
from .simulated import Simulated

__all__ = ["Reply", "Request", "Responder", "Runtime", "Simulated"]
