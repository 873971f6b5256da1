"""Packets larger than the MTU: segments that the kernel splits later (GSO) are one packet in a queue and get one verdict."""

import socket
import threading

from collections.abc import Iterator

import pytest

from tests.netns.test_strict_mode import FAMILIES, FROM_B, FROM_C, apply, connection
from tests.support.cluster import Cluster
from tests.support.four_pods import LIMIT_S, cluster_with, ingress, receives_nothing, talk

UDP_SEGMENT = 103  # linux/udp.h
SEGMENT_BYTES = 1_000
SEGMENTS = 40
HELD_BYTES = 60_000


@pytest.fixture(scope="module", params=["on", "off"])
def large(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with cluster_with("--workers=1", "--fail-open=false", f"--verdict-cache={request.param}") as started:
        yield started


@FAMILIES
def test_many_datagrams_in_one_packet_are_evaluated_once_and_all_arrive_or_none(large: Cluster, family: int) -> None:
    data = b"".join(bytes([number]) * SEGMENT_BYTES for number in range(SEGMENTS))
    for allowed, policy in ((True, ingress(FROM_B)), (False, ingress(FROM_C))):
        apply(large, policy)
        with talk(large, "x/b", "x/a", family) as flow:
            flow.client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, SEGMENT_BYTES)
            before = large.agent.packets_queued()
            flow.ask(data)
            if allowed:
                assert b"".join(flow.server.recv(2 * SEGMENT_BYTES) for _ in range(SEGMENTS)) == data
            else:
                assert receives_nothing(flow.server)
            assert large.agent.packets_queued() - before == 1
        assert large.agent.queues()[0].queue_total == 0


@FAMILIES
def test_data_that_waits_until_a_connection_is_allowed_again_arrives_in_large_packets(large: Cluster, family: int) -> None:
    data = bytes(range(250)) * (HELD_BYTES // 250)
    apply(large, ingress(FROM_B))
    with connection(large, "x/b", "x/a", family) as flow:
        flow.client.sendall(b"x")
        assert flow.server.recv(1) == b"x"
        apply(large, ingress(FROM_C))
        sender = threading.Thread(target=flow.client.sendall, args=(data,))
        sender.start()
        assert receives_nothing(flow.server)
        apply(large, ingress(FROM_B))
        flow.server.settimeout(LIMIT_S)
        received = b""
        while len(received) < len(data):
            received += flow.server.recv(1 << 16)
        sender.join()
        assert received == data
    assert large.agent.queues()[0].queue_total == 0
