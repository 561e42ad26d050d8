"""Who is let in, as whom, and what they may do."""

from __future__ import annotations

import stat
import uuid
from collections.abc import Iterator

import httpx
import pytest
from jupyter_server.auth import passwd

from jupyter_agentstore.server.base import server_user
from tests.server.servers import TOKEN, Serve, Server, head, ok, refused

PASSWORD = "correct horse"
CALLS = [
    ("GET", "conversations"), ("POST", "conversations"), ("POST", "chat"), ("GET", "agent/status"),
    ("POST", "agent/memory"), ("GET", "messages"), ("GET", "events"), ("POST", "events"), ("POST", "query"),
    ("GET", "tables/messages"), ("GET", "backup"), ("GET", "snapshot"), ("GET", "stores"),
    ("GET", "health"), ("GET", "openapi.json"), ("GET", "websocket"), ("GET", "nothing"),
]  # fmt: skip


@pytest.fixture(scope="module")
def guarded(serve: Serve) -> Server:
    """A server with a password, no token, and a base URL."""
    config = f"c.PasswordIdentityProvider.hashed_password = {passwd(PASSWORD)!r}"
    return serve(f"{config}\nc.ServerApp.base_url = '/user/ada%40b/'", token="")


@pytest.fixture(scope="module")
def shared(serve: Serve) -> Server:
    """A server with users and rights of its own."""
    return serve(
        "from agentstore_test_access import ByHeader, Rights\n"
        "c.ServerApp.identity_provider_class = ByHeader\n"
        "c.ServerApp.authorizer_class = Rights"
    )


def of(http: httpx.Client) -> dict[str, str]:
    """A store of one's own, as a parameter."""
    return {"storeId": f"s-{uuid.uuid4().hex[:12]}"}


# ---- who


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "authorization", ["", "token wrong", "bearer wrong", "agentstore wrong", "Basic YTpi"]
)
def test_nobody_is_let_in_without_the_right_token(
    server: Server, method: str, path: str, authorization: str
) -> None:
    with server.client(authorization) as http:
        answer = http.request(method, path, json={} if method == "POST" else None)
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"]
        assert TOKEN not in answer.text


@pytest.mark.parametrize("authorization", [f"token {TOKEN}", f"Bearer {TOKEN}"])
def test_a_bare_token_is_the_servers_own_user_each_time(server: Server, authorization: str) -> None:
    with server.client(authorization) as http:
        store = of(http)
        for _ in range(2):
            answer = http.post("conversations", params=store, json={"userId": "somebody"})
            ok(answer)
            assert "username" not in answer.headers.get("set-cookie", "")
        actors = {event["actor"] for event in ok(http.get("events", params=store))["events"]}
        assert actors == {server_user()}


def test_a_token_in_the_address_is_as_good(server: Server) -> None:
    with server.client("") as http:
        ok(http.get("conversations", params={"token": TOKEN}))
        refused(http.get("conversations", params={"token": "wrong"}), 401, "unauthorized")


def test_the_announcements_secret_lets_its_reader_in(guarded: Server) -> None:
    path = guarded.folder / "runtime" / f"agentstore-{guarded.process.pid}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert guarded.announced["base_url"] == "/user/ada%40b/"
    assert guarded.announced["folder"] == str(guarded.stores)
    assert guarded.announced["root_dir"] == str(guarded.folder / "root")
    with guarded.client(f"agentstore {guarded.announced['secret']}") as http:
        store = of(http)
        ok(http.post("conversations", params=store, json={"userId": "ada"}))
        [event] = ok(http.get("events", params=store))["events"]
        assert event["actor"] == server_user()
    with guarded.client(f"agentstore {'0' * 64}") as http:
        refused(http.get("conversations"), 401, "unauthorized")


@pytest.fixture(scope="module")
def browser(guarded: Server) -> Iterator[httpx.Client]:
    """A browser that has logged in with the password."""
    with guarded.client("", follow_redirects=True) as http:
        page = httpx.URL(guarded.announced["url"]).join("login")
        http.get(page)
        http.post(page, data={"password": PASSWORD, "_xsrf": http.cookies["_xsrf"]})
        yield http


def test_a_browser_is_let_in_by_its_cookie(browser: httpx.Client) -> None:
    ok(browser.get("conversations"))


