"""Access to the page, with a real server and real requests: hosts, other web sites, tokens, and users of an API server."""

import asyncio
import logging
import secrets

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest

from aiohttp import web

from netpolq.errors import BootError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.sources.kubernetes.connection import Connection
from netpolq.ui.access import USER, Access, check, failure_limit, kubernetes, middleware, protect
from netpolq.ui.access.failure_limit import MAX_CLIENTS, FailureLimit
from netpolq.ui.access.kubernetes import AUDIENCE, URL, Kubernetes
from netpolq.ui.access.middleware import Authenticator
from netpolq.ui.access.token import Token
from tests.support.apiserver import ApiServer
from tests.support.apiserver.reviews import User

LOCAL = check(listen=BindAddress("127.0.0.1", 0))
TOKEN = secrets.token_hex(32)
LIMIT_S = 30.0


class Client:
    """A client of the application. `ended`: streams that have ended."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session, self.port = session, port
        self.ended = asyncio.Event()

    async def ask(
        self, path: str = "/api/session", *, method: str = "GET", token: str | None = None, **headers: str
    ) -> tuple[int, object, Mapping[str, str]]:
        """Status, JSON and headers of an answer. In names of headers an underline stands for a dash."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self._session.request(method, url, headers=given, allow_redirects=False) as answer:
            body = await answer.json(content_type=None) if "json" in answer.content_type else await answer.text()
            return answer.status, body, answer.headers

    async def status(self, path: str = "/api/session", *, method: str = "GET", token: str | None = None, **headers: str) -> int:
        return (await self.ask(path, method=method, token=token, **headers))[0]

    def open(self, path: str, token: str) -> "aiohttp.client._RequestContextManager":
        return self._session.get(f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {token}"})


@asynccontextmanager
async def served(access: Access = LOCAL, authenticator: Authenticator | None = None) -> AsyncIterator[Client]:
    async def session(request: web.Request) -> web.Response:
        return web.json_response({"user": request.get(USER)})

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="page")

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            await response.write(b"begun\n")
            await asyncio.Future[None]()
        finally:
            client.ended.set()
        return response

    application = web.Application()
    application.add_routes(
        [
            *(web.get("/api/session", session), web.post("/api/what-if", session), web.get("/api/stream/map", stream)),
            *(web.get("/healthz", page), web.get("/{path:.*}", page)),
        ]
    )
    protect(application, access, authenticator)
    runner = web.AppRunner(application, handle_signals=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession() as opened:
            client = Client(opened, int(runner.addresses[0][1]))
            yield client
    finally:
        await runner.cleanup()


# --- hosts and other web sites ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LocalHost.", "127.0.0.1:1", "[::1]:80", "ui.example:8080", "UI.example"]
)
async def test_the_names_of_the_server_are_answered(host: str) -> None:
    async with served(check(listen=BindAddress("127.0.0.1", 0), allowed_hosts=("ui.example",))) as client:
        assert await client.status(Host=host) == HTTPStatus.OK


@pytest.mark.parametrize(
    "host",
    [
        *(
            "attacker.example",
            "localhost.attacker.example",
            "127.0.0.1.attacker.example",
            "10.0.0.1",
            "x@localhost",
            "localhost/x",
        ),
        *("localhost:port", "", "localhost:80:80", "[::1", "ui.example@attacker.example", "\xe9", "a" * 5000),
    ],
)
async def test_every_other_host_is_refused_for_pages_too(host: str) -> None:
    async with served() as client:
        for path in ("/", "/api/session"):
            code, body, _headers = await client.ask(path, Host=host)
            assert code in {HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST}
            if code == HTTPStatus.FORBIDDEN:
                assert isinstance(body, dict)
                assert "--allowed-host" in body["error"]


async def test_two_hosts_are_refused() -> None:
    async with served() as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"GET /api/session HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n")
        line = await reader.readline()
        writer.close()
    assert b" 403 " in line or b" 400 " in line


