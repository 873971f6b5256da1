"""The writer of Events against the test API server, over TLS and with a token."""

import asyncio
import contextlib
import logging

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from netpolq.decision import Isolation
from netpolq.enums import Direction
from netpolq.events import body
from netpolq.events.limits import Limits
from netpolq.events.part import DenialEvents
from netpolq.events.series import PodIdentity
from netpolq.events.writer import EventWriter, Timing
from netpolq.flows.record import Flow, FlowEnd, FlowVerdict
from netpolq.model import Pod
from netpolq.sources.kubernetes.connection import Connection
from netpolq.store import Store
from tests.support.apiserver import NAMESPACES, PODS, ApiServer, NeverAnswer
from tests.support.apiserver.events import EventRefusal
from tests.support.apiserver.resources import Body

TOKEN = "secret-of-the-test"  # noqa: S105
NODE = "node-1"
TIMING = Timing(request_s=5.0, poll_s=0.01, first_delay_s=0.02, max_delay_s=0.1)
LIMITS = Limits(pod_burst=1000, node_burst=1000, update_s=0.05)
FIRST_S = 1_700_000_000.0


@dataclass
class Cluster:
    """The server, the objects of one agent, and its writer."""

    server: ApiServer
    kubeconfig: Path
    store: Store = field(default_factory=Store)
    task: asyncio.Task[None] | None = None
    events: DenialEvents = field(init=False)

    def __post_init__(self) -> None:
        self.events = DenialEvents(self.store, NODE, LIMITS)

    def start(self, timing: Timing = TIMING) -> None:
        writer = EventWriter(self.events, Connection(str(self.kubeconfig)), timing=timing)
        self.task = asyncio.create_task(writer.run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task

    def put_namespace(self, name: str) -> None:
        self.server.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def put_pod(self, name: str, *, node: str = NODE, annotations: Body | None = None, is_known: bool = True) -> str:
        """Create a pod, as the server and the agent see it. Returns its uid."""
        namespace, _, pod_name = name.partition("/")
        metadata = {"namespace": namespace, "name": pod_name, "annotations": annotations or {}}
        self.server.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {}})
        made = cast("dict[str, str]", self.server.objects(PODS)[name]["metadata"])
        if is_known:
            pod = Pod(namespace=namespace, name=pod_name, labels={}, ips=(), node_name=node, created=made["creationTimestamp"])
            self.store.pods[namespace, pod_name] = pod
        return made["uid"]

    def deny(self, name: str = "shop/db-0", address: str = "192.0.2.1", connections: int = 1, after_s: float = 0.0) -> None:
        namespace, _, pod_name = name.partition("/")
        flow = Flow(
            FlowEnd(address),
            FlowEnd("10.0.0.2", namespace, pod_name),
            "TCP",
            5432,
            FlowVerdict.DENY,
            ingress=Isolation(Direction.INGRESS, (f"{namespace}/db",)),
        )
        self.events.offer(flow, FIRST_S, FIRST_S + after_s, connections)

    @property
    def written(self) -> list[Body]:
        return list(self.server.events.objects.values())

    async def until(self, condition: Callable[[], object]) -> None:
        await self.server.until(lambda: bool(condition()))

    def posts(self) -> int:
        return sum(request.method == "POST" for request in self.server.requests)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with ApiServer(tls=True, token=TOKEN) as server:
        made = Cluster(server, server.kubeconfig(tmp_path / "kubeconfig", token=TOKEN))
        made.put_namespace("shop")
        yield made
        await made.stop()


async def test_a_denied_pod_has_an_event_by_which_kubectl_finds_it(cluster: Cluster) -> None:
    uid = cluster.put_pod("shop/db-0")
    cluster.start()
    cluster.deny(connections=12, after_s=300.0)
    await cluster.until(lambda: cluster.events.written)
    (event,) = cluster.written
    metadata = cast("Body", event["metadata"])
    assert str(metadata["name"]).startswith("db-0.")
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop", "name": metadata["name"]},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "db-0", "uid": uid},
        "type": "Warning",
        "reason": "NetworkPolicyDenied",
        "message": "ingress from 192.0.2.1 to TCP 5432 denied: isolated by shop/db (12 connections in 5 min)",
        "count": 12,
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:18:20Z",
        "source": {"component": "netpolq", "host": NODE},
        "reportingComponent": "netpolq",
        "reportingInstance": NODE,
    }
    assert cluster.events.as_mapping() == {"written": 1, "suppressed": 0, "failed": 0}
    assert cluster.server.requests[-1].user


