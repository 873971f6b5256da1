"""Domain names in policies: the first connection after a look-up passes, with a real DNS server and the system's resolver.

Real packets and processes. The pod `client` may connect to `*.names.test` and to nothing else.
`NETPOLQ_TEST_LOOKUPS`: look-ups of each test.
"""

import json
import os
import socket
import subprocess
import sys
import time

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


class Names(NamedTuple):
    box: Box
    folder: Path

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
        serve_dns(box)
        serve_world(box)
        yield Names(box, folder)


def serve_dns(box: Box) -> None:
    """Answer `h4-198-18-A-B.names.test` and `h6-….names.test` with the address in the name, `.other.test` alike."""
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="]
    for domain in ("names.test", "other.test"):
        argv += [f"--synth-domain={domain},{WORLD_V4},h4-", f"--synth-domain={domain},{WORLD_V6},h6-", f"--local=/{domain}/"]
    log = box.directory / "dns.log"
    box.popen(RESOLVER.name, argv, log=log)
    deadline_s = time.monotonic() + 10.0
    while True:
        try:
            with box.inside(RESOLVER.name, lambda: socket.create_connection((RESOLVER.addresses[0], 53), 1.0)):
                return
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
    resolv = names.box.directory / "resolv.conf"
    resolv.write_text(f"nameserver {RESOLVER.addresses[0]}\noptions timeout:2\n", encoding="utf-8")
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    program = (sys.executable, "-c", CLIENT_PROGRAM, domain, str(count), str(seed))
    argv = [
        "ip",
        "netns",
        "exec",
        names.box.namespaces[CLIENT.name],
        "unshare",
        "--mount",
        "sh",
        "-ec",
        script,
        str(resolv),
        *program,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60 + count)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["refused"], found["lookups"]


@MODES
def test_the_first_connection_after_a_look_up_passes(names: Names, mode: str) -> None:
    with names.agent(f"--fail-open={mode}"):
        refused, seconds = look_up_and_connect(names, "names.test", LOOKUPS)
        assert refused == []
        seconds.sort()
        print(f"look-up: median {seconds[len(seconds) // 2] * 1e3:.1f} ms, p99 {seconds[len(seconds) * 99 // 100] * 1e3:.1f} ms")
        denied, _seconds = look_up_and_connect(names, "other.test", 3, seed=30_000)
        assert len(denied) == 6, "a name that no policy has opens nothing"
