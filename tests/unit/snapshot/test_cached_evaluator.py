"""The port classes of a pair: few are evaluated at once, more when a flow needs them, and all pairs together have a limit."""

import pytest

from netpolq.addresses import parse_address
from netpolq.enums import Direction, Protocol, Verdict
from netpolq.hold.ranges import parse_ranges
from netpolq.model import LabelSelector, NetworkPolicy, Pod, PolicyPort, PolicyRule, Update
from netpolq.snapshot import cached_evaluator
from netpolq.snapshot.address_ranges import AddressRanges
from netpolq.snapshot.cached_evaluator import CachedEvaluator
from netpolq.snapshot.reader import Evaluation, SnapshotReader
from tests.support.compiled import Compilation, encode, ingress_policy

POD = parse_address("10.0.0.1")
PEER = parse_address("192.0.2.1")


def view_of(ranges: int) -> SnapshotReader:
    """A pod that admits so many port ranges of each protocol, with gaps between them and rules of their own."""
    rules = tuple(
        PolicyRule(None, tuple(PolicyPort(protocol, 10 + 4 * number, 11 + 4 * number) for protocol in Protocol))
        for number in range(ranges)
    )
    isolating = NetworkPolicy(
        namespace="shop", name="web", pod_selector=LabelSelector(), policy_types=frozenset({Direction.INGRESS}), ingress=rules
    )
    compilation = Compilation()
    web = Pod(namespace="shop", name="web", labels={}, ips=(POD,))
    compilation.store.apply(Update(upserted=(web, isolating), ignored={}, observed_ns=0))
    compilation.update()
    return SnapshotReader(compilation.encoded())


class Asked:
    """A cached evaluator, and how many evaluations it has made answers of."""

    def __init__(self, ranges: int) -> None:
        self.view = view_of(ranges)
        self.evaluator = CachedEvaluator(self.view, self._answer_for)
        self.evaluated = 0

    def _answer_for(self, evaluation: Evaluation, _on_every_port: bool) -> Evaluation:
        self.evaluated += 1
        return evaluation

    def agrees(self, port: int, protocol: Protocol = Protocol.TCP) -> bool:
        return self.evaluator.answer(PEER, POD, protocol, port) == self.view.evaluate(PEER, POD, protocol, port)


@pytest.mark.parametrize("ranges", [2, 31, 32, 100, 511, 512, 1500], ids="{} ranges".format)
def test_a_pair_answers_as_the_reader_whatever_the_number_of_its_port_classes(ranges: int) -> None:
    asked = Asked(ranges)
    ports = [0, 65535, *(10 + 4 * number + step for number in range(0, ranges, 7) for step in (-1, 0, 1, 2))]

    assert all(asked.agrees(port) for _ in range(3) for port in ports)


def test_few_classes_are_evaluated_at_once() -> None:
    asked = Asked(10)
    asked.agrees(1)
    asked.agrees(1)
    evaluated = asked.evaluated

    assert all(asked.agrees(port) for port in range(60))
    assert asked.evaluated == evaluated


def test_each_of_many_classes_is_evaluated_for_the_first_flow_that_needs_it() -> None:
    asked = Asked(400)
    asked.agrees(1)
    asked.agrees(1)
    assert asked.evaluated == 2, "not all 801 classes"

    assert all(asked.agrees(port) for _ in range(3) for port in (10, 11, 12, 13, 14, 15))
    assert asked.evaluated == 2 + 3, "two ranges and the gap between them"


def test_the_classes_of_all_pairs_are_dropped_at_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_evaluator, "MAX_ALL_CLASSES", 450)
    asked = Asked(100)  # 201 classes for each protocol

    assert all(asked.agrees(10, protocol) for _ in range(2) for protocol in (Protocol.TCP, Protocol.UDP))
    assert asked.evaluator._pair_count == 2
    assert all(asked.agrees(10, Protocol.SCTP) for _ in range(2))
    assert asked.evaluator._pair_count == 1
    assert all(asked.agrees(10, protocol) for _ in range(3) for protocol in Protocol)


HELD = "held"


def test_an_unknown_peer_in_the_ranges_is_held_and_no_other_flow() -> None:
    """Not a peer with an identity, nor a local pod that has none, nor a flow that no policy decides. Nothing of it is kept."""
    pods = tuple(map(parse_address, ("10.0.0.1", "10.0.0.2", "fd00::1")))
    friend = parse_address("10.0.0.3")
    view = SnapshotReader(encode(ingress_policy("a/b", endpoints=pods, friends=(friend,))))
    ranges = AddressRanges(parse_ranges("10.0.0.0/29,10.0.1.0/24,fd00::/64"))
    evaluator = CachedEvaluator(view, lambda evaluation, _on_every_port: str(evaluation.verdict), held=(ranges, HELD))
    known = CachedEvaluator(view, lambda evaluation, _on_every_port: str(evaluation.verdict))
    cases = [
        ("10.0.0.4", "10.0.0.1", True),
        ("10.0.0.7", "10.0.0.1", True),
        ("10.0.0.8", "10.0.0.1", False),
        ("10.0.1.0", "10.0.0.2", True),
        ("10.0.2.0", "10.0.0.2", False),
        ("10.0.0.3", "10.0.0.1", False),
        ("10.0.0.2", "10.0.0.1", False),
        ("10.0.0.1", "10.0.0.4", False),
        ("10.0.0.4", "10.0.0.5", False),
        ("fd00::2", "fd00::1", True),
        ("fd00:0:0:1::", "fd00::1", False),
    ]
    for _ in range(3):
        for source, destination, is_held in cases:
            flow = (parse_address(source), parse_address(destination), 6, 80)
            assert evaluator.answer(*flow) == (HELD if is_held else known.answer(*flow)), (source, destination)


def test_an_unknown_peer_of_a_pod_that_is_isolated_for_egress_is_held() -> None:
    compilation = Compilation()
    isolating = NetworkPolicy(
        namespace="shop",
        name="web",
        pod_selector=LabelSelector(),
        policy_types=frozenset({Direction.EGRESS}),
        ingress=(),
        egress=(),
    )
    web = Pod(namespace="shop", name="web", labels={}, ips=(POD,))
    compilation.store.apply(Update(upserted=(web, isolating), ignored={}, observed_ns=0))
    compilation.update()
    ranges = AddressRanges(parse_ranges("192.0.2.0/24"))
    evaluator = CachedEvaluator(
        compilation.view(), lambda evaluation, _on_every_port: str(evaluation.verdict), held=(ranges, HELD)
    )
    found = [evaluator.answer(*ends, Protocol.TCP, 80) for ends in ((POD, PEER), (POD, parse_address("192.0.3.1")), (PEER, POD))]
    assert found == [HELD, str(Verdict.DROP), str(Verdict.ACCEPT)]


def test_ranges_contain_their_first_and_last_address_and_nothing_beside() -> None:
    assert not AddressRanges()
    assert parse_address("10.0.0.1") not in AddressRanges()
    ranges = AddressRanges(parse_ranges("10.0.0.4/30,fd00::/126"))
    assert ranges
    tried = ("10.0.0.3", "10.0.0.4", "10.0.0.7", "10.0.0.8", "::a00:4", "fd00::", "fd00::3", "fd00::4", "fcff::")
    inside = [text for text in tried if parse_address(text) in ranges]
    assert inside == ["10.0.0.4", "10.0.0.7", "fd00::", "fd00::3"]
