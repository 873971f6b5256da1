"""An established SCTP association when policies change. Its packets are written by hand: not every kernel has such sockets."""

import itertools
import socket
import time

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from scapy.layers.sctp import SCTP, SCTPChunkCookieAck, SCTPChunkCookieEcho, SCTPChunkData, SCTPChunkInit, SCTPChunkInitAck
from scapy.packet import Packet

from loadtest.testbed.echo import payload
from tests.netns.test_strict_mode import FAMILIES, FLAGS, FROM_B, FROM_C, apply
from tests.support.cluster import Cluster
from tests.support.four_pods import NODE, SILENCE_S, cluster_with, ingress

CLIENT_PORT, SERVER_PORT = 5_000, 5_001
CLIENT_TAG, SERVER_TAG = 0x1111, 0x2222


class Association:
    """Both ends of an association, with raw sockets.

    conntrack checks ports and tags. It drops no packet, but marks mismatching ones as invalid.
    """

    def __init__(self, client: socket.socket, server: socket.socket, addresses: tuple[str, str]) -> None:
        self._client = client
        self._server = server
        self._client_address, self._server_address = addresses
        self._numbers = itertools.count(1)

    def open(self) -> bool:
        """Perform the four-way handshake (RFC 9260 section 5.1). Returns whether all its packets arrived."""
        return (
            self.ask(SCTPChunkInit(init_tag=CLIENT_TAG, n_out_streams=1, n_in_streams=1), tag=0)
            and self.answer(SCTPChunkInitAck(init_tag=SERVER_TAG, n_out_streams=1, n_in_streams=1))
            and self.ask(SCTPChunkCookieEcho(cookie=b"none"))
            and self.answer(SCTPChunkCookieAck())
        )

    def ask(self, chunk: Packet | None = None, tag: int = SERVER_TAG) -> bool:
        """Send a chunk from the client, by default data. Returns whether it arrived."""
        packet = bytes(SCTP(sport=CLIENT_PORT, dport=SERVER_PORT, tag=tag) / (chunk or self._data()))
        self._client.sendto(packet, (self._server_address, 0))
        return arrives(self._server, packet)

    def answer(self, chunk: Packet | None = None) -> bool:
        """Send a chunk from the server, by default data. Returns whether it arrived."""
        packet = bytes(SCTP(sport=SERVER_PORT, dport=CLIENT_PORT, tag=CLIENT_TAG) / (chunk or self._data()))
        self._server.sendto(packet, (self._client_address, 0))
        return arrives(self._client, packet)

    def _data(self) -> SCTPChunkData:
        number = next(self._numbers)
        return SCTPChunkData(tsn=number, stream_seq=number, beginning=1, ending=1, data=b"word")


def arrives(end: socket.socket, packet: bytes) -> bool:
    deadline_s = time.monotonic() + SILENCE_S
    while (left_s := deadline_s - time.monotonic()) > 0:
        end.settimeout(left_s)
        try:
            if payload(end.family, end.recv(2048)) == packet:
                return True
        except TimeoutError:
            return False
    return False


@contextmanager
def association(cluster: Cluster, source: str, destination: str, family: int) -> Iterator[Association]:
    box = cluster.box
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as sockets:
        ends = [
            sockets.enter_context(box.inside(name, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_SCTP)))
            for name in (source, destination)
        ]
        yield Association(ends[0], ends[1], (box.address(source, family), box.address(destination, family)))


@pytest.fixture(scope="module")
def strict() -> Iterator[Cluster]:
    with cluster_with(*FLAGS) as started:
        yield started


@FAMILIES
def test_an_association_that_is_denied_now_gets_no_further_and_goes_on_when_allowed_again(strict: Cluster, family: int) -> None:
    apply(strict, ingress(FROM_B))
    with association(strict, "x/b", "x/a", family) as flow:
        assert flow.open()
        assert flow.ask()
        assert flow.answer()
        assert "ESTABLISHED" in strict.box.run(NODE.name, ["conntrack", "-L", "-p", "sctp"]).stdout
        apply(strict, ingress(FROM_C))
        assert not flow.ask()
        assert not flow.answer()
        apply(strict, ingress(FROM_B))
        strict.agent.wait_until("it goes on", flow.ask)
        assert flow.answer()
    strict.box.run(NODE.name, ["conntrack", "-F"])


@FAMILIES
def test_an_association_that_was_never_admitted_is_not_opened_from_the_middle(strict: Cluster, family: int) -> None:
    apply(strict, ingress(FROM_C))
    with association(strict, "x/b", "x/a", family) as flow:
        assert not flow.open()
        assert not flow.ask(SCTPChunkCookieEcho(cookie=b"none"))
        assert not flow.ask()
    strict.box.run(NODE.name, ["conntrack", "-F"])