async def test_more_connections_change_the_event_and_make_no_other(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    cluster.deny(connections=3, after_s=60.0)
    await cluster.until(lambda: cluster.server.events.patches)
    assert cluster.server.events.patches == [
        {
            "message": "ingress from 192.0.2.1 to TCP 5432 denied: isolated by shop/db (4 connections in 60 s)",
            "count": 4,
            "lastTimestamp": "2023-11-14T22:14:20Z",
        }
    ]
    assert len(cluster.written) == 1
    await cluster.until(lambda: cluster.events.written == 2)


async def test_nothing_is_requested_while_nothing_is_denied(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.put_pod("shop/foreign", node="node-2")
    cluster.start()
    cluster.deny("shop/foreign")
    cluster.deny()
    await cluster.until(lambda: cluster.events.written)
    await asyncio.sleep(0.1)
    assert [request.method for request in cluster.server.requests] == ["GET", "POST"]


async def test_the_uid_of_a_pod_is_asked_for_once(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.start()
    for number in range(5):
        cluster.deny(address=f"192.0.2.{number}")
    await cluster.until(lambda: len(cluster.written) == 5)
    assert cluster.server.events.pod_lists == ["shop/db-0"]
    assert cluster.server.requests[0].query["resourceVersion"] == "0"


async def test_an_event_of_a_static_pod_has_the_uid_that_kubectl_looks_for(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0", annotations={"kubernetes.io/config.mirror": "hash"})
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    assert cast("Body", cluster.written[0]["involvedObject"])["uid"] == "hash"


async def test_a_pod_that_is_gone_or_was_replaced_has_no_event_and_holds_up_no_other(cluster: Cluster) -> None:
    for name in ("shop/gone", "shop/replaced", "shop/db-0"):
        cluster.put_pod(name)
    cluster.server.delete(PODS, "shop", "gone")
    known = cluster.store.pods["shop", "replaced"]
    cluster.store.pods["shop", "replaced"] = replace(known, created="2020-01-01T00:00:00Z")
    cluster.start()
    for name in ("shop/gone", "shop/replaced", "shop/db-0"):
        cluster.deny(name)
    await cluster.until(lambda: cluster.written)
    assert len(cluster.written) == 1
    assert cluster.events.failed == 2
    assert cluster.events.problem is None
    assert len(cluster.events.table) == 1


@pytest.mark.parametrize("terminating", [True, False])
async def test_a_namespace_that_is_gone_or_going_is_no_problem(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, terminating: bool
) -> None:
    cluster.put_namespace("old")
    cluster.put_pod("old/web")
    cluster.put_pod("shop/db-0")
    if terminating:
        text = 'events "web.1" is forbidden: unable to create new content in namespace old because it is being terminated'
        cluster.server.events.refusals = [EventRefusal(method="POST", code=403, message=text, part="/old/")]
    else:
        cluster.server.delete(NAMESPACES, "", "old")
    cluster.start()
    cluster.deny("old/web")
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    assert cluster.events.failed == 1
    assert cluster.events.problem is None
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("method", "part", "permission"),
    [("POST", "/events", "create events"), ("GET", "/pods", "list pods")],
    ids=["events", "pods"],
)
async def test_without_the_permission_one_line_and_the_status_name_what_is_missing(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, method: str, part: str, permission: str
) -> None:
    cluster.put_pod("shop/db-0")
    cluster.put_namespace("team")
    cluster.put_pod("team/web")
    cluster.server.events.refusals = [
        EventRefusal(method=method, code=403, message="of shop", part=f"/shop{part}"),
        EventRefusal(method=method, code=403, message="of team", part=f"/team{part}"),
    ]
    cluster.start()
    cluster.deny()
    cluster.deny("team/web")
    await cluster.until(lambda: cluster.events.failed >= 5)
    problem = f'403: the ClusterRole of the agent does not permit to {permission} (API group "")'
    assert cluster.events.problem == problem
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == [f"Events of denied connections: {problem}; trying again"]
    cluster.server.events.refusals = []
    await cluster.until(lambda: len(cluster.written) == 2)
    await cluster.until(lambda: cluster.events.problem is None)
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_an_event_that_the_server_does_not_take_holds_up_no_other(cluster: Cluster, code: int) -> None:
    cluster.put_pod("shop/db-0")
    cluster.put_namespace("team")
    cluster.put_pod("team/web")
    cluster.server.events.refusals = [EventRefusal(method="POST", code=code, part="/team/")]
    cluster.start()
    cluster.deny("team/web")
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    assert (cluster.events.failed, cluster.events.problem, len(cluster.events.table)) == (1, None, 1)


@pytest.mark.parametrize("code", [401, 408, 429, 500, 503])
async def test_a_refusal_of_all_events_is_waited_out(cluster: Cluster, code: int) -> None:
    cluster.put_pod("shop/db-0")
    cluster.server.events.refusals = [EventRefusal(method="POST", code=code)]
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.events.failed >= 2)
    assert cluster.events.problem is not None
    cluster.server.events.refusals = []
    await cluster.until(lambda: cluster.written)
    await cluster.until(lambda: cluster.events.problem is None)


async def test_the_writer_waits_as_long_as_the_server_asks(cluster: Cluster) -> None:
    """For an hour, which the limit of a test does not see the end of; without it, the next attempt follows in a tenth of a second."""
    cluster.put_pod("shop/db-0")
    cluster.server.events.refusals = [EventRefusal(method="POST", code=429, retry_after_s=3600)]
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.events.problem)
    cluster.server.events.refusals = []
    await asyncio.sleep(0.5)
    assert cluster.posts() == 1


async def test_an_event_whose_answer_was_lost_is_not_written_twice(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.server.events.loses_answers = True
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.events.failed)
    cluster.server.events.loses_answers = False
    await cluster.until(lambda: cluster.server.events.patches)
    assert len(cluster.written) == 1


async def test_an_event_that_has_expired_is_created_again(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    cluster.server.events.objects.clear()
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    assert cluster.written[0]["count"] == 2


async def test_a_server_that_is_away_or_silent_ends_no_writer(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    await cluster.server.refuse_connections()
    cluster.start(replace(TIMING, request_s=0.2))
    cluster.deny()
    await cluster.until(lambda: cluster.events.failed >= 2)
    cluster.server.inject(NeverAnswer())
    await cluster.server.accept_connections()
    await cluster.until(lambda: cluster.written)
    assert cluster.task is not None
    assert not cluster.task.done()


async def test_a_rotated_token_is_read_again(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.written)
    cluster.server.rotate_token("rotated")
    cluster.server.kubeconfig(cluster.kubeconfig, token="rotated")
    cluster.deny(address="192.0.2.2")
    await cluster.until(lambda: len(cluster.written) == 2)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"items": [7, {"metadata": []}]}', b'{"items": {}}'])
def test_an_answer_of_another_form_has_no_pod(content: bytes) -> None:
    assert body.uid_in(content, PodIdentity("shop", "db-0", "")) == ""


async def test_an_answer_that_is_no_json_is_a_failure(cluster: Cluster) -> None:
    cluster.put_pod("shop/db-0")
    cluster.server.events.pod_answer = "<html>"
    cluster.start()
    cluster.deny()
    await cluster.until(lambda: cluster.events.failed)
    cluster.server.events.pod_answer = None
    await cluster.until(lambda: cluster.written)


async def test_the_name_of_an_event_of_a_pod_with_a_long_name_is_valid(cluster: Cluster) -> None:
    name = f"shop/{'a' * 229}.{'b' * 23}"
    cluster.put_pod(name)
    cluster.start()
    cluster.deny(name)
    await cluster.until(lambda: cluster.written)
