"""The commands `matrix` and `diff`: show which workloads may reach which, and what a change of manifests changes about that."""

import os
import time

from collections.abc import Sequence
from typing import TYPE_CHECKING

from netpolq.cli.agents import check_cluster_only, cluster_of
from netpolq.cli.command import Command, plain
from netpolq.enums import Protocol
from netpolq.errors import ExitCode, SettingsError
from netpolq.settings.command_flags import (
    AGENTS_CONTEXT,
    CLUSTER,
    DIFF_GROUPS,
    DIFF_OPTIONS,
    GROUP_BY,
    MANIFESTS_TO_READ,
    MATRIX_OPTIONS,
    MATRIX_OUTPUT,
    NEW_HAS,
    ONE_PORT,
    OUTPUT,
    SEEN_FLOWS,
    SEEN_IN_AGENTS,
    TRANSPORT,
)
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment
from netpolq.settings.value_types import Completion

if TYPE_CHECKING:
    from netpolq.flows.record import FlowRecord


def _run_matrix(argv: Sequence[str]) -> int:
    from netpolq import reachability  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
    from netpolq.cli import objects  # noqa: PLC0415

    values = Values(from_argv(MATRIX_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    read = objects.reader(values)
    by, output = reachability.By(values[GROUP_BY]), reachability.MatrixFormat(values[MATRIX_OUTPUT])
    protocol, port = Protocol[values[TRANSPORT]] if values[TRANSPORT] else None, values[ONE_PORT]
    given = next(filter(None, map(values.given, (MANIFESTS_TO_READ, CLUSTER))), None)
    place = "the agent" if given is None else f"{given.origin.removeprefix('flag ')} {given.text!r}"
    return reachability.show_matrix(known=read(None), place=place, by=by, protocol=protocol, port=port, output=output)


def _run_diff(argv: Sequence[str]) -> int:
    from netpolq import reachability  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`
    from netpolq.cli import objects  # noqa: PLC0415
    from netpolq.explain.merge import NewHas, merged  # noqa: PLC0415

    places, rest = argv[:2], argv[2:]
    if len(places) < 2 or any(place.startswith("-") for place in places):
        raise SettingsError(
            "OLD and NEW are required, before any flag, as in `netpolq diff OLD NEW`; allowed: a folder, a file, cluster: or agent:"
        )
    values = Values(from_argv(DIFF_OPTIONS, rest), from_environment((RUN_DIR,), os.environ))
    readers = [objects.reader_of_place(name, place, values) for name, place in zip(("OLD", "NEW"), places, strict=True)]
    _check_seen(values, places)
    new_has = NewHas(values[NEW_HAS])
    old, new = (read(None) for read in readers)
    records, incomplete = _seen(values, places)
    code = reachability.show_difference(
        old=old,
        new=merged(old, new, new_has),
        places=(places[0], places[1]),
        as_json=values[OUTPUT] == "json",
        records=records,
    )
    # That a connection is cut is certain; that none is, is not if some agents could not be asked.
    return code if code != ExitCode.OK else incomplete


def _check_seen(values: Values, places: Sequence[str]) -> None:
    """Raises `SettingsError` for flags about flows that do not fit together."""
    flows, since, context = (values.given(option) for option in (SEEN_FLOWS, SEEN_IN_AGENTS, AGENTS_CONTEXT))
    has_since = values[SEEN_IN_AGENTS] is not None
    if has_since and since is not None and flows is not None and flows.text:
        raise SettingsError(f"{since.origin}: {since.text!r} cannot be combined with --flows; allowed: one of the two")
    is_cluster = has_since and bool(values[CLUSTER])
    check_cluster_only(values, is_cluster=is_cluster, advice="give --since and --kubeconfig FILE, too")
    if context is not None and not is_cluster:
        raise SettingsError(f"{context.origin}: {context.text!r} needs --since and --kubeconfig FILE")
    if values.given(CLUSTER) is not None and not is_cluster and not any(map(_is_cluster, places)):
        raise SettingsError("--kubeconfig: neither OLD nor NEW is cluster: or cluster:CONTEXT, and no --since asks its agents")


def _seen(values: Values, places: Sequence[str]) -> "tuple[list[FlowRecord] | None, ExitCode]":
    """Return the records of what was seen, None if everything is to be compared, and whether all agents could be asked."""
    since_s = values[SEEN_IN_AGENTS]
    if since_s is None:
        from netpolq import recommendation  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

        return recommendation.read_file(values[SEEN_FLOWS]) if values[SEEN_FLOWS] else None, ExitCode.OK
    from netpolq.flow_view.local import Question, show  # noqa: PLC0415
    from netpolq.flow_view.outputs import Collected  # noqa: PLC0415
    from netpolq.flows.filter import FlowFilter  # noqa: PLC0415

    collected, code = Collected(), ExitCode.OK
    question = Question(wanted=FlowFilter(), since_s=since_s, follow=False)
    from_s = time.time() - since_s
    if values[CLUSTER]:
        import asyncio  # noqa: PLC0415

        from netpolq.flow_view import remote  # noqa: PLC0415

        contexts = (place.partition(":")[2] for place in places if _is_cluster(place))
        cluster = cluster_of(values, values[CLUSTER], values[AGENTS_CONTEXT] or next(contexts, ""))
        code = asyncio.run(remote.show(cluster, question, collected))
    else:
        show(values[RUN_DIR], question, collected)
    collected.close(from_s)
    return list(collected.records()), code


def _is_cluster(place: str) -> bool:
    from netpolq.cli.objects import CLUSTER_PLACE  # noqa: PLC0415

    return place.startswith(CLUSTER_PLACE)


MATRIX = Command(
    run=_run_matrix,
    usage="[flags]",
    summary="Show which workloads may reach which.",
    about=(
        "Rows are sources, columns are destinations; `outside` is an address that belongs to no pod and that no address block of a policy "
        "contains. A cell has `all` or `none`, or the allowed ports; `some`: for a part of the pods or addresses only; `-`: there are no "
        "two addresses to connect. Every port that a policy distinguishes is evaluated, as by `netpolq explain`. `other protocols` are "
        "those without ports, such as ICMP.",
        "Pods of a namespace with equal labels are one workload; labels that controllers add do not count. A Deployment, StatefulSet, "
        "DaemonSet, ReplicaSet, Job, CronJob or ReplicationController without pods is one, too, by its pod template. Pods that own no "
        "address (hostNetwork, completed, or none yet) are in no row; -o json lists them. Domain names in policies match nothing here.",
        "The objects come from --manifests, or from the API server of --kubeconfig, which is asked once. Otherwise the running agent of "
        "this node tells all of its objects; that needs root or its user.",
    ),
    groups=plain(*MATRIX_OPTIONS),
    # Each example was run, with manifests like those of its test.
    examples=(
        "# which workloads may reach which, and at which ports",
        "netpolq matrix --manifests manifests",
        "# from which namespaces can a database be reached",
        "netpolq matrix --manifests manifests --by namespace --port 5432",
        "# of the cluster; of the agent of this node",
        "netpolq matrix --kubeconfig ~/.kube/config --by namespace",
        "netpolq matrix",
        "# one protocol; a single file; a table for a document, or for a spreadsheet",
        "netpolq matrix --manifests policies.yaml --protocol UDP -o markdown",
        "netpolq matrix --manifests policies.yaml -o csv > matrix.csv",
    ),
)
DIFF = Command(
    run=_run_diff,
    usage="OLD NEW [flags]",
    summary="Show which connections a change allows or denies.",
    about=(
        "OLD and NEW: folders or files of manifests; cluster: for the API server of --kubeconfig, cluster:CONTEXT for another context; "
        "agent: for the running agent of this node. For each pair of workloads (as of `netpolq matrix`) and for `outside`, the answer "
        "lists the ports at which connections are allowed in one version and denied in the other, and the policy and rule that decide in "
        "each. Workloads that are in one version only are listed and not compared; so are namespaces and pods.",
        "With --new-has changes, NEW has objects that are applied to OLD, as kubectl apply does; everything else, such as the pods, is "
        "that of OLD. With --new-has policies, policies of OLD that NEW lacks are gone, too, in the namespaces of which NEW has policies.",
        "With --since or --flows, only connections that were seen are compared, each with how often; so a pipeline finds out what a change "
        "would cut. --since asks the running agents; --flows reads records that were written before, as by `netpolq flows --kubeconfig "
        "FILE --since 1h -o json > flows.jsonl`. Connections that would only be allowed are shown, too.",
    ),
    groups=DIFF_GROUPS,
    paths=Completion.FILES,
    exit_codes={
        ExitCode.OK: "No connection changes; with --since or --flows: none that was seen is cut.",
        ExitCode.FAILED: "Objects cannot be read; with --since: no agent has answered, or it does not record flows.",
        ExitCode.UNEXPECTED: "A connection changes; with --since or --flows: one that was seen is cut.",
        ExitCode.INCOMPLETE: "With --since: some agents of the cluster could not be read, and nothing that the others have seen is cut.",
    },
    # Each example was run, with manifests like those of its test.
    examples=(
        "# what does a change of policies allow or deny",
        "netpolq diff manifests manifests-new",
        "# what would a folder of policies change in the cluster: if applied; if it replaces all policies",
        "netpolq diff cluster: policies --kubeconfig ~/.kube/config --new-has changes",
        "netpolq diff cluster: policies --kubeconfig ~/.kube/config --new-has policies",
        "# two files, for a program",
        "netpolq diff policies.yaml policies-new.yaml -o json",
        "# would anything that was seen be cut: of records in a file; of the last hour of this node; of the last hour of a cluster",
        "netpolq diff manifests manifests-new --flows flows.jsonl",
        "netpolq diff agent: policies --new-has changes --since 1h",
        "netpolq diff cluster: policies --kubeconfig ~/.kube/config --new-has changes --since 1h",
    ),
)
