"""A process that takes part in writing policy status: KUBECONFIG NAME POLICY…, which it reports without their condition."""

import asyncio
import sys

from prometheus_client import CollectorRegistry

from netpolq.policy_status.timing import Timing
from netpolq.policy_status.writer import PolicyStatus
from netpolq.sources.kubernetes.connection import Connection
from tests.support.apiserver.store import Store
from tests.support.apiserver.writes import Writes
from tests.support.policy_reports import Reports, path_of

TIMING = Timing(
    lease_s=6.0,
    renew_s=0.2,
    deadline_s=4.0,
    retry_s=0.1,
    request_s=1.9,
    look_s=0.1,
    release_s=5.0,
    poll_s=0.01,
    write_interval_s=0.01,
    first_delay_s=0.02,
    max_delay_s=0.1,
)
"""Short, with the same order as the defaults."""


def main(kubeconfig: str, name: str, *policies: str) -> None:
    known = Writes(Store())
    for policy in policies:
        known.put_policy(path_of(policy))
    writer = PolicyStatus(
        Reports(known), Connection(kubeconfig), CollectorRegistry(), hostname=name, namespace="kube-system", timing=TIMING
    )
    asyncio.run(writer.run())


if __name__ == "__main__":
    main(*sys.argv[1:])
