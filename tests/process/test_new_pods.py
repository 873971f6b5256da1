"""New pods: from the very first packet they send and are reached as the policies say, though the API tells their addresses later.

Real packets and processes. A pod's addresses come up, and at once it connects and is connected to. The API has the pod already, without
addresses; the status that has them follows later. `NETPOLQ_TEST_NEW_PODS`: number of pods in each test.
"""

import os
import select
import signal
import socket
import statistics
import threading
import time

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from loadtest.testbed import manifests, netns
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body
from tests.process.conftest import MODES
from tests.support.apiserver import PODS as POD_RESOURCE
from tests.support.apiserver import ApiServer, ThreadedApiServer
from tests.support.cni_results import result_document, write_result

NEW_PODS = int(os.environ.get("NETPOLQ_TEST_NEW_PODS", "8"))
TOGETHER = 8
"""New pods at a time."""
STATUS_DELAY_S = 1.5
HOLD_TIMEOUT_S = 4
"""Longer than the delay of the status, and what a busy machine adds to it."""
LIMIT_S = 15.0
"""Until an allowed connection must be established. A pod sends the first packet of a connection again after 1, 3 and 7 seconds."""

NODE = Host(name="node", addresses=("10.72.0.1", "fd72::1"))
RANGES = ["10.72.1.0/24", "fd72:1::/64"]
PORT = 80
SERVERS = {
    name: Host(name=f"app/{name}", addresses=(f"10.72.1.{number}", f"fd72:1::{number}"), serves=(("TCP", PORT),))
    for number, name in enumerate(("good", "bad", "strict", "closed"), start=1)
}
SLOTS = tuple(
    Host(name=f"app/slot-{number}", addresses=(f"10.72.2.{number + 1}", f"fd72:2::{number + 1}")) for number in range(TOGETHER)
)
"""Network namespaces for new pods. Their own addresses lie outside of the pod ranges, and are not used."""

OUTWARD = {"good": True, "strict": True, "bad": False, "closed": False}
"""Whether a new pod may connect to a server: its egress policy admits all but `bad`, the ingress policy of `closed` does not admit it."""
INWARD = {"good": True, "bad": False}
"""Whether a server may connect to a new pod, by the new pod's ingress policy."""


class NewPod(NamedTuple):
    """A pod that comes up in a slot. `addresses`: of both families."""

    name: str
    slot: Host
    addresses: tuple[str, str]

    def body(self, *, has_status: bool) -> Body:
        """The pod as the API has it, with or without its addresses."""
        body = manifests.pod(Host(name=f"app/{self.name}", addresses=self.addresses), NODE, app="new")
        return body if has_status else {**body, "status": {"phase": "Pending"}}


class Attempt(NamedTuple):
    """A connection that was begun while the pod's address was unknown."""

    what: str
    is_allowed: bool
    socket: socket.socket
    began_s: float


class Cluster(NamedTuple):
    """The box with an agent that watches an API server. `results`: the folder of CNI results."""

    box: Box
    api: ThreadedApiServer
    results: Path

    def write_cni_result(self, pod: NewPod) -> None:
        """Write the file that the container runtime has written when a pod is attached. The API server gives the UID."""
        name = f"app/{pod.name}"
        uid = str(cast("Body", self.api.objects(POD_RESOURCE)[name]["metadata"])["uid"])
        write_result(self.results, result_document(name, uid, *pod.addresses, sandbox=pod.name))

    def agent(self, *flags: str) -> Agent:
        config = self.api.kubeconfig(self.box.directory / "kubeconfig")
        return Agent(self.box, None, "--kubeconfig", str(config), "--workers=2", f"--hold-timeout={HOLD_TIMEOUT_S}", *flags)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Box(node=NODE, hosts=[*SERVERS.values(), *SLOTS]) as box:
        listener = box.inside(NODE.name, lambda: socket.create_server(("127.0.0.1", 0)))
        results = box.directory / "results"
        results.mkdir()
        with ThreadedApiServer(ApiServer(listener=listener)) as api:
            api.do(lambda server: server.node_specs.update({NODE.name: {"podCIDRs": RANGES}}))
            for body in (manifests.namespace("app"), *policies()):
                api.put(body)
            for name, host in SERVERS.items():
                api.put(manifests.pod(host, NODE, app=name))
            yield Cluster(box, api, results)


