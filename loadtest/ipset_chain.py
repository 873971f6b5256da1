"""Policies as an iptables chain with ipset matches, as kube-router writes them: the cost of a linear search over rules in the kernel.

The chain of the pod has one rule for each of its policies: source in the policy's set of peers, destination in its set of pods, port.
Established connections are accepted before; packets that no rule accepts are dropped.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from loadtest.clusters import SERVER
from loadtest.subjects import Started, run
from loadtest.testbed.box import Box
from loadtest.testbed.manifests import Body

_CHAIN = "POD-FIREWALL"


class _Metadata(TypedDict):
    labels: Mapping[str, str]


class _Address(TypedDict):
    ip: str


class _Status(TypedDict):
    podIPs: list[_Address]


class _Pod(TypedDict):
    metadata: _Metadata
    status: _Status


class _Selector(TypedDict):
    matchLabels: Mapping[str, str]


class _Peer(TypedDict):
    podSelector: _Selector


class _Port(TypedDict):
    protocol: str
    port: int


_Rule = TypedDict("_Rule", {"from": list[_Peer], "ports": list[_Port]})


class _Spec(TypedDict):
    podSelector: _Selector
    ingress: list[_Rule]


class _Policy(TypedDict):
    spec: _Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsetChain:
    """A subject without a queue. `bodies`: pods and policies of the server's namespace, with label selectors only."""

    bodies: Callable[[], Iterable[Body]]

    @contextmanager
    def start(self, box: Box, manifests: Path) -> Iterator[Started]:
        sets, rules = render(self.bodies())
        run(box, box.node.name, ["ipset", "restore"], stdin=sets)
        run(box, box.node.name, ["iptables-restore", "--noflush"], stdin=rules)
        yield Started()


def render(bodies: Iterable[Body]) -> tuple[str, str]:
    """The input of `ipset restore` and `iptables-restore`: IPv4, ingress of the server."""
    pods: list[_Pod] = []
    policies: list[_Policy] = []
    for body in bodies:
        if body["kind"] == "Pod":
            pods.append(cast("_Pod", body))
        elif body["kind"] == "NetworkPolicy":
            policies.append(cast("_Policy", body))
    server = SERVER.address(4)
    sets: list[str] = []
    rules = [
        "*filter",
        f":{_CHAIN} - [0:0]",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A FORWARD -d {server} -m conntrack --ctstate NEW -j {_CHAIN}",
    ]
    for number, policy in enumerate(policies):
        targets = _members(pods, policy["spec"]["podSelector"])
        if server not in targets:
            continue
        sets += _set(f"dst-{number}", targets)
        for rule_number, rule in enumerate(policy["spec"]["ingress"]):
            source = f"src-{number}-{rule_number}"
            sets += _set(source, [member for peer in rule["from"] for member in _members(pods, peer["podSelector"])])
            rules += [
                f"-A {_CHAIN} -m set --match-set {source} src -m set --match-set dst-{number} dst "
                f"-p {port['protocol'].lower()} --dport {port['port']} -j ACCEPT"
                for port in rule["ports"]
            ]
    rules += [f"-A {_CHAIN} -j DROP", "COMMIT"]
    return "".join(f"{line}\n" for line in sets), "".join(f"{line}\n" for line in rules)


def _set(name: str, members: Iterable[str]) -> list[str]:
    return [f"create {name} hash:ip", *(f"add {name} {member}" for member in members)]


def _members(pods: Iterable[_Pod], selector: _Selector) -> list[str]:
    """Addresses of the pods that carry all labels of a selector."""
    wanted = selector["matchLabels"].items()
    return [
        address["ip"]
        for pod in pods
        if wanted <= pod["metadata"]["labels"].items()
        for address in pod["status"]["podIPs"]
        if ":" not in address["ip"]
    ]
