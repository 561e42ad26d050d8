"""A deployment's own schema: the agent's, and orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_agentstore import agent_schema
from jupyter_agentstore.core.events import Meta
from jupyter_agentstore.core.operations import Insert, Operation
from jupyter_agentstore.core.schema import Column, EventType, Field, Table

NOT_A_SCHEMA = 7


def ordered(fields: Mapping[str, Any], meta: Meta) -> Sequence[Operation]:
    """An order is a row."""
    return (Insert("orders", {"id": fields["id"], "drink": fields["drink"], "orderedAt": meta.recorded_at}),)


schema = agent_schema.extend(
    version=1,
    tables=[Table("orders", (Column("id", "id"), Column("drink", "text"), Column("orderedAt", "timestamp")))],
    events=[
        EventType(
            "v1.DrinkOrdered",
            (Field("id", "id"), Field("drink", "text", choices=("mocha", "latte"))),
            ordered,
            unique=("orders", "id"),
        )
    ],
)