async def test_a_server_on_all_addresses_answers_to_addresses_and_not_to_names(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    access = check(
        listen=BindAddress("", 1),
        tls_certificate=tmp_path / "crt",
        tls_key=tmp_path / "key",
        token_file=tmp_path / "token",
    )
    async with served(access, Token(tmp_path / "token")) as client:
        assert await client.status(token=TOKEN, Host="10.0.0.1:8443") == HTTPStatus.OK
        assert await client.status(token=TOKEN, Host="[fd00::1]:8443") == HTTPStatus.OK
        assert await client.status(token=TOKEN, Host="attacker.example") == HTTPStatus.FORBIDDEN


async def test_health_is_answered_to_every_host_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    async with served(authenticator=Token(tmp_path / "token")) as client:
        assert await client.status("/healthz", Host="10.0.0.1") == HTTPStatus.OK


async def test_requests_that_other_web_sites_send_are_refused() -> None:
    async with served() as client:
        own = f"http://127.0.0.1:{client.port}"
        for site in ("cross-site", "same-site", "something-new"):
            assert await client.status(Sec_Fetch_Site=site) == HTTPStatus.FORBIDDEN
        for origin in ("https://attacker.example", "null", f"http://127.0.0.1:{client.port + 1}", "http://["):
            assert await client.status(Origin=origin) == HTTPStatus.FORBIDDEN
        assert await client.status(Sec_Fetch_Site="same-origin", Origin=own) == HTTPStatus.OK
        assert await client.status(Origin=own) == HTTPStatus.OK
        assert await client.status("/", Sec_Fetch_Site="cross-site") == HTTPStatus.OK  # a link


async def test_a_post_needs_the_header_that_no_form_can_send() -> None:
    async with served() as client:
        assert await client.status("/api/what-if", method="POST") == HTTPStatus.FORBIDDEN
        assert await client.status("/api/what-if", method="POST", X_Requested_With="XMLHttpRequest") == HTTPStatus.FORBIDDEN
        assert await client.status("/api/what-if", method="POST", X_Requested_With="netpolq") == HTTPStatus.OK
        headers = {"X_Requested_With": "netpolq", "Sec_Fetch_Site": "cross-site"}
        assert await client.status("/api/what-if", method="POST", **headers) == HTTPStatus.FORBIDDEN


async def test_every_answer_has_the_headers() -> None:
    async with served() as client:
        for path, host in (("/", "localhost"), ("/api/session", "localhost"), ("/api/session", "attacker.example")):
            _code, _body, headers = await client.ask(path, Host=host)
            assert headers["Content-Security-Policy"] == (
                "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
            )
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Server"] == "netpolq"
            if path != "/":
                assert headers["Cache-Control"] == "no-store"


# --- a token of a file ------------------------------------------------------------------------------------------------------------


async def test_only_the_token_of_the_file_is_let_in_and_the_page_needs_none(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    async with served(authenticator=Token(file)) as client:
        code, _body, headers = await client.ask()
        assert (code, headers["WWW-Authenticate"]) == (HTTPStatus.UNAUTHORIZED, 'Bearer realm="netpolq"')
        for wrong in ("x", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "x" * 9000, "\xff" * 40):
            assert await client.status(token=wrong) in {HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST}
        for header in (TOKEN, f"Basic {TOKEN}", f"Bearer  {TOKEN} {TOKEN}", "Bearer"):
            assert await client.status(Authorization=header) == HTTPStatus.UNAUTHORIZED
        for path in ("/%61pi/session", "//api/session", "/api/../api/session", "/API/session", "/api/session/"):
            assert "user" not in str((await client.ask(path))[1])
        assert await client.status(token=TOKEN) == HTTPStatus.OK
        assert await client.status(Authorization=f"bearer {TOKEN}") == HTTPStatus.OK
        assert await client.status("/") == HTTPStatus.OK


async def test_a_changed_file_ends_the_former_token_and_a_removed_one_ends_all(tmp_path: Path) -> None:
    file, other = tmp_path / "token", secrets.token_hex(32)
    file.write_text(TOKEN)
    async with served(authenticator=Token(file)) as client:
        assert await client.status(token=TOKEN) == HTTPStatus.OK
        file.write_text(other)
        assert await client.status(token=TOKEN) == HTTPStatus.UNAUTHORIZED
        assert await client.status(token=other) == HTTPStatus.OK
        file.unlink()
        assert await client.status(token=other) == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "must hold one token"),
        (b"short", "at least 32 random characters"),
        (b"a" * 64, "at least 32 random characters"),
        (b"a b" * 64, "without spaces"),
        (b"\xff" * 64, "printable ASCII"),
        (b"abcdefghijkl" * 5000, "must hold one token"),
    ],
)
def test_a_file_without_a_good_token_is_refused_at_the_start(tmp_path: Path, content: bytes | None, reason: str) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BootError, match=reason) as caught:
        Token(file)
    assert f"--token-file {file}" in str(caught.value)


