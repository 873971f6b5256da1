"""Every row of the truth table in `tests/cases/`, tried with real connections: TCP, UDP, ICMP, and SCTP as raw INIT packets."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from loadtest.testbed.box import Box, Host
from loadtest.testbed.probe import Outcome, Probe
from tests.support.cases import ADDRESSES, NODE, NODE_NAME, Case, load_cases
from tests.support.cluster import Cluster, running

CASES = [case for case in load_cases() if not case.names]
"""Names are learned from DNS answers, which `tests/netns` tries elsewhere."""


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


def differences(cluster: Cluster, case: Case) -> list[str]:
    """Attempts whose outcome is not that of the table."""
    expectations = list(case.expectations())
    results = cluster.box.probe(
        [
            Probe(_host(wanted.source), ADDRESSES[wanted.destination][wanted.family], wanted.protocol, wanted.port)
            for wanted in expectations
        ]
    )
    return [
        f"{wanted.source} -> {wanted.destination} {wanted.protocol}/{wanted.port} v{wanted.family}: {result.outcome}"
        for wanted, result in zip(expectations, results, strict=True)
        if result.outcome is not (Outcome.REACHED if wanted.allowed else Outcome.TIMEOUT)
    ]
