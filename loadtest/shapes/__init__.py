"""The shapes of load, one module each, by their names on the command line."""

from collections.abc import Callable

from loadtest.measure import Shape
from loadtest.parameters import Parameters
from loadtest.shapes.new_flows import NewFlows

SHAPES: dict[str, Callable[[Parameters], Shape]] = {
    NewFlows.name: NewFlows,
}
"""In the order in which they run and are reported."""