def rules(box: Box) -> str:
    return box.run(NODE.name, ["nft", "list", "table", "inet", "netpolq"]).stdout


def policies() -> list[Body]:
    def app(*names: str) -> dict[str, object]:
        return {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": list(names)}]}}

    def select(name: str) -> dict[str, object]:
        return {"matchLabels": {"app": name}}

    return [
        manifests.policy(
            "app/new",
            podSelector=select("new"),
            policyTypes=["Ingress", "Egress"],
            ingress=[{"from": [app("good")]}],
            egress=[{"to": [app("good", "strict", "closed")]}],
        ),
        manifests.policy("app/strict", podSelector=select("strict"), ingress=[{"from": [app("new")]}]),
        manifests.policy("app/closed", podSelector=select("closed"), ingress=[{"from": [app("other")]}]),
    ]


def new_pods(numbers: Sequence[int]) -> list[NewPod]:
    return [
        NewPod(
            f"new-{number}",
            slot,
            (f"10.72.1.{20 + number % 230}", f"fd72:1::{20 + number:x}"),
        )
        for number, slot in zip(numbers, SLOTS, strict=False)
    ]


def prepare_routes(box: Box, pods: Sequence[NewPod]) -> None:
    hosts = list(box.hosts)
    commands = []
    for pod in pods:
        device = f"pod{hosts.index(pod.slot.name) - 1}"
        v4, v6 = pod.addresses
        commands.append(f"route replace {v4} dev {device} src {NODE.address(4)}")
        # By a gateway, because the kernel joins the multicast group for neighbour discovery only some time after an address is up.
        commands.append(f"route replace {v6} via fe80::2 dev {device} src {NODE.address(6)}")
    netns.batch(commands, box.namespaces[NODE.name])


def sockets(box: Box, host: str, family: int, count: int) -> list[socket.socket]:
    return box.inside(host, lambda: [socket.socket(family, socket.SOCK_STREAM) for _ in range(count)])


def come_up(box: Box, pod: NewPod, open_sockets: ExitStack) -> list[Attempt]:
    """Bring up the pod's addresses. As soon as each is there, it listens, connects to all servers, and servers connect to it."""
    families = (socket.AF_INET, socket.AF_INET6)
    own = [sockets(box, pod.slot.name, family, 1 + len(OUTWARD)) for family in families]
    others = [[sockets(box, SERVERS[name].name, family, 1)[0] for name in INWARD] for family in families]
    lines = [f"address add {address} dev eth0{' nodad' if ':' in address else ''}" for address in pod.addresses]
    adding = threading.Thread(target=netns.batch, args=(lines, box.namespaces[pod.slot.name]))
    adding.start()
    attempts = []
    for address, (listener, *clients), peers in zip(pod.addresses, own, others, strict=True):
        version = 6 if ":" in address else 4
        bind_when_up(listener, (address, PORT))
        listener.listen()
        for name, client in zip(OUTWARD, clients, strict=True):
            client.bind((address, 0))
            target = SERVERS[name].address(version), PORT
            attempts.append(begin(f"{pod.name} {address} to {name}", OUTWARD[name], client, target))
        for name, client in zip(INWARD, peers, strict=True):
            attempts.append(begin(f"{name} to {pod.name} {address}", INWARD[name], client, (address, PORT)))
        for one in (listener, *clients, *peers):
            open_sockets.enter_context(one)
    adding.join()
    return attempts


def bind_when_up(listener: socket.socket, address: tuple[str, int]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline_s:
        try:
            listener.bind(address)
        except OSError:
            continue
        return
    raise AssertionError(f"{address} did not come up")


def begin(what: str, is_allowed: bool, client: socket.socket, target: tuple[str, int]) -> Attempt:
    client.setblocking(False)
    began_s = time.monotonic()
    client.connect_ex(target)
    return Attempt(what, is_allowed, client, began_s)


def outcomes(attempts: Sequence[Attempt]) -> dict[str, float | None]:
    """Seconds until each connection was established, by attempt; None: it was not, until all allowed ones were, or the limit."""
    found: dict[str, float | None] = {attempt.what: None for attempt in attempts}
    waiting = {attempt.socket.fileno(): attempt for attempt in attempts}
    poller = select.poll()
    for descriptor in waiting:
        poller.register(descriptor, select.POLLOUT)
    deadline_s = time.monotonic() + LIMIT_S
    while any(attempt.is_allowed for attempt in waiting.values()) and time.monotonic() < deadline_s:
        for descriptor, _events in poller.poll(100):
            attempt = waiting.pop(descriptor)
            poller.unregister(descriptor)
            if attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found[attempt.what] = time.monotonic() - attempt.began_s
    # TCP sends the first packet of a denied connection again after a second.
    for descriptor, _events in poller.poll(1500):
        found[waiting[descriptor].what] = time.monotonic() - waiting[descriptor].began_s
    return found


def run(cluster: Cluster, *, with_results: bool, status_delay_s: float) -> None:
    """Let all pods come up, some at a time, and assert that each connection has the verdict that the policies give it.

    Prints the seconds until allowed connections were established.
    """
    wrong: list[str] = []
    seconds: dict[str, list[float]] = {"from new pods": [], "to new pods": []}
    for start in range(0, NEW_PODS, TOGETHER):
        pods = new_pods(range(start, min(start + TOGETHER, NEW_PODS)))
        prepare_routes(cluster.box, pods)
        for pod in pods:
            cluster.api.put(pod.body(has_status=False))
            if with_results:
                cluster.write_cni_result(pod)
        with ExitStack() as open_sockets:
            attempts = [attempt for pod in pods for attempt in come_up(cluster.box, pod, open_sockets)]
            late = threading.Timer(status_delay_s, report_addresses, (cluster.api, pods))
            late.start()
            found = outcomes(attempts)
            late.join()
        for attempt in attempts:
            taken = found[attempt.what]
            if (taken is not None) is not attempt.is_allowed:
                wrong.append(f"{attempt.what}: {'established' if taken is not None else 'not established'}")
            elif taken is not None:
                seconds["from new pods" if attempt.what.startswith("new") else "to new pods"].append(taken)
        for pod in pods:
            netns.batch([f"address del {address} dev eth0" for address in pod.addresses], cluster.box.namespaces[pod.slot.name])
            cluster.api.delete(POD_RESOURCE, "app", pod.name)
    assert not wrong, "\n".join(wrong)
    for kind, values in seconds.items():
        print(f"{kind}: {len(values)} connections, median {statistics.median(values):.3f} s, most {max(values):.3f} s")


def report_addresses(api: ThreadedApiServer, pods: Sequence[NewPod]) -> None:
    for pod in pods:
        api.put(pod.body(has_status=True))


@MODES
@pytest.mark.parametrize("with_results", [True, False], ids=["cni-results", "holding-alone"])
def test_a_new_pod_is_treated_as_the_policies_say_from_its_first_packet(
    cluster: Cluster, mode: str, *, with_results: bool
) -> None:
    folder = str(cluster.results) if with_results else "off"
    with cluster.agent(f"--fail-open={mode}", f"--cni-results={folder}") as agent:
        agent.wait_until("packets of unknown addresses wait", lambda: RANGES[1] in rules(cluster.box))
        run(cluster, with_results=with_results, status_delay_s=STATUS_DELAY_S)


def test_the_kernel_knows_an_address_only_when_every_worker_does(cluster: Cluster) -> None:
    """A worker without it would take the new pod for an outsider that no policy isolates."""
    (pod,) = new_pods([0])
    v4 = pod.addresses[0]
    with cluster.agent("--fail-open=false", f"--cni-results={cluster.results}") as agent:
        agent.wait_until("packets of unknown addresses wait", lambda: RANGES[1] in rules(cluster.box))
        slow = agent.status()["workers"][1]["pid"]
        agent.kill(slow, signal.SIGSTOP)
        cluster.api.put(pod.body(has_status=False))
        cluster.write_cni_result(pod)
        agent.wait_until("it is isolated", lambda: v4 in elements(cluster.box, "isolated_ingress_v4"))
        known = elements(cluster.box, "known_v4")
        if agent.status()["workers"][1]["pid"] == slow:  # it is killed after two seconds of silence
            assert v4 not in known
        with suppress(ProcessLookupError):
            agent.kill(slow, signal.SIGCONT)
        agent.wait_until("it is known", lambda: v4 in elements(cluster.box, "known_v4"))


def elements(box: Box, name: str) -> str:
    return box.run(NODE.name, ["nft", "list", "set", "inet", "netpolq", name]).stdout
