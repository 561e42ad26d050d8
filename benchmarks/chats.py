"""Conversations as an application of the package ``eventsourcing``, written as its documentation does."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from .texts import Message


class Conversation(Aggregate):
    """A conversation; its state is only how many messages it has."""

    def __init__(self, key: UUID) -> None:
        self.key = key
        self.count = 0

    @staticmethod
    def create_id(key: UUID) -> UUID:
        return key

    @event("MessageAdded")
    def add(self, message_id: str, role: str, content: str) -> None:
        self.count += 1


class Chats(Application[UUID]):
    """All conversations."""

    def begin(self, keys: Sequence[UUID]) -> None:
        self.save(*(Conversation(key=key) for key in keys))

    def say(self, said: Sequence[tuple[UUID, Message]]) -> None:
        touched: dict[UUID, Conversation] = {
            key: self.repository.get(key) for key in {key for key, _ in said}
        }
        for key, message in said:
            touched[key].add(message.id, message.role, message.content)
        self.save(*touched.values())
