"""The server over a real port, with the demonstration as its source."""

import asyncio
import csv
import io
import json

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from netpolq import cli
from netpolq.errors import BootError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.ui import objects as objects_module
from netpolq.ui.access import check
from netpolq.ui.agents.demonstration import Demonstration
from netpolq.ui.api import stream as stream_module
from netpolq.ui.server import serving

_ANY_PORT = check(listen=BindAddress("127.0.0.1", 0))
_LIMIT_S = 30.0

Json = dict[str, object]


class Client:
    """A client of the server. `url`: with a slash at its end."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def get(self, path: str, status: int = 200) -> dict:  # type: ignore[type-arg]  # JSON
        async with self.session.get(f"{self.url}{path}") as response:
            assert response.status == status, await response.text()
            found: dict[str, object] = await response.json()
            return found

    async def error(self, path: str, status: int) -> str:
        found = await self.get(path, status)
        assert found.keys() == {"error"}
        return str(found["error"])


@asynccontextmanager
async def served(static: Path | None = None) -> AsyncIterator[Client]:
    folder = Path("/nonexistent") if static is None else static
    async with serving(Demonstration(history_s=300), _ANY_PORT, static=folder) as url, aiohttp.ClientSession() as session:
        client = Client(session, url)
        async with session.get(f"{url}api/stream/nodes", timeout=aiohttp.ClientTimeout(_LIMIT_S)) as response:
            async for _name, document in events(response):
                nodes = document.get("nodes") or document["upserted"]
                if nodes and nodes[0]["version"]:
                    break
        yield client


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with served() as client:
        yield client


async def test_the_session_tells_that_it_is_a_demonstration(client: Client) -> None:
    session = await client.get("api/session")
    assert session.keys() == {"version", "source", "where", "authentication", "user", "history_s"}
    assert (session["source"], session["authentication"], session["user"]) == ("demo", "none", None)


async def test_the_map_has_accepted_denied_and_audited_edges_between_shown_workloads(client: Client) -> None:
    found = await client.get("api/map?since=3600")
    assert found["head"]["agents"] == {"total": 3, "missing": []}
    assert {"accept", "deny", "would-deny"} <= {edge["verdict"] for edge in found["edges"]}
    ids = {node["id"] for node in found["nodes"]}
    assert {end for edge in found["edges"] for end in (edge["source"], edge["destination"])} == ids
    assert {"shop/web", "shop/db", "name:api.bank.example", "outside"} <= ids
    assert sum(edge["connections"] for edge in found["edges"]) == found["head"]["connections"]
    denied = await client.get("api/map?since=3600&verdict=deny&namespace=payments")
    assert {edge["verdict"] for edge in denied["edges"]} == {"deny"}


async def test_flows_are_limited_and_the_file_has_all(client: Client) -> None:
    found = await client.get("api/flows?since=3600&limit=5")
    assert (len(found["flows"]), found["head"]["shown"]) == (5, 5)
    assert found["head"]["flows"] > 100
    seen = [flow["last_seen"] for flow in found["flows"]]
    assert seen == sorted(seen, reverse=True)
    async with client.session.get(f"{client.url}api/flows.csv?since=3600") as response:
        assert response.headers["Content-Disposition"].startswith("attachment")
        rows = list(csv.DictReader(io.StringIO(await response.text())))
    assert len(rows) >= found["head"]["flows"]


async def test_policies_have_hits_problems_and_words(client: Client) -> None:
    found = {policy["id"]: policy for policy in (await client.get("api/policies"))["policies"]}
    api = found["NetworkPolicy/shop/api"]
    assert [rule["text"] for rule in api["rules"]][:2] == [
        "from pods app=web in namespace shop to TCP http",
        "from all pods in namespaces team=edge to TCP 8081",
    ]
    assert api["rules"][0]["connections"] > 0
    assert (api["rules"][1]["connections"], api["rules"][1]["last_hit"]) == (0, None), "a rule that is never hit"
    assert api["selects"]["pods"] == 3
    assert api["isolated"]["egress"]["connections"] > 0
    assert found["NetworkPolicy/batch/egress-only-inside"]["audit"] is True
    assert "endPort" in found["NetworkPolicy/payments/db"]["problem"]
    assert found["ClusterNetworkPolicy/no-metadata-service"]["tier"] == "admin"
    assert found["ClusterNetworkPolicy/no-metadata-service"]["rules"][0]["connections"] > 0


async def test_the_manifest_of_a_policy_tells_what_it_was_written_from(client: Client) -> None:
    async with client.session.get(f"{client.url}api/policies/yaml?id=NetworkPolicy/shop/db") as response:
        text = await response.text()
        assert response.content_type == "text/plain"
    assert text.startswith("# Written from what the agent has")
    assert "kind: NetworkPolicy\n" in text
    assert "GET /api/policies" in await client.error("api/policies/yaml?id=NetworkPolicy/shop/none", 404)


async def test_pickers_find_pods_services_and_addresses(client: Client) -> None:
    ends = (await client.get("api/ends?text=web"))["ends"]
    assert {end["kind"] for end in ends} == {"pod", "service"}
    assert (await client.get("api/ends?text=192.0.2.1"))["ends"] == [{"id": "192.0.2.1", "kind": "address", "namespace": None}]
    assert len((await client.get("api/ends?limit=3"))["ends"]) == 3


async def test_explain_gives_the_answer_of_the_command(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    question = {"source": "shop/db-1", "destination": "shop/db-0", "protocol": "TCP", "port": "5432"}
    async with client.session.get(f"{client.url}api/explain", params=question) as response:
        found = await response.json()
    assert found["answer"]["verdict"] == "drop"
    manifests = Path(objects_module.__file__).with_name("demonstration") / "objects.yaml"
    flags = ("--manifests", str(manifests), "--src=shop/db-1", "--dst=shop/db-0", "--port=5432")
    await asyncio.to_thread(cli.main, ["explain", *flags, "-o", "json"])
    of_command = json.loads(capsys.readouterr().out)
    del found["answer"]["demonstration"]
    assert found["answer"] == of_command
    await asyncio.to_thread(cli.main, ["explain", *flags])
    assert found["text"] == capsys.readouterr().out + "policies     of the demonstration\n"


async def test_a_question_does_not_change_the_objects_of_the_next_one(client: Client) -> None:
    """A workload without pods is stood for by a pod, which only the question sees."""
    before = (await client.get("api/ends?limit=200"))["ends"]
    await what_if(client, POLICY)
    assert (await client.get("api/ends?limit=200"))["ends"] == before


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("source=shop/web", "parameter destination: is required"),
        (
            "source=shop/none&destination=shop/db-0&port=5432",
            "parameter source: pod shop/none does not exist in the demonstration",
        ),
        ("source=shop/db-0&destination=shop/db-1", "parameter port: "),
        ("source=shop/db-0&destination=shop/db-1&port=99999", "parameter port: 99999"),
        ("source=shop/db-0&destination=shop/db-1&port=1&protocol=XYZ", "parameter protocol: 'XYZ'"),
        ("source=shop/db-0&destination=%00&port=1", "parameter destination: "),
        (f"source={'x' * 2000}&destination=shop/db-1", "parameter source: has more than"),
    ],
)
async def test_a_question_that_makes_no_sense_gets_the_error_of_the_command(client: Client, query: str, text: str) -> None:
    assert text in await client.error(f"api/explain?{query}", 400)


POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: cache, namespace: shop}
spec: {podSelector: {matchLabels: {app: cache}}, policyTypes: [Ingress]}
"""


