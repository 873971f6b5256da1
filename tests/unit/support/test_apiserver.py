"""The test API server follows the protocol for lists, pages, versions and credentials, and runs in a loop or a thread."""

import gzip
import http.client
import json
import os
import socket
import subprocess

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import aiohttp
import pytest

from loadtest import scale
from loadtest.testbed import netns
from tests.support.apiserver import (
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    USER,
    ApiServer,
    ThreadedApiServer,
    Verb,
    write_service_account,
)
from tests.support.apiserver.plain_client import (
    Listing,
    client,
    listed,
    names,
    namespace,
    parsed,
    pod,
    refused,
    trusting,
    watching,
)

OLD, NEW = "the old one", "the new one"
"""Tokens."""


# Lists


async def test_one_version_rises_over_all_kinds() -> None:
    async with ApiServer() as server, client(server) as session:
        versions = [
            server.put(namespace("x")),
            server.put(pod("a")),
            server.put(pod("a", app="web")),
            server.delete(PODS, "x", "a"),
        ]
        assert versions == list(range(versions[0], versions[0] + 4))
        for resource in (NAMESPACES, PODS, NETWORK_POLICIES):
            assert (await listed(session, resource))["metadata"]["resourceVersion"] == str(versions[-1])


async def test_an_unchanged_object_keeps_its_version_and_a_changed_one_its_uid() -> None:
    async with ApiServer() as server:
        first = server.put(pod("a"))
        uid = cast("dict[str, str]", server.objects(PODS)["x/a"]["metadata"])["uid"]
        assert server.put(pod("a")) == first
        assert server.put(pod("a", app="web")) == first + 1
        assert cast("dict[str, str]", server.objects(PODS)["x/a"]["metadata"])["uid"] == uid


async def test_items_of_a_list_do_not_repeat_their_kind() -> None:
    async with ApiServer() as server, client(server) as session:
        server.put(pod("a"))
        listing = await listed(session)
        assert (listing["kind"], listing["apiVersion"]) == ("PodList", "v1")
        assert listing["items"][0].keys() == {"metadata", "spec"}


async def test_a_namespace_carries_its_name_as_a_label() -> None:
    async with ApiServer() as server:
        server.put(namespace("shop"))
        metadata = cast("dict[str, dict[str, str]]", server.objects(NAMESPACES)["shop"]["metadata"])
        assert metadata["labels"] == {"kubernetes.io/metadata.name": "shop"}


async def test_all_pages_show_the_state_of_the_first() -> None:
    async with ApiServer() as server, client(server) as session:
        for name in "bdfhk":
            server.put(pod(name))
        first = await listed(session, limit="2")
        server.put(pod("e"))
        server.put(pod("h", app="changed"))
        server.delete(PODS, "x", "k")
        second = await listed(session, limit="2", **{"continue": str(first["metadata"]["continue"])})
        third = await listed(session, limit="2", **{"continue": str(second["metadata"]["continue"])})
        assert [names(page) for page in (first, second, third)] == [["b", "d"], ["f", "h"], ["k"]]
        assert second["items"][1]["metadata"]["labels"] == {}
        assert [page["metadata"].get("remainingItemCount") for page in (first, second, third)] == [3, 1, None]
        assert len({page["metadata"]["resourceVersion"] for page in (first, second, third)}) == 1
        assert names(await listed(session)) == ["b", "d", "e", "f", "h"]


async def test_a_page_after_compaction_is_refused_with_a_token_that_goes_on_inconsistently() -> None:
    async with ApiServer() as server, client(server) as session:
        for name in "abc":
            server.put(pod(name))
        token = str((await listed(session, limit="1"))["metadata"]["continue"])
        server.put(pod("b2"))
        server.compact()
        status = await refused(session, limit="1", **{"continue": token})
        assert (status["code"], status["reason"]) == (410, "Expired")
        fresh = cast("dict[str, str]", status["metadata"])["continue"]
        assert names(await listed(session, **{"continue": fresh})) == ["b", "b2", "c"]


async def test_a_list_of_any_version_comes_whole() -> None:
    async with ApiServer() as server, client(server) as session:
        for name in "abc":
            server.put(pod(name))
        assert names(await listed(session, limit="1", resourceVersion="0")) == ["a", "b", "c"]