async def test_many_wrong_tokens_have_to_wait(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    async with served(authenticator=Token(file)) as client:
        codes = [await client.status(token=f"wrong{number}") for number in range(30)]
        assert codes[0] == HTTPStatus.UNAUTHORIZED
        assert codes[-1] == HTTPStatus.TOO_MANY_REQUESTS
        _code, body, headers = await client.ask(token=TOKEN)
        assert int(headers["Retry-After"]) > 0
        assert "too many wrong tokens" in str(body)


def test_failures_are_limited_by_client_and_forgotten_in_time() -> None:
    limit = FailureLimit()
    for _ in range(20):
        assert limit.wait_s("a", 100.0) == 0
        limit.note("a", 100.0)
    assert 0 < limit.wait_s("a", 100.0) <= 4
    assert limit.wait_s("b", 100.0) == 0
    assert limit.wait_s("a", 104.0) == 0


def test_many_clients_are_limited_together_in_bounded_memory() -> None:
    limit = FailureLimit()
    for number in range(5 * MAX_CLIENTS):
        limit.note(f"client {number}", 100.0)
    assert len(limit._clients) == MAX_CLIENTS
    assert limit.wait_s("another", 100.0) > 0
    assert limit.wait_s("another", 100.0 + failure_limit._SECONDS_EACH_OF_ALL * 2) == 0


# --- users of an API server -------------------------------------------------------------------------------------------------------

JANE = User(name="jane", urls=(URL,))


@asynccontextmanager
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[ApiServer, Client]]:
    async with ApiServer() as api:
        connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))
        await connection.open()
        try:
            async with served(authenticator=Kubernetes(connection)) as client:
                yield api, client
        finally:
            await connection.close()


