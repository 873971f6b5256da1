"""What recording flows costs is measured on connections that are evaluated as meant, and recorded with flows alone."""

import re

from collections import Counter

import pytest

from loadtest import flow_costs
from netpolq.addresses import AddressKey, format_address, packed_address, parse_address
from netpolq.enums import Protocol, Verdict
from netpolq.ipc.flow_memory import Chunk, FlowReader
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.packet import parse

CLIENT, SERVER, STRANGER = flow_costs._CLIENT, flow_costs._SERVER, parse_address("10.0.0.3")
COSTS = r"[\d,]+ ns a packet without flows; with them [+-][\d,]+ ns \([+-][\d,]+ to [+-][\d,]+\), 2 rounds"


class KeptChunks:
    """A reader of flow memory that keeps what it has read."""

    def __init__(self, reader: FlowReader) -> None:
        self._reader = reader
        self.chunks: list[Chunk] = []

    def read(self) -> list[Chunk]:
        found = self._reader.read()
        self.chunks += found
        return found

    @property
    def connections(self) -> Counter[tuple[str, str, int, bool]]:
        """Recorded connections by source, destination, port, and whether they were accepted."""
        found: Counter[tuple[str, str, int, bool]] = Counter()
        for chunk in self.chunks:
            for count in chunk.counts:
                source, destination = format_address(AddressKey(count.source)), format_address(AddressKey(count.destination))
                found[source, destination, count.port, count.reasons.is_accept] += count.connections
        return found


def test_a_packet_is_the_first_of_a_connection_to_the_server() -> None:
    payload = flow_costs._packet(CLIENT, 443).get_payload()
    assert parse(payload) == (packed_address(CLIENT), packed_address(SERVER), Protocol.TCP, 40000, 443)


@pytest.mark.parametrize("port", [1, 65535])
def test_the_server_admits_the_client_alone(port: int) -> None:
    snapshot = SnapshotReader(flow_costs._snapshot())
    assert snapshot.evaluate(CLIENT, SERVER, Protocol.TCP, port).verdict is Verdict.ACCEPT
    assert snapshot.evaluate(STRANGER, SERVER, Protocol.TCP, port).verdict is Verdict.DROP


def test_with_flows_the_loop_records_each_packet_as_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    context = flow_costs._Context(flow_costs._snapshot(), flows=True)
    kept = KeptChunks(context._reader)
    monkeypatch.setattr(context, "_reader", kept)
    packets = [flow_costs._packet(source, port) for source, port in ((CLIENT, 80), (CLIENT, 443), (STRANGER, 80))]
    assert context.cpu_ns(packets, times=4) > 0
    context.handler.send(None)
    context.housekeeping(now_ns=1 << 62)
    assert kept.connections == {
        ("10.0.0.2", "10.0.0.1", 80, True): 4,
        ("10.0.0.2", "10.0.0.1", 443, True): 4,
        ("10.0.0.3", "10.0.0.1", 80, False): 4,
    }


def test_without_flows_the_loop_gets_no_recorder() -> None:
    context = flow_costs._Context(flow_costs._snapshot(), flows=False)
    assert context.cpu_ns([flow_costs._packet(CLIENT, 80)], times=4) > 0
    assert not context.flow_cache.counts_flows


def test_a_run_prints_the_costs_of_packets_table_and_scrape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("KNOWN_PACKETS", 600), ("COLD_PACKETS", 100), ("RECORDS", 1000), ("POLICIES", 10)):
        monkeypatch.setattr(flow_costs, name, value)
    monkeypatch.setattr("sys.argv", ["flow_costs", "--rounds", "2"])
    flow_costs.main()
    lines = capsys.readouterr().out.splitlines()
    patterns = (
        rf"known connection: {COSTS}",
        rf"new connection each: {COSTS}",
        r"flow table: \d+\.\d MB with 1000 records, all of different flows",
        r"scrape: \d+ ms for 60 series of 10 policies with 5 rules",
    )
    assert [bool(re.fullmatch(pattern, line)) for pattern, line in zip(patterns, lines, strict=True)] == [True] * 4, lines
