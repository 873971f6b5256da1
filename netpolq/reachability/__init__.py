"""The work of `netpolq matrix` and `netpolq diff`: which workloads may reach which, and what differs between two versions of manifests.

Both read manifests, need no agent and no privileges, and use the evaluator of `netpolq explain`.
"""

import sys

from pathlib import Path

from netpolq.enums import Protocol
from netpolq.errors import ExitCode, NetpolqError
from netpolq.explain.manifests import load, report
from netpolq.reachability import render_difference, render_matrix
from netpolq.reachability.cluster import Cluster
from netpolq.reachability.difference import Difference, End, compare, matched, presence, questions_between
from netpolq.reachability.grouping import By, groups_of, outside_group, without_own_address
from netpolq.reachability.matrix import matrix_of
from netpolq.reachability.outside import outside_addresses
from netpolq.reachability.ports import PortRange, distinguished
from netpolq.reachability.render_matrix import MatrixFormat

__all__ = ["By", "MatrixFormat", "show_difference", "show_matrix"]


def show_matrix(*, manifests: Path, by: By, protocol: Protocol | None, port: int | None, output: MatrixFormat) -> int:
    """Write the matrix of a folder or file to standard output, and rejections of manifests to standard error.

    `protocol` None: every protocol, or TCP with a `port`. `port` None: every port. Returns the exit code. Raises `NetpolqError` if no pod
    owns an address, or for a cluster that is too large.
    """
    store = load(manifests).store
    report(store.rejections)
    groups = groups_of(store, by)
    if not groups:
        raise NetpolqError(f"--manifests {str(manifests)!r}: {_NO_PODS}")
    ranges = distinguished((store,), protocol) if port is None else (PortRange(protocol or Protocol.TCP, port, port),)
    matrix = matrix_of(Cluster(store), groups, outside_group(groups, outside_addresses((store,))), ranges)
    left_out = without_own_address(store)
    if output is MatrixFormat.JSON:
        sys.stdout.write(render_matrix.as_json(matrix, left_out, store.rejections))
    else:
        sys.stdout.write(render_matrix.TABLES[output](matrix))
    return ExitCode.OK


def show_difference(*, old: Path, new: Path, as_json: bool) -> int:
    """Write what differs between two folders or files to standard output, and rejections of their manifests to standard error.

    Returns the exit code: 0 if no connection changes, otherwise 8. Raises `NetpolqError` if no pod owns an address, or for a cluster that
    is too large.
    """
    stores = load(old).store, load(new).store
    groups = []
    for name, path, store in zip(("OLD", "NEW"), (old, new), stores, strict=True):
        report(store.rejections, str(path))
        groups.append(groups_of(store, By.WORKLOAD))
        if not groups[-1]:
            raise NetpolqError(f"{name} {str(path)!r}: {_NO_PODS}")
    ends, workloads = matched(*groups)
    addresses = outside_addresses(stores)
    outside = End(outside_group((), addresses).name, addresses, addresses)
    clusters = Cluster(stores[0]), Cluster(stores[1])
    changes = tuple(compare(*clusters, questions_between(ends, outside, distinguished(stores))))
    namespaces, pods = presence(*stores)
    difference = Difference(changes=changes, workloads=workloads, namespaces=namespaces, pods=pods)
    rejections = {"old": stores[0].rejections, "new": stores[1].rejections}
    text = render_difference.as_json(difference, clusters, rejections) if as_json else render_difference.as_text(difference)
    sys.stdout.write(text)
    return ExitCode.UNEXPECTED if changes else ExitCode.OK


_NO_PODS = "no pod in the manifests owns an address; pods need status.podIPs, as in the output of `kubectl get pods -A -o json`"