def test_a_write_with_a_cookie_needs_the_xsrf_token(browser: httpx.Client) -> None:
    store = of(browser)
    said = {"userId": "ada"}
    assert "_xsrf" in refused(browser.post("conversations", params=store, json=said), 403, "forbidden")
    assert ok(browser.get("events", params=store))["head"] == 0
    xsrf = {"X-XSRFToken": browser.cookies["_xsrf"]}
    refused(
        browser.post("conversations", params=store, json=said, headers={"X-XSRFToken": "x"}), 403, "forbidden"
    )
    ok(browser.post("conversations", params=store, json=said, headers=xsrf))
    [event] = ok(browser.get("events", params=store))["events"]
    assert event["actor"] not in ("", "ada", server_user())


def test_another_sites_page_is_not_answered(browser: httpx.Client) -> None:
    foreign = {"Origin": "https://evil.example"}
    assert browser.get("conversations", headers=foreign).status_code == 404
    xsrf = {"X-XSRFToken": browser.cookies["_xsrf"], **foreign}
    assert browser.post("conversations", json={"userId": "a"}, headers=xsrf).status_code in (403, 404)


def test_a_token_comes_from_programs_so_origin_and_xsrf_do_not_matter(server: Server) -> None:
    with server.client(headers={"Origin": "https://app.example"}) as http:
        answer = http.post("conversations", params=of(http), json={"userId": "a"})
        ok(answer)
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        answer = http.post("conversations", params=of(http), json={})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"


def test_a_browser_may_ask_what_it_may_send_without_logging_in(server: Server) -> None:
    with server.client("") as http:
        answer = http.options("conversations", headers={"Origin": "https://app.example"})
        assert answer.status_code in (200, 204)
        assert "authorization" in answer.headers["access-control-allow-headers"]


def test_a_foreign_host_name_is_refused(server: Server) -> None:
    with server.client(headers={"Host": "rebound.example"}) as http:
        refused(http.get("conversations"), 403, "forbidden")


