"""The flow recorder: counts are exact, whatever comes between, and its memory is bounded."""

import os

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from hypothesis import given, settings
from hypothesis import strategies as st

from netpolq.addresses import AddressKey, address_key, parse_address
from netpolq.decision import Isolation, RuleDecision
from netpolq.enums import Direction, Protocol, Tier
from netpolq.ipc import flow_memory
from netpolq.ipc.channel import EVERY_PORT
from netpolq.ipc.flow_memory import MAX_COUNTS, Flag, FlowCount, FlowReader, FlowWriter
from netpolq.snapshot.ir import CompiledDelta, Endpoint, Program, TierProgram
from netpolq.snapshot.reader import SnapshotReader
from netpolq_worker.worker.flow_cache import FlowCache
from netpolq_worker.worker.flow_recorder import MAX_LISTED, MAX_LISTED_OF_A_FLOOD, MAX_WAITING, FlowRecorder
from netpolq_worker.worker.packet import Question, key_of
from tests.support.compiled import encode, ingress_policy

POD, FRIEND, OTHER = (parse_address(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3"))
POD6, FRIEND6, OTHER6 = (parse_address(text) for text in ("fd00::1", "fd00::2", "fd00::3"))

QUESTIONS: list[Question] = [
    *((client[12:], POD[12:], Protocol.TCP, port) for client in (FRIEND, OTHER) for port in (80, 81, 82)),
    *((client, POD6, Protocol.UDP, 53) for client in (FRIEND6, OTHER6)),
    (OTHER[12:], POD[12:], Protocol.TCP, EVERY_PORT),
    (FRIEND[12:], POD[12:], 1, 0),
]


def view(*friends: bytes, version: int = 1) -> SnapshotReader:
    return SnapshotReader(encode(ingress_policy("a/b", endpoints=(POD, POD6), friends=friends), version=version))


class Flows(NamedTuple):
    """A flow cache whose answers are recorded, as the packet loop does."""

    cache: FlowCache
    recorder: FlowRecorder
    reader: FlowReader

    def ask(self, question: Question) -> bool:
        """Let a packet ask. Returns whether it is accepted."""
        answer = self.cache.answer(question)
        assert answer >= 0
        return bool(answer & 1)

    def counts(self) -> list[FlowCount]:
        """What has been written and not been read."""
        return [count for chunk in self.reader.read() for count in chunk.counts]

    def written(self) -> list[FlowCount]:
        """What is written now, in full."""
        found = []
        for _number in range(100):
            self.cache.flush_flows()
            found += self.counts()
        return found


@contextmanager
def recording(*, denied_only: bool = False, with_hints: bool = False) -> Iterator[Flows]:
    descriptor = flow_memory.make()
    try:
        recorder = FlowRecorder(FlowWriter(descriptor), denied_only=denied_only, clock_ns=lambda: 5)
        cache = FlowCache(generation_entries=8, with_hints=with_hints, flows=recorder)
        cache.load(view(FRIEND, FRIEND6), None)
        yield Flows(cache, recorder, FlowReader(descriptor))
    finally:
        os.close(descriptor)


@pytest.fixture
def flows() -> Iterator[Flows]:
    with recording() as flows:
        yield flows


def summed(counts: list[FlowCount]) -> Counter[tuple[bytes, bytes, int, int, bool]]:
    found: Counter[tuple[bytes, bytes, int, int, bool]] = Counter()
    for count in counts:
        key = count.source, count.destination, count.protocol, count.port, count.reasons.is_accept
        found[key] += count.connections
    return found


@given(
    steps=st.lists(
        st.sampled_from([*range(len(QUESTIONS)), *range(len(QUESTIONS)), "flush", "read", "load", "load all"]), max_size=300
    ),
    with_hints=st.booleans(),
)
@settings(max_examples=200)
def test_every_connection_is_counted_once_under_its_own_ends(steps: list[int | str], with_hints: bool) -> None:
    """Whatever is cached, evicted, written and replaced in between."""
    asked: Counter[tuple[bytes, bytes, int, int, bool]] = Counter()
    found: list[FlowCount] = []
    with recording(with_hints=with_hints) as flows:
        for step in steps:
            match step:
                case "flush":
                    flows.cache.flush_flows()
                case "read":
                    found += flows.counts()
                case "load":
                    flows.cache.load(view(FRIEND, FRIEND6, version=2), ())
                case "load all":
                    flows.cache.load(view(FRIEND6, version=3), None)
                case int():
                    source, destination, protocol, port = QUESTIONS[step]
                    is_accept = flows.ask(QUESTIONS[step])
                    asked[address_key(source), address_key(destination), protocol, port, is_accept] += 1
        found += flows.written()
        assert flows.reader.lost == 0
    assert summed(found) == asked


def test_counts_name_what_decided(flows: Flows) -> None:
    flows.ask(QUESTIONS[0])
    flows.ask(QUESTIONS[3])
    accepted, denied = sorted(flows.written(), key=lambda count: not count.reasons.is_accept)
    assert isinstance(accepted.reasons.ingress, RuleDecision)
    assert (accepted.reasons.ingress.policy, accepted.reasons.egress) == ("a/b", None)
    assert denied.reasons.ingress == Isolation(Direction.INGRESS, ("a/b",))


def test_more_connections_than_are_listed_are_counted_without_their_ends(flows: Flows) -> None:
    for port in range(MAX_LISTED + 500):
        flows.ask((OTHER[12:], POD[12:], Protocol.TCP, port))
    found = flows.written()
    assert sum(count.connections for count in found) == MAX_LISTED + 500
    (anonymous,) = [count for count in found if Flag.ANONYMOUS in count.flags]
    assert anonymous.connections == 500
    assert anonymous.reasons.ingress == Isolation(Direction.INGRESS, ("a/b",))
    assert (anonymous.source, anonymous.port) == (bytes(16), 0)


def test_fewer_connections_of_a_flood_are_listed_until_it_ends(flows: Flows) -> None:
    listed: list[int] = []
    for asked in (MAX_LISTED + 1, MAX_LISTED, MAX_LISTED_OF_A_FLOOD + 1, MAX_LISTED_OF_A_FLOOD, MAX_LISTED):
        for port in range(asked):
            flows.ask((OTHER[12:], POD[12:], Protocol.TCP, port + 1000 * len(listed)))
        flows.cache.flush_flows()
        found = flows.counts()
        assert sum(count.connections for count in found) == asked
        listed.append(sum(Flag.ANONYMOUS not in count.flags for count in found))
    assert listed == [MAX_LISTED, MAX_LISTED_OF_A_FLOOD, MAX_LISTED_OF_A_FLOOD, MAX_LISTED_OF_A_FLOOD, MAX_LISTED]


def test_what_was_counted_is_written_before_another_snapshot_gives_numbers_another_meaning(flows: Flows) -> None:
    flows.ask(QUESTIONS[0])
    flows.cache.load(view(OTHER, version=2), None)
    (count,) = flows.counts()
    assert count.reasons.is_accept
    assert flows.ask(QUESTIONS[0]) is False
    assert [one.reasons.is_accept for one in flows.written()] == [False]


def test_what_does_not_fit_before_another_snapshot_is_counted_as_lost(flows: Flows) -> None:
    asked = 0
    for _round in range(40):
        for port in range(MAX_COUNTS):
            asked += 1
            flows.ask((OTHER[12:], POD[12:], Protocol.TCP, port))
        flows.cache.flush_flows()
    flows.cache.load(view(version=2), None)
    assert flows.reader.lost > 0
    found = flows.written()
    assert sum(count.connections for count in found) + flows.reader.lost == asked


def test_without_a_reader_what_waits_is_bounded_and_counted_without_its_ends(flows: Flows) -> None:
    """A supervisor that is dead for hours must not cost the worker's memory."""
    asked = 0
    for number in range(2 * MAX_WAITING // MAX_LISTED + 60):
        for port in range(MAX_LISTED):
            asked += 1
            flows.ask((OTHER[12:], POD[12:], Protocol.TCP, port + number * MAX_LISTED))
        flows.cache.flush_flows()
        assert len(flows.recorder._waiting) <= MAX_WAITING + 1, "one answer is counted without ends"
    found = flows.written()
    assert sum(count.connections for count in found if Flag.ANONYMOUS in count.flags) > 10 * MAX_LISTED
    assert sum(count.connections for count in found) == asked
    assert flows.reader.lost == 0


@pytest.mark.parametrize("with_hints", [False, True])
def test_the_packet_loop_counts_what_it_finds_by_itself(with_hints: bool) -> None:
    """A lookup without a call of the flow cache: the count is at the slot."""
    with recording(with_hints=with_hints) as flows:
        for _time in range(3):
            flows.ask(QUESTIONS[0])
        generation = flows.cache.generation
        generation.counts[generation.slots[key_of(QUESTIONS[0])]] += 7
        assert sum(count.connections for count in flows.written()) == 10
        assert flows.written() == []


def test_a_generation_is_counted_before_it_is_freed(flows: Flows) -> None:
    """Three generations of eight connections between two writes."""
    asked = [(FRIEND[12:], POD[12:], Protocol.TCP, port) for port in range(1000, 1024)]
    for question in asked:
        for _time in range(5):
            flows.ask(question)
    assert len(flows.cache) <= 16
    found = flows.written()
    assert {count.port: count.connections for count in found} == {port: 5 for *_ends, port in asked}


def test_denied_only_records_no_accepted_connection() -> None:
    for with_hints in (False, True):
        with recording(denied_only=True, with_hints=with_hints) as flows:
            for question in QUESTIONS * 3:
                flows.ask(question)
            assert {count.reasons.is_accept for count in flows.written()} == {False}


def test_accepted_connections_that_are_not_recorded_are_not_lost_either() -> None:
    with recording(denied_only=True) as flows:
        for port in range(6 * MAX_COUNTS):
            for _time in range(3):
                flows.ask((FRIEND[12:], POD[12:], Protocol.TCP, port))
        flows.cache.load(view(version=2), None)
        assert flows.reader.lost == 0


def many_isolations(policies: Mapping[AddressKey, tuple[str, ...]]) -> bytes:
    """A snapshot in which each endpoint is isolated for ingress by policies of its own."""
    return encode(
        CompiledDelta(
            tiers={
                number: TierProgram(Tier.NETWORK_POLICY, names, (), (), (), None, None)
                for number, names in enumerate(policies.values(), 1)
            },
            programs={number: Program(Direction.INGRESS, (number,), names) for number, names in enumerate(policies.values(), 1)},
            endpoints={pod: Endpoint(0, number) for number, pod in enumerate(policies, 1)},
        )
    )


def test_decisions_with_very_long_reasons_are_written_in_several_chunks() -> None:
    """Each evaluation names its own policies, and all definitions together would not fit into the ring."""
    numbers = range(flow_memory.MAX_NAMED_POLICIES)
    policies = {
        parse_address(f"10.0.1.{pod}"): tuple(f"{'n' * 60}/{'p' * 200}-{pod}-{number:03}" for number in numbers)
        for pod in range(40)
    }
    assert sum(len(name) for names in policies.values() for name in names) > flow_memory.RING_BYTES
    with recording() as flows:
        flows.cache.load(SnapshotReader(many_isolations(policies)), None)
        for pod in policies:
            assert not flows.ask((FRIEND[12:], pod[12:], Protocol.TCP, 80))
        assert sum(count.connections for count in flows.written()) == len(policies)
        assert flows.reader.lost == 0
