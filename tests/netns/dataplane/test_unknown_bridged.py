"""New connections of unknown addresses between pods of one bridge: behind it, their packets have no input interface."""

import dataclasses
import ipaddress
import socket

from collections.abc import Iterator

import pytest

from netpolq.dataplane.install import Ruleset
from netpolq.dataplane.ruleset import RulesetConfig
from netpolq.enums import PacketMark
from tests.netns.dataplane.lab import A_EGRESS, FAMILIES, LOCAL, NOT_ISOLATED, SILENCE_S, A, B, Lab, MovingListener, built

A_KNOWN = dataclasses.replace(NOT_ISOLATED, known=A_EGRESS.egress)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with built("bridge") as made:
        yield made


@pytest.fixture
def bridged(config: RulesetConfig) -> RulesetConfig:
    return dataclasses.replace(config, pod_ranges=(ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/16")))


@FAMILIES
async def test_bridged_packets_wait(bridged: RulesetConfig, waiting: MovingListener, node: Lab, family: int) -> None:
    await Ruleset(bridged).install(A_KNOWN)
    node.forget_neighbours()
    with node.udp_flow(A, B, family) as flow:
        flow.send()
        waiting.receive()
        assert waiting.states() == [PacketMark.UNKNOWN_DESTINATION]
        waiting.accept()
        flow.receive()
        flow.answer()
        assert flow.answered() == b"answer"


async def test_broadcasts_of_known_pods_do_not_wait(bridged: RulesetConfig, waiting: MovingListener, node: Lab) -> None:
    """To all, and to all of the subnet, whose address lies in the range."""
    await Ruleset(bridged).install(dataclasses.replace(NOT_ISOLATED, known=LOCAL))
    with node.udp(A, 4) as near, node.udp(B, 4) as far, node.inside(A):
        near.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        for address in ("255.255.255.255", "10.77.255.255"):
            near.sendto(address.encode(), (address, far.getsockname()[1]))
            assert far.recv(100) == address.encode()
    waiting.poll(SILENCE_S)
    assert not waiting.waiting