def test_a_server_on_a_unix_socket(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    sock = tmp_path_factory.mktemp("s") / "s.sock"
    on_socket = serve(f"c.ServerApp.sock = {str(sock)!r}")
    assert on_socket.announced["sock"] == str(sock)
    for authorization in (f"token {TOKEN}", f"agentstore {on_socket.announced['secret']}"):
        with on_socket.client(authorization) as http:
            ok(http.post("conversations", json={"userId": "ada"}))
    with on_socket.client("") as http:
        refused(http.get("conversations"), 401, "unauthorized")


def test_a_server_without_authentication_has_one_user(serve: Serve) -> None:
    with serve("c.ServerApp.disable_check_xsrf = True", token="").client() as http:
        for _ in range(2):
            ok(http.post("conversations", json={"userId": "ada"}))
        assert {event["actor"] for event in ok(http.get("events"))["events"]} == {server_user()}


@pytest.fixture(scope="module")
def strict(serve: Serve) -> Server:
    """A server of a hub's user that lets nobody in anywhere without a login."""
    return serve("c.ServerApp.allow_unauthenticated_access = False", environ={"JUPYTERHUB_USER": "grace"})


def test_where_everything_needs_a_login_strangers_get_the_same_answer(strict: Server) -> None:
    with strict.client("") as http:
        refused(http.get("conversations"), 401, "unauthorized")
        refused(http.post("conversations", json={"userId": "a"}), 401, "unauthorized")
    with strict.client() as http:
        ok(http.get("conversations"))


def test_a_hub_user_is_the_servers_own_user(strict: Server) -> None:
    with strict.client() as http:
        ok(http.post("conversations", json={"userId": "ada"}))
        assert ok(http.get("events"))["events"][0]["actor"] == "grace"


# ---- what they may do


def as_user(shared: Server, name: str, store: dict[str, str]) -> httpx.Client:
    """A client who is somebody."""
    return shared.client(headers={"X-User": name}, params=store)


def test_a_reader_reads_and_does_not_write(shared: Server) -> None:
    store = {"storeId": f"s-{uuid.uuid4().hex[:12]}"}
    with as_user(shared, "writer", store) as writer, as_user(shared, "reader", store) as reader:
        made = ok(writer.post("conversations", json={"userId": "w"}))["conversationId"]
        for path, body in (
            ("conversations", {"userId": "r"}),
            ("chat", {"conversationId": made, "content": "x"}),
            ("agent/memory", {"conversationId": made, "facts": ["x"]}),
            ("events", {"events": [{"name": "v1.ConversationCreated", "args": {"id": "r", "userId": "r"}}]}),
        ):
            refused(reader.post(path, json=body), 403, "forbidden")
        assert head(reader) == 1
        assert len(ok(reader.get("conversations"))["conversations"]) == 1
        assert ok(reader.post("query", json={"sql": "select count(*) as n from conversations"}))["rows"]
        assert ok(reader.get("messages", params={"conversationId": made})) == {"messages": []}
        assert ok(reader.get("events"))["events"][0]["actor"] == "writer"
        refused(reader.get("backup"), 403, "forbidden")


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_only_who_may_execute_speaks_as_another(shared: Server, role: str) -> None:
    store = {"storeId": f"s-{uuid.uuid4().hex[:12]}"}
    with as_user(shared, "writer", store) as writer, as_user(shared, "owner", store) as owner:
        made = ok(writer.post("conversations", json={"userId": "w"}))["conversationId"]
        said = {"conversationId": made, "content": "x", "role": role}
        event = {"name": "v1.MessageAdded", "args": {"id": "m", **said}}
        refused(writer.post("chat", json=said), 403, "forbidden")
        refused(writer.post("events", json={"events": [event]}), 403, "forbidden")
        assert head(writer) == 1
        assert ok(owner.post("chat", json=said))["message"]["actor"] == "owner"
        ok(owner.post("events", json={"events": [event]}))


@pytest.mark.parametrize("spelled", ["Secret", "secret", "SECRET"])
def test_rights_do_not_depend_on_how_an_id_is_spelled(shared: Server, spelled: str) -> None:
    with as_user(shared, "owner", {"storeId": "Secret"}) as owner:
        ok(owner.post("conversations", json={"userId": "o", "commitId": spelled}))
    with as_user(shared, "reader", {"storeId": spelled}) as reader:
        refused(reader.get("conversations"), 403, "forbidden")
        refused(reader.post("query", json={"sql": "select 1"}), 403, "forbidden")
        assert "Secret" not in {store["id"] for store in ok(reader.get("stores"))["stores"]}
    with as_user(shared, "owner", {"storeId": spelled}) as owner:
        assert "Secret" in {store["id"] for store in ok(owner.get("stores"))["stores"]}


def test_nobody_may_have_an_agents_name(shared: Server) -> None:
    with as_user(shared, "agent:fake", {"storeId": "x"}) as http:
        refused(http.get("conversations"), 403, "forbidden")
        refused(http.post("conversations", json={"userId": "a"}), 403, "forbidden")


def test_a_stranger_is_told_so_before_anything_else(shared: Server) -> None:
    with shared.client(params={"storeId": "../x"}) as http:
        refused(http.post("conversations", content=b"{"), 401, "unauthorized")


def test_rights_come_before_the_body(shared: Server) -> None:
    with as_user(shared, "reader", {"storeId": "x"}) as http:
        refused(http.post("conversations", content=b"{"), 403, "forbidden")


# ---- what logs hold


def test_no_line_of_the_log_holds_a_token(server: Server) -> None:
    with server.client("") as http:
        for path in ("conversations", "nothing", "agent/status", "tables/nothing", "messages"):
            http.get(path, params={"token": TOKEN, "payload": f'{{"authToken": "{TOKEN}"}}'})
            http.post(path, params={"token": TOKEN, "payload": TOKEN}, content=b"{")
            http.get(
                path, params={"token": f"wrong-{TOKEN}"}, headers={"Referer": f"http://x/?token={TOKEN}"}
            )
    secret = server.announced["secret"]
    with server.client(f"agentstore {secret}") as http:
        http.get("conversations")
    ours = [line for line in server.log.splitlines() if "agentstore" in line]
    assert len(ours) > 10
    assert not [line for line in ours if TOKEN in line or secret in line]


def test_an_unexpected_error_says_nothing_of_the_inside(server: Server) -> None:
    name = f"s-{uuid.uuid4().hex[:12]}"
    (server.stores / name / "eventlog.duckdb").mkdir(parents=True)
    with server.client(params={"storeId": name, "token": TOKEN}) as http:
        answer = http.post("conversations", json={"userId": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] in ("internal", "foreign_file")
    assert "Traceback" not in answer.text
    assert not [line for line in server.log.splitlines() if TOKEN in line and "/agentstore/" in line]