async def test_a_user_with_the_right_is_let_in_and_named(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (api, client):
        api.reviews.users = {"jane's": JANE, "joe's": User(name="joe")}
        assert (await client.ask(token="jane's"))[:2] == (HTTPStatus.OK, {"user": "jane"})
        assert api.reviews.specs[-1] == {
            "user": "jane",
            "uid": "uid of jane",
            "groups": ["system:authenticated"],
            "extra": {"key": ["value"]},
            "nonResourceAttributes": {"path": "/netpolq/ui", "verb": "get"},
        }
        code, body, _headers = await client.ask(token="joe's")
        assert code == HTTPStatus.FORBIDDEN
        assert "'joe' may not see this page" in str(body)
        assert await client.status(token="of-no-user") == HTTPStatus.UNAUTHORIZED


async def test_tokens_for_this_page_alone_and_of_authenticators_without_audiences_are_good(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (api, client):
        api.reviews.users = {
            "own": User(name="own", urls=(URL,), audiences=(AUDIENCE,)),
            "oidc": User(name="oidc", urls=(URL,), is_audience_known=False),
            "vault": User(name="vault", urls=(URL,), audiences=("vault",)),
        }
        assert await client.status(token="own") == HTTPStatus.OK
        assert await client.status(token="oidc") == HTTPStatus.OK
        assert await client.status(token="vault") == HTTPStatus.UNAUTHORIZED


async def test_answers_are_kept_for_a_while_and_refusals_for_a_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "REFUSAL_KEPT_S", 0.2)
    async with cluster(tmp_path) as (api, client):
        assert await client.status(token="jane's") == HTTPStatus.UNAUTHORIZED
        reviewed = len(api.reviews.tokens)
        api.reviews.users = {"jane's": JANE}
        async with asyncio.timeout(LIMIT_S):
            while await client.status(token="jane's") != HTTPStatus.OK:  # noqa: ASYNC110 - the end of a time has no event
                await asyncio.sleep(0.01)
        assert len(api.reviews.tokens) > reviewed
        reviewed = len(api.reviews.tokens)
        assert [await client.status(token="jane's") for _ in range(5)] == [HTTPStatus.OK] * 5
        assert len(api.reviews.tokens) == reviewed


async def test_concurrent_requests_of_a_token_share_a_review(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (api, client):
        api.reviews.users = {"jane's": User(name="jane", urls=(URL,), audiences=(AUDIENCE,))}
        assert set(await asyncio.gather(*(client.status(token="jane's") for _ in range(20)))) == {HTTPStatus.OK}
        assert len(api.reviews.tokens) == 1


async def test_kept_answers_are_bounded_and_have_no_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubernetes, "MAX_KEPT", 10)
    monkeypatch.setattr(failure_limit, "_BURST", 1000)
    async with ApiServer() as api:
        connection = Connection(str(api.kubeconfig(tmp_path / "kubeconfig")))
        await connection.open()
        users = Kubernetes(connection)
        api.reviews.users = {f"token-{number}": JANE for number in range(15)}
        async with served(authenticator=users) as client:
            for number in range(30):
                await client.status(token=f"token-{number}")
        await connection.close()
    assert len(users._users) == len(users._refusals) == 10
    assert b"token-14" not in users._users
    assert not users._asking


@pytest.mark.parametrize("failure", ["refuses", "forbids", "not JSON", "no status", "status of another form"])
async def test_without_an_answer_of_the_api_server_no_token_is_let_in(
    tmp_path: Path, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = secrets.token_hex(32)
    async with cluster(tmp_path) as (api, client):
        api.reviews.users = {token: JANE}
        api.reviews.is_forbidden = failure == "forbids"
        api.reviews.answer_text = {"not JSON": "\xff{", "no status": "{}", "status of another form": '{"status": [1]}'}.get(
            failure
        )
        if failure == "refuses":
            await api.refuse_connections()
        with caplog.at_level(logging.WARNING):
            code, body, _headers = await client.ask(token=token)
        assert code == HTTPStatus.SERVICE_UNAVAILABLE
        assert "the API server does not answer" in str(body)
        assert any("users cannot be checked" in record.getMessage() for record in caplog.records)
        assert token not in caplog.text
        api.reviews.is_forbidden, api.reviews.answer_text = False, None
        if failure == "refuses":
            await api.accept_connections()
        async with asyncio.timeout(LIMIT_S):
            while await client.status(token=token) != HTTPStatus.OK:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)


async def test_a_stream_ends_when_the_user_loses_the_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_CHECK_AGAIN_S", 0.05)
    monkeypatch.setattr(kubernetes, "KEPT_S", 0.05)
    async with cluster(tmp_path) as (api, client):
        api.reviews.users = {"jane's": JANE}
        async with asyncio.timeout(LIMIT_S), client.open("/api/stream/map", "jane's") as answer:
            assert await answer.content.readline() == b"begun\n"
            reviewed = len(api.reviews.tokens)
            await api.until(lambda: len(api.reviews.tokens) > reviewed + 2)  # it lasts while the right does
            assert not client.ended.is_set()
            api.reviews.users = {}
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()
            await client.ended.wait()
