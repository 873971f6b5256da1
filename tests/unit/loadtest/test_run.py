"""The runner, and what is read off a flood."""

import subprocess

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from loadtest.clusters import PolicyCluster
from loadtest.ipset_chain import render
from loadtest.lab import Flood
from loadtest.measure import Sample, Target
from loadtest.packet_load import sample_of
from loadtest.processes import CpuTime, Usage
from loadtest.run import run_shape
from loadtest.traffic import known_tuples
from loadtest.verdict import Outcome

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Recorded:
    """A variant that records what is done with it."""

    name: str
    log: list[str]
    value: float = 1.0
    fails: Exception | None = None

    @contextmanager
    def open(self) -> Iterator["Recorded"]:
        self.log.append(f"open {self.name}")
        try:
            yield self
        finally:
            self.log.append(f"close {self.name}")

    def measure(self, round_number: int) -> Sample:
        if self.fails is not None:
            raise self.fails
        self.log.append(f"{round_number} {self.name}")
        return Sample(values={"taken_per_s": self.value})


@dataclass
class OneShape:
    """A shape of given variants."""

    measured: Sequence[Recorded]
    name: str = "one"
    title: str = "A shape"
    wanted: Sequence[Target] = field(default_factory=list)

    def variants(self) -> Sequence[Recorded]:
        return self.measured

    def targets(self) -> Sequence[Target]:
        return self.wanted


def quiet(_text: str) -> None:
    """Discards progress messages."""


def test_all_variants_are_open_at_once_and_each_round_begins_with_another_one() -> None:
    log: list[str] = []
    run_shape(OneShape([Recorded("a", log), Recorded("b", log), Recorded("c", log)]), 2, quiet)
    assert log == ["open a", "open b", "open c", "1 a", "1 b", "1 c", "2 b", "2 c", "2 a", "close c", "close b", "close a"]


@pytest.mark.parametrize("error", [RuntimeError("no answer"), OSError(5, "no answer"), subprocess.TimeoutExpired("no answer", 1)])
def test_what_fails_ends_the_shape_by_name_and_everything_is_closed(error: Exception) -> None:
    log: list[str] = []
    shape = OneShape([Recorded("a", log), Recorded("b", log, fails=error)], wanted=[Target(value="x", subject="a", at_least=1)])
    result = run_shape(shape, 5, quiet)
    assert result.failure.startswith("b, round 1: ")
    assert "no answer" in result.failure
    assert (result.is_bad, result.findings) == (True, ())
    assert log[-2:] == ["close b", "close a"]


@pytest.mark.parametrize(("value", "outcome", "bad"), [(3.0, Outcome.MET, False), (1.0, Outcome.MISSED, True)])
def test_a_missed_target_makes_the_result_bad(value: float, outcome: Outcome, bad: bool) -> None:
    target = Target(value="taken_per_s", subject="b", reference="a", at_least=2.0)
    result = run_shape(OneShape([Recorded("a", []), Recorded("b", [], value=value)], wanted=[target]), 5, quiet)
    assert [finding.outcome for finding in result.findings] == [outcome]
    assert result.is_bad is bad


FLOOD = Flood(
    sent=1_000,
    refused=0,
    offered_s=1.0,
    elapsed_s=1.25,
    delivered=500,
    backlog=0,
    drained=True,
    queued=(700,),
    queue_dropped=300,
    user_dropped=100,
    unjudged=0,
    cpu=Usage(workers=(CpuTime(SECOND_NS, SECOND_NS // 4),), kernel_ns=0, others_share=0.0),
)


def test_evaluated_packets_are_queued_packets_that_reached_the_worker() -> None:
    values = sample_of(FLOOD).values
    assert values["judged_per_s"] == 600 / 1.25
    assert values["delivered_per_s"] == 500 / 1.25
    assert values["lost_share"] == 0.4
    assert values["accepted_share"] == 500 / 600
    assert values["worker_cpu_us_per_packet"] == pytest.approx(1_000_000 / 600)


def test_a_variant_was_the_bottleneck_if_it_lost_packets_and_its_worker_was_never_idle() -> None:
    assert not sample_of(FLOOD).generator_limited


def test_a_worker_that_was_idle_could_have_taken_more_even_if_packets_were_lost() -> None:
    assert sample_of(replace(FLOOD, cpu=replace(FLOOD.cpu, workers=(CpuTime(SECOND_NS, 0),)))).generator_limited


def test_a_variant_that_took_everything_could_have_taken_more_even_if_its_worker_was_busy() -> None:
    assert sample_of(replace(FLOOD, queue_dropped=0, user_dropped=0)).generator_limited


def test_a_queue_that_filled_counts_as_not_taken() -> None:
    assert not sample_of(replace(FLOOD, queue_dropped=0, user_dropped=0, backlog=4_000)).generator_limited


def test_lost_packets_and_packets_without_a_verdict_are_noted() -> None:
    flood = replace(FLOOD, unjudged=7, refused=3, drained=False, cpu=replace(FLOOD.cpu, others_share=0.5))
    assert sample_of(flood).notes == (
        "3 packets refused by the sender's interface",
        "300 of 1,000 packets dropped at the full queue",
        "100 of 1,000 packets dropped at the full socket of the worker",
        "7 packets without a verdict",
        "the queue did not empty after the load",
        "other programs took 50 % of the machine's CPU time meanwhile",
    )


def test_a_load_without_a_delivered_packet_is_a_failure() -> None:
    with pytest.raises(RuntimeError, match="nothing was delivered of 1000"):
        sample_of(replace(FLOOD, delivered=0))


def test_known_tuples_are_as_many_flows_as_packets() -> None:
    traffic = known_tuples(PolicyCluster(), 80_000)
    first, last = map(int, traffic.source_ports.split("-"))
    assert len(traffic.sources) * (last - first + 1) == 80_000
    with pytest.raises(ValueError, match="--packets 900000"):
        known_tuples(PolicyCluster(), 900_000)


def test_senders_lie_evenly_among_the_policies_and_each_is_let_in_by_one() -> None:
    cluster = PolicyCluster(on_pod=100, policies=100, pods=1_000)
    _, rules = render(cluster.bodies())
    sets, _ = render(cluster.bodies())
    letting_in = [line for line in rules.splitlines() if "-j ACCEPT" in line and "--match-set" in line]
    assert len(letting_in) == 100
    members = {line.split()[2]: line.split()[1] for line in sets.splitlines() if line.startswith("add src-")}
    positions = sorted(int(members[sender].split("-")[1]) for sender in cluster.senders())
    assert positions == [6, 18, 31, 43, 56, 68, 81, 93]


def test_the_chain_accepts_the_established_first_and_drops_what_no_policy_lets_in() -> None:
    sets, rules = render(PolicyCluster().bodies())
    lines = rules.splitlines()
    assert "ESTABLISHED" in lines[2]
    assert lines[-2:] == ["-A POD-FIREWALL -j DROP", "COMMIT"]
    assert "-m set --match-set src-0-0 src -m set --match-set dst-0 dst -p udp --dport 8080 -j ACCEPT" in rules
    assert "add dst-0 10.200.1.1\n" in sets
