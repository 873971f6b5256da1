"""Domain names in policies: the first connection after a look-up passes, with a real DNS server and the system's resolver.

Real packets and processes. The pod `client` may connect to `*.names.test` and to nothing else.
`NETPOLQ_TEST_LOOKUPS`: look-ups of each test.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from loadtest.testbed import manifests, netns
from loadtest.testbed.agent import Agent
from loadtest.testbed.box import Box, Host
from loadtest.testbed.manifests import Body
from tests.process.conftest import MODES

LOOKUPS = int(os.environ.get("NETPOLQ_TEST_LOOKUPS", "150"))
NODE = Host(name="node", addresses=("10.73.0.1", "fd73::1"))
CLIENT = Host(name="app/client", addresses=("10.73.1.1", "fd73:1::1"))
OTHER = Host(name="app/other", addresses=("10.73.1.2", "fd73:1::2"))
RESOLVER = Host(name="kube-system/dns", addresses=("10.73.2.53", "fd73:2::53"))
WORLD = Host(name="world", addresses=("10.73.3.1", "fd73:3::1"))
"""Outside of the cluster. It has every address of the two ranges, and listens on port 80 of all of them."""
WORLD_V4, WORLD_V6 = "198.18.0.0/16", "fd73:18::/112"
PORT = 80
BIG = tuple(f"198.18.200.{end}" for end in range(1, 151))


class Names(NamedTuple):
    """The box, the folder of manifests, and the DNS server."""

    box: Box
    folder: Path
    dns: subprocess.Popen[str]

    def agent(self, *flags: str) -> Agent:
        """An agent that trusts the resolver."""
        return Agent(
            self.box,
            self.folder,
            "--workers=2",
            f"--dns-servers={','.join(RESOLVER.addresses)}",
            "--pod-cidrs=10.73.1.0/24,fd73:1::/64",
            *flags,
        )


def policies() -> list[Body]:
    def to(action: str, *peers: Body, **more: object) -> Body:
        return {"action": action, "to": list(peers), **more}

    dns = {"pods": {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}, "podSelector": {}}}
    everything = {"networks": ["0.0.0.0/0", "::/0"]}
    subject = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "client"}}}}
    rules = [to("Accept", dns), to("Accept", {"domainNames": ["*.names.test"]}), to("Deny", everything)]
    return [manifests.cluster_policy("names", tier="Admin", priority=10, subject=subject, egress=rules)]


@pytest.fixture
def names() -> Iterator[Names]:
    with Box(node=NODE, hosts=[CLIENT, OTHER, RESOLVER, WORLD]) as box:
        hosts = list(box.hosts)
        device = f"pod{hosts.index(WORLD.name) - 1}"
        # By gateways, because the table of neighbours has 1,024 entries.
        routes = [
            f"route add {WORLD_V4} via {WORLD.address(4)} dev {device} onlink",
            f"route add {WORLD_V6} via fe80::2 dev {device}",
        ]
        netns.batch(routes, box.namespaces[NODE.name])
        local = [f"route add local {block} dev lo" for block in (WORLD_V4, WORLD_V6)]
        netns.batch(local, box.namespaces[WORLD.name])
        folder = box.directory / "manifests"
        folder.mkdir()
        bodies = [manifests.namespace("app"), manifests.namespace("kube-system"), *policies()]
        bodies += [manifests.pod(CLIENT, NODE, app="client"), manifests.pod(OTHER, NODE, app="other")]
        bodies.append(manifests.pod(RESOLVER, NODE, app="dns"))
        manifests.write(folder / "cluster.json", bodies)
        serve_world(box)
        yield Names(box, folder, serve_dns(box))


def serve_dns(box: Box) -> subprocess.Popen[str]:
    """Answer `h4-198-18-A-B.names.test` and `h6-….names.test` with the address in the name, `.other.test` alike.

    `big.names.test` has so many addresses that they do not fit into a datagram.
    """
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="]
    for domain in ("names.test", "other.test"):
        argv += [f"--synth-domain={domain},{WORLD_V4},h4-", f"--synth-domain={domain},{WORLD_V6},h6-", f"--local=/{domain}/"]
    argv += [f"--host-record=big.names.test,{address}" for address in BIG]
    log = box.directory / "dns.log"
    process = box.popen(RESOLVER.name, argv, log=log)
    deadline_s = time.monotonic() + 10.0
    while True:
        try:
            with box.inside(RESOLVER.name, lambda: socket.create_connection((RESOLVER.addresses[0], 53), 1.0)):
                return process
        except OSError:
            assert time.monotonic() < deadline_s, log.read_text(encoding="utf-8")
            time.sleep(0.02)


def serve_world(box: Box) -> None:
    log = box.directory / "world.log"
    script = (
        "import selectors, socket\n"
        "s = selectors.DefaultSelector()\n"
        "for family, any in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):\n"
        "    one = socket.socket(family)\n"
        "    family == socket.AF_INET6 and one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)\n"
        f"    one.bind((any, {PORT})); one.listen(4096); s.register(one, 1)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for key, _ in s.select(): key.fileobj.accept()[0].close()\n"
    )
    process = box.popen(WORLD.name, [sys.executable, "-c", script], log=log, pipe=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", log.read_text(encoding="utf-8")


CLIENT_PROGRAM = """
import json, socket, sys, time
domain, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
refused, lookups = [], []
for number in range(count):
    n = seed + number % 2000  # 4,000 addresses, fewer than the agent learns from the answers to one pod
    for family, name in (
        (socket.AF_INET, f"h4-198-18-{n >> 8 & 255}-{n & 255}.{domain}"),
        (socket.AF_INET6, f"h6-fd73-18--{n & 0xffff:x}.{domain}"),
    ):
        began = time.perf_counter()
        found = socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)
        lookups.append(time.perf_counter() - began)
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(0.4)  # less than the second after which TCP sends the first packet again
            try:
                one.connect(found[0][4])
            except OSError as error:
                refused.append([name, repr(error)])
