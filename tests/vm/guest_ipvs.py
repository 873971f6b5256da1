"""Runs inside the machine of `test_stock_kernel`: services that IPVS forwards. It takes packets from the input hook and emits them
again through the output hook, where they must not pass for the node's own.
"""

from collections.abc import Iterator
from contextlib import closing

import pytest

from netpolq.addresses import parse_address
from netpolq.dataplane.install import Ruleset, cleanup, probe
from netpolq.dataplane.ruleset import IsolatedSets
from netpolq.enums import PacketMark
from tests.netns.dataplane.lab import ADDRESS, NODE, A, B, Lab, QueueListener, UdpFlow, built, fail_closed, run

_SERVICE = "10.99.0.1"
_PORT = 5300
_SETS = {
    "egress": IsolatedSets(ingress=frozenset(), egress=frozenset([parse_address(ADDRESS[A, 4])])),
    "ingress": IsolatedSets(ingress=frozenset([parse_address(ADDRESS[B, 4])]), egress=frozenset()),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with built() as made:
        with made.inside(NODE):
            run("ip", "address", "add", f"{_SERVICE}/32", "dev", "lo")
            run("ipvsadm", "-A", "-u", f"{_SERVICE}:{_PORT}", "-s", "rr")
            run("ipvsadm", "-a", "-u", f"{_SERVICE}:{_PORT}", "-r", f"{ADDRESS[B, 4]}:{_PORT}", "-m")
            run("sysctl", "-qw", "net.ipv4.vs.conntrack=1")
        yield made


@pytest.fixture
async def ruleset(lab: Lab) -> Ruleset:
    with lab.inside(NODE):
        cleanup()
        form = await probe()
    return Ruleset(fail_closed(form, dns_in_prerouting=True))


def _service(lab: Lab, client: str) -> UdpFlow:
    return UdpFlow(lab.udp(client, 4), lab.udp(B, 4, _PORT), (_SERVICE, _PORT))


@pytest.mark.parametrize("direction", list(_SETS))
async def test_a_pods_connection_through_a_service_is_evaluated_on_the_backends_address(
    lab: Lab, ruleset: Ruleset, direction: str
) -> None:
    with lab.inside(NODE):
        await ruleset.install(_SETS[direction])
        with closing(_service(lab, A)) as flow:
            flow.send()
            assert flow.server_receives_nothing()
            with closing(QueueListener()) as listener:
                flow.send()
                listener.receive()
                # The way to the service leads through the node's input hook, but IPVS takes the packet before it is evaluated there.
                assert listener.waiting[0].get_payload()[16:20] == parse_address(ADDRESS[B, 4])[12:]
                assert listener.states() == [PacketMark.PENDING_ORIGINAL]
                listener.accept()
                flow.receive()
                flow.answer()
                assert flow.answered() == b"answer"


async def test_the_own_node_reaches_an_isolated_pod_through_a_service(lab: Lab, ruleset: Ruleset) -> None:
    with lab.inside(NODE):
        await ruleset.install(_SETS["ingress"])
        with closing(_service(lab, NODE)) as flow:
            flow.send()
            flow.receive()
            flow.answer()
            assert flow.answered() == b"answer"
