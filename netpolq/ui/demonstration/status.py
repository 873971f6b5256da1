"""Status documents of the agents of the demonstration. Pure."""

from importlib.metadata import version

from netpolq.model import Rejection
from netpolq.supervisor.status import (
    DataplaneStatus,
    FlowsStatus,
    NamesStatus,
    SourceStatus,
    Status,
    StrictModeStatus,
    TrafficStatus,
    VerdictCacheStatus,
    WorkerStatus,
)

WORKERS = 2
_FIRST_QUEUE = 100
_VERSION = 12


def made_up_status(
    node: str, *, pods: int, packets: int, records: int, latency_s: float, rejected: list[Rejection], objects: dict[str, int]
) -> Status:
    """A status document. `pods`: of the node. `packets`: that its workers have evaluated so far. `records`: of flows."""
    number = int(node.rpartition("-")[2])
    return Status(
        version=version("netpolq"),
        node=node,
        snapshot_version=_VERSION,
        in_force_version=_VERSION,
        ready=True,
        not_ready_reasons=[],
        workers=[
            WorkerStatus(
                slot=slot,
                pid=1000 * number + 7 * slot + 12,
                queue_num=_FIRST_QUEUE + slot,
                acked_version=_VERSION,
                packets=packets // WORKERS + slot * (packets % WORKERS),
                restarts=1 if node == "node-2" and slot else 0,
                rss_bytes=23_500_000 + 310_000 * slot,
            )
            for slot in range(WORKERS)
        ],
        waiting=None,
        report=None,
        source=SourceStatus(
            kind="cluster", location="the demonstration", synced=True, age_s=1.0, problems=[], objects=objects, ignored={}
        ),
        cni_results=None,
        rejected=rejected,
        dataplane=DataplaneStatus(
            form="native",
            queues=f"{_FIRST_QUEUE}:{_FIRST_QUEUE + WORKERS - 1}",
            fail_open=False,
            isolated_ingress=pods - 1,
            isolated_egress=pods - 2,
            unjudged_packets=0,
            hold=None,
        ),
        verdict_cache=VerdictCacheStatus(enabled=True, entries=records // 2, size=65536, ttl_s=30, hits=packets * 6),
        strict_mode=StrictModeStatus(enabled=True, done_version=_VERSION, examined=410 + number, denied=0),
        domain_names=NamesStatus(names=3, addresses=3, refused={}, dns_servers=["10.96.0.14"], problem=None),
        programming_latency_s=latency_s,
        supervisor_restarts=0,
        run_dir_problem=None,
        flows=FlowsStatus(
            records=records,
            max_records=20_000,
            unrecorded=0,
            lost=0,
            dropped_early=0,
            damaged=0,
            traffic=TrafficStatus(counted=True, missed=0, problem=None),
        ),
        flow_export=[],
        events=None,
    )
