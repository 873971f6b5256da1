"""Records for the tests of outputs."""

from netpolq.decision import Isolation
from netpolq.enums import Direction
from netpolq.flow_view.merge import MergedFlow
from netpolq.flows.record import Flow, FlowEnd, FlowRecord, FlowVerdict

START_S = 1_800_000_000.0
WEB, DB = FlowEnd("10.0.0.3", "shop", "web-0"), FlowEnd("10.0.0.2", "shop", "db-0")
FLOW = Flow(WEB, DB, "TCP", 5432, FlowVerdict.DENY, ingress=Isolation(Direction.INGRESS, ("shop/db", "shop/strict")))


def record(
    flow: Flow = FLOW, *, window: int = 0, node: str = "node-1", connections: int = 1, packets: int | None = None
) -> FlowRecord:
    start_s = START_S + 15 * window
    return FlowRecord(
        flow=flow,
        node=node,
        window_start_s=start_s,
        window_s=15,
        first_seen_s=start_s + 1,
        last_seen_s=start_s + 2,
        connections=connections,
        packets=packets,
        octets=packets,
    )


def merged(flow: Flow = FLOW) -> MergedFlow:
    return MergedFlow(record(flow), flow)
