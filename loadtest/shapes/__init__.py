"""The shapes of load by their names on the command line; each is one module."""

from collections.abc import Callable

from loadtest.measure import Shape
from loadtest.parameters import Parameters
from loadtest.shapes.cold_tuples import ColdTuples
from loadtest.shapes.connect_latency import ConnectLatency
from loadtest.shapes.control_plane import ControlPlane
from loadtest.shapes.denied_flood import DeniedFlood
from loadtest.shapes.established import Established
from loadtest.shapes.known_connections import KnownConnections
from loadtest.shapes.new_flows import NewFlows
from loadtest.shapes.not_isolated import NotIsolated
from loadtest.shapes.policy_scale import PolicyScale
from loadtest.shapes.repeated_decisions import RepeatedDecisions
from loadtest.shapes.workers import Workers

SHAPES: dict[str, Callable[[Parameters], Shape]] = {
    NewFlows.name: NewFlows,
    PolicyScale.name: PolicyScale,
    ColdTuples.name: ColdTuples,
    Workers.name: Workers,
    ConnectLatency.name: ConnectLatency,
    RepeatedDecisions.name: RepeatedDecisions,
    DeniedFlood.name: DeniedFlood,
    Established.name: Established,
    KnownConnections.name: KnownConnections,
    NotIsolated.name: NotIsolated,
    ControlPlane.name: ControlPlane,
}
"""The shapes in the order of their runs and of the report."""
