"""Every row of the truth table in `tests/cases/`, tried with real connections: TCP, UDP, ICMP, and SCTP as raw INIT packets.

`tests/unit/explain/test_cases.py` evaluates every attempt of every row. Here all are tried if what they guard has changed, else a part.
"""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Outcome, Probe, Result
from tests.support.cases import ADDRESSES, NODE, NODE_NAME, Case, Expectation, load_cases
from tests.support.cases import Result as Stated
from tests.support.cluster import Cluster, running
from tests.support.sizes import is_full

CASES = [case for case in load_cases() if not case.names]
"""Names are learned from DNS answers, which `tests/netns` tries elsewhere."""

PART = 11
"""Of the attempts about which a row states nothing, one of so many is always tried. No number of families or ports has it as a factor."""


def _host(endpoint: str) -> str:
    return NODE_NAME if endpoint == NODE else endpoint


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One cluster for all cases. Every host serves every port that a case tries, so that only policies can block it."""
    served = tuple(sorted({probe for case in CASES for probe in case.probes if probe[1]}))
    hosts = {
        endpoint: Host(name=_host(endpoint), addresses=tuple(addresses.values()), serves=served)
        for endpoint, addresses in ADDRESSES.items()
    }
    node = hosts.pop(NODE)
    with Box(node=node, hosts=list(hosts.values())) as box, running(box, CASES[0].manifests, "--workers", "2") as started:
        yield started


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_connections_match_the_truth_table(cluster: Cluster, case: Case) -> None:
    cluster.replace([body for body in case.manifests if body not in case.unclear])
    with cluster.added(case.unclear) if case.unclear else nullcontext():
        wrong = differences(cluster, case)
    assert not wrong, "\n".join(wrong[:20])


def attempts(case: Case) -> list[Expectation]:
    """All attempts of a row; where `make test` leaves out the full size, those about which it states something, and some others."""
    return [
        wanted
        for number, wanted in enumerate(case.expectations())
        if wanted.result != Stated() or number % PART == 0 or is_full("truth")
    ]


def differences(cluster: Cluster, case: Case) -> list[str]:
    """Attempts whose outcome is not that of the table.

    What is allowed and has no answer is tried once more: some hundred attempts at once, of one packet each, may lose one on a busy machine.
    What is denied and has an answer is wrong at once.
    """
    wrong = _attempted(cluster, attempts(case))
    if wrong and all(wanted.allowed and result.outcome is Outcome.TIMEOUT for wanted, result in wrong):
        wrong = _attempted(cluster, [wanted for wanted, _result in wrong])
    return [
        f"{wanted.source} -> {wanted.destination} {wanted.protocol}/{wanted.port} v{wanted.family}: {result.outcome}"
        for wanted, result in wrong
    ]


def _attempted(cluster: Cluster, expectations: list[Expectation]) -> list[tuple[Expectation, Result]]:
    """Try all at once. Returns those with another outcome."""
    results = cluster.box.probe(
        [
            Probe(_host(wanted.source), ADDRESSES[wanted.destination][wanted.family], wanted.protocol, wanted.port)
            for wanted in expectations
        ]
    )
    return [
        (wanted, result)
        for wanted, result in zip(expectations, results, strict=True)
        if result.outcome is not (Outcome.REACHED if wanted.allowed else Outcome.TIMEOUT)
    ]
