"""The documents about the present state: map, flows, policies and nodes. Each is a head and lists of items with ids.

A document is made from the whole state, and the same request gets the same document as long as nothing changes: clients with equal
filters share one.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

from netpolq.flows.record import time_text
from netpolq.flows.table import HISTORY_S
from netpolq.ui.api.parts import Ui, now_s
from netpolq.ui.policies import policies_fields
from netpolq.ui.state.filters import Filters
from netpolq.ui.state.flow_list import flow_list
from netpolq.ui.state.graph import graph
from netpolq.ui.state.hits import hits

MAX_KEPT = 16
"""Documents that are kept for other clients."""

Item = Mapping[str, object]


class Document(NamedTuple):
    """`sections`: lists of items by name, in the order in which they are shown."""

    head: dict[str, object]
    sections: dict[str, list[dict[str, object]]]

    def fields(self) -> dict[str, object]:
        """The whole document."""
        return {"head": self.head, **self.sections}


class Documents:
    """Makes documents, and keeps the newest ones."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self._kept: OrderedDict[Hashable, tuple[Hashable, Document]] = OrderedDict()

    def map(self, filters: Filters) -> Document:
        """The graph of workloads."""
        return self._kept_or("map", filters, self.flows_version, lambda: self._map(filters))

    def flows(self, filters: Filters, limit: int) -> Document:
        """The newest flows."""
        return self._kept_or("flows", (filters, limit), self.flows_version, lambda: self._flows(filters, limit))

    def policies(self) -> Document:
        """The policies of the objects that are held."""
        return self._kept_or("policies", None, self.policies_version, self._policies)

    def nodes(self) -> Document:
        """The states of agents."""
        return self._kept_or("nodes", None, self.nodes_version, self._nodes)

    def flows_version(self) -> Hashable:
        """Changes with what a document about flows shows."""
        return self._ui.agents.history.version, self._ui.agents.version

    def policies_version(self) -> Hashable:
        """Changes with what the document about policies shows. Asks for newer objects."""
        self._ui.objects.refresh()
        return self._ui.agents.history.version, self._ui.agents.version, self._ui.objects.generation

    def nodes_version(self) -> Hashable:
        """Changes with what the document about nodes shows."""
        return self._ui.agents.version

    def _kept_or(self, name: str, asked: Hashable, version: Callable[[], Hashable], make: Callable[[], Document]) -> Document:
        key, present = (name, asked), version()
        kept = self._kept.get(key)
        if kept is not None and kept[0] == present:
            return kept[1]
        made = make()
        self._kept[key] = present, made
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return made

    def _head(self, at_s: float) -> dict[str, object]:
        return {"at": time_text(at_s), "agents": self._ui.agents.agents_fields()}

    def _map(self, filters: Filters) -> Document:
        at_s = now_s()
        found = graph(self._ui.agents.history, filters, at_s)
        head = {
            **self._head(at_s),
            "since_s": filters.since_s,
            "connections": found.connections,
            "left_out": found.left_out,
        }
        return Document(head, {"nodes": found.nodes, "edges": found.edges})

    def _flows(self, filters: Filters, limit: int) -> Document:
        at_s = now_s()
        found = flow_list(self._ui.agents.history, filters, at_s, limit)
        head = {
            **self._head(at_s),
            "since_s": filters.since_s,
            "flows": found.total,
            "shown": len(found.flows),
            "connections": found.connections,
        }
        return Document(head, {"flows": found.flows})

    def _policies(self) -> Document:
        at_s = now_s()
        held = self._ui.objects.held
        shown = () if held is None else held.policies
        head = {
            **self._head(at_s),
            "observed_since": time_text(self._observed_since_s(at_s)),
            "objects": "" if held is None else held.line,
            "problem": self._ui.objects.problem or None,
        }
        return Document(head, {"policies": policies_fields(shown, hits(self._ui.agents.history, at_s))})

    def _observed_since_s(self, at_s: float) -> float:
        """From when on the flows of all agents are known, at most an hour ago."""
        started = [min(state.head.started_s, at_s) for state in self._ui.agents.nodes.values() if state.head is not None]
        return max([at_s - HISTORY_S, *started])

    def _nodes(self) -> Document:
        states = sorted(self._ui.agents.nodes.values(), key=lambda state: state.node)
        return Document(self._head(now_s()), {"nodes": [state.fields() for state in states]})
