"""The description of the REST calls: complete, valid, and true of a real server."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from jupyter_agentstore.core.agent_schema import agent_schema
from jupyter_agentstore.server.app import AgentStoreApp
from jupyter_agentstore.server.handlers import PREFIX, ROUTES, Nowhere, handlers
from jupyter_agentstore.server.openapi import METHODS, describe
from jupyter_agentstore.server.rest import Handler
from tests.server.servers import TOKEN, Server, ok

DESCRIPTION = describe(agent_schema, PREFIX)


def test_every_route_and_method_is_described() -> None:
    described = {(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    served = set()
    for path, handler in ROUTES:
        for method in (m.lower() for m in Handler.SUPPORTED_METHODS):
            if method != "options" and getattr(handler, method) is not getattr(Handler, method):
                served.add((f"/{path}", method))
    assert described == served
    assert {method for _, method in served} <= set(METHODS)


def test_every_handler_is_among_the_routes() -> None:
    rest = {handler for _, handler in handlers() if issubclass(handler, Handler)}
    assert rest == {handler for _, handler in ROUTES} | {Nowhere}
    assert AgentStoreApp.extension_url in {f"{PREFIX}/{path}" for path, _ in ROUTES}


def test_every_operation_says_what_it_does_and_how_it_fails() -> None:
    names = []
    for methods in DESCRIPTION["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert {"200", "400", "401", "403", "503"} <= operation["responses"].keys()
            names.append(operation["operationId"])
    assert len(set(names)) == len(names)


def test_the_server_gives_the_description(http: httpx.Client) -> None:
    given = ok(http.get("openapi.json"))
    assert given["servers"] == [{"url": "/agentstore"}]
    assert {**given, "servers": None} == {**DESCRIPTION, "servers": None}


CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)
NEED_MEANING = ("/events", "/query")
"""Bodies made up at random are neither events nor SQL, however well-formed they are."""

schema = schemathesis.openapi.from_dict(copy.deepcopy(DESCRIPTION))


@schema.parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_a_server_answers_made_up_requests_as_described(case: Any, server: Server) -> None:
    case.headers["Authorization"] = f"token {TOKEN}"
    meant = case.method.lower() == "post" and case.path in NEED_MEANING
    case.call_and_validate(
        base_url=f"{server.announced['url'].rstrip('/')}/agentstore",
        checks=CHECKS if meant else (*CHECKS, positive_data_acceptance),
    )