async def test_a_list_of_an_exact_version_shows_it() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        server.put(pod("b"))
        exact = {"resourceVersion": str(version), "resourceVersionMatch": "Exact"}
        assert names(await listed(session, **exact)) == ["a"]
        assert names(await listed(session, resourceVersion=str(version))) == ["a", "b"]


async def test_a_list_of_a_version_to_come_times_out() -> None:
    async with ApiServer() as server, client(server) as session:
        version = server.put(pod("a"))
        status = await refused(session, resourceVersion=str(version + 1))
        assert (status["code"], status["reason"]) == (504, "Timeout")
        assert str(status["message"]).startswith("Too large resource version")


@pytest.mark.parametrize("query", [{"limit": "many"}, {"continue": "!"}, {"resourceVersion": "-1"}, {"labelSelector": "a=b"}])
async def test_what_cannot_be_read_is_a_bad_request(query: dict[str, str]) -> None:
    async with ApiServer() as server, client(server) as session:
        assert (await refused(session, **query))["code"] == 400


async def test_large_lists_are_compressed_for_those_who_ask() -> None:
    async with ApiServer(gzip_from_bytes=1) as server, aiohttp.ClientSession(server.url, auto_decompress=False) as session:
        server.put(pod("a"))
        async with session.get(PODS.path, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert names(cast("Listing", json.loads(gzip.decompress(await response.read())))) == ["a"]
        async with session.get(PODS.path, headers={"Accept-Encoding": "identity"}) as response:
            assert "Content-Encoding" not in response.headers
            assert names(cast("Listing", json.loads(await response.read()))) == ["a"]


# Users and requests


async def test_an_old_token_is_refused_after_rotation() -> None:
    async with ApiServer(token=OLD) as server, client(server) as session:

        async def answers() -> list[int]:
            codes = []
            for token in (OLD, NEW):
                async with session.get(PODS.path, headers={"Authorization": f"Bearer {token}"}) as response:
                    codes.append(response.status)
            return codes

        assert await answers() == [200, 401]
        server.rotate_token(NEW)
        assert await answers() == [401, 200]
        assert (await refused(session))["reason"] == "Unauthorized"


async def test_a_client_certificate_says_who_asks(tmp_path: Path) -> None:
    async with ApiServer(tls=True, client_certificates=True) as server:
        assert server.authority is not None
        async with client(server) as session:
            assert (await refused(session))["code"] == 401
        path = server.kubeconfig(tmp_path / "config", client_certificate=server.authority.client("another-client"))
        user = json.loads(path.read_text())["users"][0]["user"]
        context = trusting(server)
        context.load_cert_chain(user["client-certificate"], user["client-key"])
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(ssl=context)) as session:
            await listed(session)
        assert [request.user for request in server.requests] == ["", "another-client"]


async def test_a_stranger_does_not_trust_the_server() -> None:
    async with ApiServer(tls=True) as server, aiohttp.ClientSession(server.url) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(PODS.path)


async def test_one_kind_can_be_forbidden() -> None:
    async with ApiServer(token=OLD) as server, client(server) as session:
        session.headers["Authorization"] = f"Bearer {OLD}"
        server.forbid(PODS)
        status = await refused(session)
        assert (status["code"], status["reason"]) == (403, "Forbidden")
        assert f'User "{USER}" cannot list resource "pods" in API group ""' in str(status["message"])
        await listed(session, NAMESPACES)


async def test_requests_are_remembered() -> None:
    async with ApiServer() as server, client(server) as session:
        await listed(session, limit="5")
        async with watching(session, NETWORK_POLICIES, timeoutSeconds="1"):
            pass
        assert [(request.resource, request.verb) for request in server.requests] == [
            (PODS, Verb.LIST),
            (NETWORK_POLICIES, Verb.WATCH),
        ]
        (request,) = server.asked(PODS)
        assert (request.method, request.query, "Host" in request.headers) == ("GET", {"limit": "5"}, True)
        assert server.asked(verb=Verb.WATCH)[0].path == "/apis/networking.k8s.io/v1/networkpolicies"


