"""The work of `netpolq matrix` and `netpolq diff`: which workloads may reach which, and what differs between two states of a cluster.

Both get the objects from the command, and use the evaluator of `netpolq explain`.
"""

import sys

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netpolq.addresses import AddressKey
from netpolq.enums import Protocol
from netpolq.errors import ExitCode, NetpolqError
from netpolq.explain.known import Known
from netpolq.explain.manifests import report
from netpolq.explain.workloads import add_all_without_pods
from netpolq.flows.record import FlowRecord
from netpolq.logs import one_line
from netpolq.reachability import render_difference, render_matrix
from netpolq.reachability.cluster import Cluster
from netpolq.reachability.difference import Difference, End, compare, matched, presence, questions_between
from netpolq.reachability.grouping import By, groups_of, outside_group, without_own_address
from netpolq.reachability.matrix import matrix_of
from netpolq.reachability.observed import Observed, observed
from netpolq.reachability.outside import outside_addresses
from netpolq.reachability.ports import PortRange, distinguished
from netpolq.reachability.render_matrix import MatrixFormat

__all__ = ["By", "Compared", "MatrixFormat", "compared", "show_difference", "show_matrix"]


def show_matrix(*, known: Known, place: str, by: By, protocol: Protocol | None, port: int | None, output: MatrixFormat) -> int:
    """Write the matrix of objects to standard output, and what cannot be used in them to standard error.

    `place`: where the objects come from, for errors. `protocol` None: every protocol, or TCP with a `port`. `port` None: every port.
    Returns the exit code. Raises `NetpolqError` if no pod owns an address and no workload has a template, or for a cluster that is too
    large.
    """
    report(known.rejections)
    left_out = without_own_address(known.store)
    add_all_without_pods(known)
    store = known.store
    groups = groups_of(store, by, _templates(known))
    if not groups:
        raise NetpolqError(f"{place}: {_NO_PODS}")
    ranges = distinguished((store,), protocol) if port is None else (PortRange(protocol or Protocol.TCP, port, port),)
    cluster = Cluster(store, enforcement=known.enforcement)
    matrix = matrix_of(cluster, groups, outside_group(groups, outside_addresses((store,))), ranges)
    if output is MatrixFormat.JSON:
        sys.stdout.write(render_matrix.as_json(matrix, left_out, known.rejections, known.origin.fields))
    else:
        _tell_origin("policies", known)
        sys.stdout.write(render_matrix.TABLES[output](matrix))
    return ExitCode.OK


def show_difference(
    *, old: Known, new: Known, places: tuple[str, str], as_json: bool, records: Sequence[FlowRecord] | None = None
) -> int:
    """Write what differs between two states of objects to standard output, and what cannot be used in them to standard error.

    `places`: where they come from, for errors. `records`: only connections that were seen in them are compared; None: all. Returns the exit
    code: 0 if no connection changes (with `records`: none is cut), otherwise 8. Raises `NetpolqError` if no
    pod owns an address and no workload has a template, or for a cluster that is too large.
    """
    for place, known in zip(places, (old, new), strict=True):
        report(known.rejections, place)
    found = compared(old=old, new=new, places=places, records=records)
    if as_json:
        sys.stdout.write(found.json())
    else:
        _tell_origin("OLD", old)
        _tell_origin("NEW", new)
        sys.stdout.write(found.text())
    return ExitCode.UNEXPECTED if found.counted else ExitCode.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What differs between two states of objects. `seen`: the connections that were compared, None: all."""

    old: Known
    new: Known
    difference: Difference
    clusters: tuple[Cluster, Cluster]
    seen: Observed | None

    @property
    def counted(self) -> int:
        """How many connections change; of those that were seen, how many are cut."""
        changes = self.difference.changes
        return len(changes) if self.seen is None else sum(change.cuts for change in changes)

    def json(self) -> str:
        """One JSON object; see `render_difference`."""
        rejections = {"old": self.old.rejections, "new": self.new.rejections}
        origins = {"old": self.old.origin.fields, "new": self.new.origin.fields}
        return render_difference.as_json(self.difference, self.clusters, rejections, origins, self.seen)

    def text(self) -> str:
        """The difference in words; see `render_difference`."""
        return render_difference.as_text(self.difference, self.seen)


def compared(*, old: Known, new: Known, places: tuple[str, str], records: Sequence[FlowRecord] | None = None) -> Compared:
    """Return what differs between two states of objects; see `show_difference`. Pods that stand for templates are added to both."""
    stores = old.store, new.store
    namespaces, pods = presence(*stores)
    groups = []
    for name, place, known in zip(("OLD", "NEW"), places, (old, new), strict=True):
        add_all_without_pods(known)
        groups.append(groups_of(known.store, By.WORKLOAD, _templates(known)))
        if not groups[-1]:
            hint = "; if NEW is to be applied to OLD, give --new-has changes or --new-has policies" if name == "NEW" else ""
            raise NetpolqError(f"{name} {place!r}: {_NO_PODS}{hint}")
    ends, workloads = matched(*groups)
    addresses = outside_addresses(stores)
    outside = End(outside_group((), addresses).name, addresses, addresses)
    before, after = (Cluster(side.store, _templates(side).keys(), enforcement=side.enforcement) for side in (old, new))
    seen = None if records is None else observed(records, (*groups[0], *groups[1]), ends)
    questions = questions_between(ends, outside, distinguished(stores)) if seen is None else seen.in_order()
    changes = tuple(compare(before, after, questions))
    found = Difference(changes=changes, workloads=workloads, namespaces=namespaces, pods=pods)
    return Compared(old=old, new=new, difference=found, clusters=(before, after), seen=seen)


def _templates(known: Known) -> Mapping[AddressKey, str]:
    return {} if known.others is None else {address: workload.name for address, workload in known.others.synthetic.items()}


def _tell_origin(name: str, known: Known) -> None:
    if known.origin.line:
        sys.stderr.write(f"{one_line(f'{name}: {known.origin.line}')}\n")


_NO_PODS = (
    "no pod owns an address, and there is no workload with a pod template; pods need status.podIPs, as in the output of "
    "`kubectl get pods -A -o json`"
)