async def what_if(client: Client, body: str | bytes | io.BytesIO, status: int = 200, query: str = "", **headers: str) -> dict:  # type: ignore[type-arg]
    headers = {"X-Requested-With": "netpolq", "Content-Type": "text/plain"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    async with client.session.post(f"{client.url}api/what-if{query}", data=body, headers=headers) as response:
        assert response.status == status, await response.text()
        found: dict[str, object] = await response.json()
        return found


async def test_what_if_tells_what_would_be_cut_of_what_was_seen(client: Client) -> None:
    found = await what_if(client, POLICY)
    changes = {(change["source"], change["destination"]): change for change in found["difference"]["changes"]}
    assert changes["shop/api", "shop/cache"]["seen"]["connections"] > 100
    assert found["cuts"] == len(changes)
    assert "shop/api -> shop/cache" in found["text"]
    assert found["rejections"] == []
    unreadable = await what_if(client, POLICY.replace("spec: {", "spec: {unknown: 1, "))
    assert unreadable["rejections"][0]["key"] == "NetworkPolicy shop/cache"


async def test_what_if_refuses_what_it_cannot_answer(client: Client) -> None:
    assert "X-Requested-With" in str(await what_if(client, POLICY, 403, X_Requested_With="other"))
    assert "multipart/form-data" in str(await what_if(client, POLICY, 415, Content_Type="multipart/form-data"))
    assert "larger than 1 MiB" in str(await what_if(client, io.BytesIO(b"x" * ((1 << 20) + 1)), 413))
    assert "body is empty" in str(await what_if(client, " ", 400))
    assert "new_has" in str(await what_if(client, POLICY, 400, "?new_has=everything"))
    assert "since" in str(await what_if(client, POLICY, 400, "?since=0"))


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"{", b"- - [", b"a: &a [*a]", b"[" * 10_000, b"%YAML 9.9\n---\n"])
async def test_what_if_survives_any_bytes(client: Client, body: bytes) -> None:
    found = await what_if(client, body)
    assert found["cuts"] == 0