async def test_it_tells_its_version_and_that_it_is_ready() -> None:
    async with ApiServer() as server, client(server) as session:
        async with session.get("/version") as response:
            assert (await response.json())["gitVersion"].startswith("v1.")
        async with session.get("/readyz") as response:
            assert await response.text() == "ok"
        async with session.get("/api/v1/secrets") as response:
            assert response.status == 404


async def test_a_kubeconfig_names_what_it_is_given(tmp_path: Path) -> None:
    async with ApiServer(tls=True) as server:
        assert server.authority is not None
        path = server.kubeconfig(tmp_path / "config", token=OLD, exec_plugin=["print-token", "--for", "me"])
        document = json.loads(path.read_text())
        cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
        assert cluster["server"] == server.url
        assert Path(cluster["certificate-authority"]).read_bytes() == server.authority.certificate
        assert user["token"] == OLD
        assert (user["exec"]["command"], user["exec"]["args"]) == ("print-token", ["--for", "me"])
        folder = write_service_account(tmp_path / "account", server.authority.certificate, "t2")
        assert (folder / "token").read_text() == "t2"


# Where it runs


def test_it_runs_beside_tests_that_are_not_asynchronous() -> None:
    with ThreadedApiServer(ApiServer()) as threaded:
        version = threaded.put(pod("a"))
        with closing(http.client.HTTPConnection(threaded.server.host, threaded.server.port, timeout=30)) as connection:
            connection.request("GET", f"{PODS.path}?watch=1&resourceVersion={version}")
            response = connection.getresponse()
            threaded.put(pod("b"))
            assert parsed(response.readline()).name == "b"
            threaded.run(lambda server: server.restart())
            with pytest.raises((http.client.HTTPException, OSError)):
                response.read()
            assert threaded.objects(PODS).keys() == {"x/a", "x/b"}
        with pytest.raises(KeyError):
            threaded.delete(PODS, "x", "missing")


@pytest.fixture
def network_namespace() -> Iterator[str]:
    """A network namespace with nothing but its loopback device."""
    name = f"npq-api-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    netns.batch(["link set lo up"], namespace=name)
    yield name
    netns.remove(name)


@pytest.mark.netns
def test_it_listens_inside_a_network_namespace(network_namespace: str) -> None:
    listener = netns.inside(network_namespace, lambda: socket.create_server(("127.0.0.1", 0)))
    with ThreadedApiServer(ApiServer(listener=listener)) as threaded:
        threaded.put(pod("a"))
        address = (threaded.server.host, threaded.server.port)

        def list_inside() -> bytes:
            with closing(http.client.HTTPConnection(*address, timeout=30)) as connection:
                connection.request("GET", PODS.path)
                return connection.getresponse().read()

        assert names(json.loads(netns.inside(network_namespace, list_inside))) == ["a"]
        with pytest.raises(ConnectionRefusedError):
            list_inside()
        threaded.run(lambda server: server.restart())
        assert names(json.loads(netns.inside(network_namespace, list_inside))) == ["a"]


# Scale


async def test_a_large_cluster_is_served_whole_and_in_pages() -> None:
    async with ApiServer() as server, client(server) as session:
        server.load(scale.namespaces(600))
        server.load(scale.pods(600))
        server.load(scale.policies(60, 600))
        assert len(names(await listed(session))) == 600
        seen: list[str] = []
        token = ""
        while True:
            page = await listed(session, limit="200", **{"continue": token})
            seen += names(page)
            if not (token := str(page["metadata"].get("continue", ""))):
                break
        assert len(set(seen)) == 600
        assert len((await listed(session, NETWORK_POLICIES))["items"]) == 60
        assert {key.partition("/")[0] for key in server.objects(PODS)} == server.objects(NAMESPACES).keys()


def test_bodies_of_scale_are_the_same_in_every_run_and_mostly_of_no_use() -> None:
    first, again = list(scale.pods(50)), list(scale.pods(50))
    assert first == again
    body = first[7]
    used = {"metadata": {"labels": cast("dict[str, object]", body["metadata"])["labels"]}, "status": {}}
    assert len(json.dumps(body)) > 10 * len(json.dumps(used))
    assert scale.pod(7, generation=1) != body