print(json.dumps({"refused": refused, "lookups": lookups}))
"""


def look_up_and_connect(names: Names, domain: str, count: int, seed: int = 1) -> tuple[list[list[str]], list[float]]:
    """Look up names with the system's resolver, and connect to each address at once. Returns what failed, and seconds of the look-ups."""
    found = run_in_client(names, CLIENT_PROGRAM, domain, str(count), str(seed), timeout_s=60 + count)
    return found["refused"], found["lookups"]


def run_in_client(names: Names, program: str, *arguments: str, timeout_s: float = 60.0) -> Any:
    """Run a Python program in the client's pod, whose only name server is the resolver. Returns the JSON that it prints."""
    resolv = names.box.directory / "resolv.conf"
    resolv.write_text(f"nameserver {RESOLVER.addresses[0]}\noptions timeout:2\n", encoding="utf-8")
    inside = ["ip", "netns", "exec", names.box.namespaces[CLIENT.name], "unshare", "--mount"]
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    argv = [*inside, "sh", "-ec", script, str(resolv), sys.executable, "-c", program, *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@MODES
def test_the_first_connection_after_a_look_up_passes(names: Names, mode: str) -> None:
    with names.agent(f"--fail-open={mode}"):
        refused, seconds = look_up_and_connect(names, "names.test", LOOKUPS)
        assert refused == []
        seconds.sort()
        print(f"look-up: median {seconds[len(seconds) // 2] * 1e3:.1f} ms, p99 {seconds[len(seconds) * 99 // 100] * 1e3:.1f} ms")
        denied, _seconds = look_up_and_connect(names, "other.test", 3, seed=30_000)
        assert len(denied) == 6, "a name that no policy has opens nothing"


PARALLEL_PROGRAM = """
import json, select, socket, sys
import dns.message, dns.rdatatype
count, server = int(sys.argv[1]), sys.argv[2]
refused = []
for n in range(1, 1 + count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        for number, (name, kind) in enumerate(((f"h4-198-18-9-{n}.names.test", "A"), (f"h6-fd73-18--9{n:02x}.names.test", "AAAA"))):
            asking.sendto(dns.message.make_query(name, kind, id=number + 1).to_wire(), (server, 53))
        for _ in range(2):
            answer = dns.message.from_wire(asking.recv(4096))
            family = socket.AF_INET if answer.question[0].rdtype == dns.rdatatype.A else socket.AF_INET6
            with socket.socket(family) as one:
                one.settimeout(0.4)
                try:
                    one.connect((answer.answer[0][0].address, 80))
                except OSError as error:
                    refused.append([n, repr(error)])
print(json.dumps(refused))
"""


def test_a_client_that_asks_for_both_families_from_one_socket_may_connect_at_once(names: Names) -> None:
    """As the resolver of musl does."""
    with names.agent("--fail-open=false"):
        assert run_in_client(names, PARALLEL_PROGRAM, "50", RESOLVER.addresses[0]) == []


BIG_PROGRAM = """
import json, socket
refused = []
found = {one[4][0] for one in socket.getaddrinfo("big.names.test", 80, socket.AF_INET, socket.SOCK_STREAM)}
for address in found:
    with socket.socket() as one:
        one.settimeout(0.4)
        try:
            one.connect((address, 80))
        except OSError as error:
            refused.append([address, repr(error)])
print(json.dumps({"found": len(found), "refused": refused}))
"""


def test_all_addresses_of_an_answer_over_tcp_pass_at_once(names: Names) -> None:
    """The answer to the datagram is truncated, and the system's resolver asks again over TCP."""
    with names.agent("--fail-open=false") as agent:
        assert run_in_client(names, BIG_PROGRAM) == {"found": len(BIG), "refused": []}
        truncated = 'netpolq_dns_messages_total{kind="response",outcome="truncated"} 2.0'  # of both families
        agent.wait_until("the truncated answer is counted", lambda: truncated in agent.metrics())


CONNECT_PROGRAM = """
import json, socket, sys
with socket.socket() as one:
    one.settimeout(0.4)
    print(json.dumps(one.connect_ex((sys.argv[1], 80))))
"""
FAILING_PROGRAM = """
import json, socket
try:
    socket.getaddrinfo("h4-198-18-7-7.names.test", 80)
except socket.gaierror:
    print(json.dumps("no answer"))
"""


def test_names_stay_while_the_dns_server_is_dead_and_new_ones_pass_when_it_is_back(names: Names) -> None:
    with names.agent("--fail-open=false"):
        assert look_up_and_connect(names, "names.test", 1)[0] == []
        names.dns.kill()
        names.dns.wait()
        assert run_in_client(names, FAILING_PROGRAM) == "no answer"
        assert run_in_client(names, CONNECT_PROGRAM, "198.18.0.1") == 0
        assert run_in_client(names, CONNECT_PROGRAM, "198.18.7.7") != 0
        serve_dns(names.box)
        assert look_up_and_connect(names, "names.test", 3, seed=100)[0] == []


def test_the_first_connection_after_a_late_answer_passes(names: Names) -> None:
    """The client has asked again meanwhile, so there are two answers."""
    with names.agent("--fail-open=false"):
        names.dns.send_signal(signal.SIGSTOP)
        waker = threading.Timer(2.5, names.dns.send_signal, (signal.SIGCONT,))
        waker.start()
        refused, seconds = look_up_and_connect(names, "names.test", 3)
        waker.join()
        assert refused == []
        assert max(seconds) > 2.0


REUSED_PROGRAM = """
import json, pathlib, socket, sys, time
import dns.message
server, go_on, first, second = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(5)
    for number, name in enumerate((first, second)):
        asking.sendto(dns.message.make_query(name, "A", id=number + 1).to_wire(), (server, 53))
        answer = dns.message.from_wire(asking.recv(4096))
        if number == 0:
            print(json.dumps("asked"), flush=True)
            while not pathlib.Path(go_on).exists():
                time.sleep(0.01)
    with socket.socket() as one:
        one.settimeout(0.4)
        print(json.dumps(one.connect_ex((answer.answer[0][0].address, 80))), flush=True)
"""


def test_dns_connections_from_before_the_policy_are_read_too(names: Names) -> None:
    """A client that goes on to use the socket with which it asked before a policy with domain names selected its pod."""
    path, go_on = names.folder / "cluster.json", names.box.directory / "go-on"
    with_names = json.loads(path.read_text(encoding="utf-8"))["items"]
    everything = manifests.policy("app/all", podSelector={}, policyTypes=["Egress"], egress=[{}])
    manifests.write(path, [*(body for body in with_names if body["kind"] != "ClusterNetworkPolicy"), everything])
    asked = ("h4-198-18-5-1.names.test", "h4-198-18-5-2.names.test")
    argv = [sys.executable, "-c", REUSED_PROGRAM, RESOLVER.addresses[0], str(go_on), *asked]
    with names.agent("--fail-open=false") as agent:
        client = names.box.popen(CLIENT.name, argv, log=names.box.directory / "client.log", pipe=True)
        assert client.stdout is not None
        assert client.stdout.readline() == '"asked"\n'
        before = agent.status()
        manifests.write(path, with_names)
        agent.wait_until_enforced(before)
        version = agent.status()["in_force_version"]
        agent.wait_until("strict mode is done", lambda: agent.status()["strict_mode"]["done_version"] >= version)
        go_on.touch()
        assert client.stdout.readline() == "0\n"