async def test_nodes_have_states_and_series(client: Client) -> None:
    nodes = (await client.get("api/nodes"))["nodes"]
    assert [node["id"] for node in nodes] == ["node-1", "node-2", "node-3"]
    assert all(node["reachable"] and node["ready"] and len(node["workers"]) == 2 for node in nodes)
    assert nodes[0]["history"].keys() == {"at", "packets_per_s", "latency_s", "connections_per_s"}


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict]]:  # type: ignore[type-arg]
    name = ""
    async for line in response.content:
        key, _colon, text = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = text
        elif key == "data":
            yield name, json.loads(text)


@pytest.mark.parametrize(
    ("path", "lists"),
    [("map", ("nodes", "edges")), ("flows", ("flows",)), ("policies", ("policies",)), ("nodes", ("nodes",))],
)
async def test_a_stream_begins_with_the_document_and_goes_on_with_changes(
    client: Client, path: str, lists: tuple[str, ...]
) -> None:
    async with client.session.get(f"{client.url}api/stream/{path}", timeout=aiohttp.ClientTimeout(_LIMIT_S)) as response:
        assert response.content_type == "text/event-stream"
        found = events(response)
        name, document = await anext(found)
        assert (name, set(document)) == ("state", {"head", *lists})
        name, change = await anext(found)
        assert name == "change"
        sections = [change] if len(lists) == 1 else [change[one] for one in lists]
        assert any(section["upserted"] or section["removed"] for section in sections)


async def test_only_so_many_streams_are_open_and_a_closed_one_makes_room(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_STREAMS", 2)
    first, second = [await client.session.get(f"{client.url}api/stream/nodes") for _ in range(2)]
    assert "close one" in await client.error("api/stream/nodes", 503)
    first.close()
    second.close()
    status = 503
    async with asyncio.timeout(_LIMIT_S):
        while status == 503:
            async with client.session.get(f"{client.url}api/stream/nodes") as response:
                status = response.status
    assert status == 200


async def test_every_answer_has_the_headers_for_browsers(client: Client) -> None:
    for path in ("", "api/session", "api/none", "api/flows.csv", "api/stream/nodes"):
        async with client.session.get(f"{client.url}{path}") as response:
            headers = response.headers
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'"), path
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:99", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("LOCALHOST", 200), ("evil.example", 403), ("", 403)],
)
async def test_only_requests_to_names_of_this_machine_are_answered(client: Client, host: str, status: int) -> None:
    async with client.session.get(f"{client.url}api/session", headers={"Host": host}) as response:
        assert response.status == status


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("api/none", 404, "nothing at this path"),
        ("none", 404, "nothing at this path"),
        ("", 503, "make ui"),
        ("api/map?since=7", 400, "parameter since"),
        ("api/flows?limit=9999", 400, "parameter limit"),
        ("api/flows?limit=1&limit=2", 400, "parameter limit"),
        ("api/stream/map?verdict=x", 400, "parameter verdict"),
    ],
)
async def test_errors_are_json_with_a_sentence(client: Client, path: str, status: int, text: str) -> None:
    assert text in await client.error(path, status)


async def test_no_request_changes_anything(client: Client) -> None:
    for path in ("api/map", "api/session", "api/explain"):
        async with client.session.post(f"{client.url}{path}") as response:
            assert response.status == 405
            assert "allowed: GET, HEAD" in await response.text()


async def test_the_built_page_is_served_and_nothing_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html>page")
    (page / "assets" / "index-1a2b.js").write_text("1")
    (tmp_path / "secret").write_text("secret")
    (page / "link").symlink_to(tmp_path / "secret")
    async with served(page) as client:
        async with client.session.get(client.url) as response:
            assert (await response.text(), response.headers["Cache-Control"]) == ("<!doctype html>page", "no-cache")
        async with client.session.get(f"{client.url}assets/index-1a2b.js") as response:
            assert "immutable" in response.headers["Cache-Control"]
        for path in ("../secret", "%2e%2e/secret", "assets/..%2f..%2fsecret", "link", "assets/", "a%00b"):
            await client.error(path, 404)


async def test_an_address_in_use_is_an_error_that_names_the_flag(client: Client) -> None:
    port = int(client.url.rstrip("/").rpartition(":")[2])
    with pytest.raises(BootError, match=f"--listen 127.0.0.1:{port}: Address already in use"):
        async with serving(Demonstration(history_s=300), check(listen=BindAddress("127.0.0.1", port))):
            pass


async def test_the_page_is_served_over_ipv6() -> None:
    async with (
        serving(Demonstration(history_s=300), check(listen=BindAddress("::1", 0))) as url,
        aiohttp.ClientSession() as session,
    ):
        assert url.startswith("http://[::1]:")
        assert (await Client(session, url).get("api/session"))["source"] == "demo"
