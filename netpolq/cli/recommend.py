"""The command `recommend`: writes NetworkPolicies that allow what flow records show."""

import gc
import io
import os
import shlex

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from netpolq.cli.command import Command, plain
from netpolq.cli.manifests import require_folder_or_file
from netpolq.enums import Direction
from netpolq.errors import ExitCode
from netpolq.settings.command_flags import (
    BY_DOMAIN_NAMES,
    FLOWS,
    FOR_AUDIT,
    INCLUDE_DENIED,
    OF_DIRECTION,
    OF_NAMESPACE,
    PODS_TO_READ,
    RECOMMEND_OPTIONS,
    RECOMMEND_OUTPUT,
    SEEN_SINCE,
)
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment

if TYPE_CHECKING:
    from netpolq.flows.record import FlowRecord

_DIRECTIONS = {
    "both": (Direction.INGRESS, Direction.EGRESS),
    "ingress": (Direction.INGRESS,),
    "egress": (Direction.EGRESS,),
}


def _run(argv: Sequence[str]) -> int:
    from netpolq import recommendation  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(RECOMMEND_OPTIONS, argv), from_environment((RUN_DIR,), os.environ))
    flows = values[FLOWS]
    request = recommendation.Request(
        options=recommendation.Options(
            namespace=values[OF_NAMESPACE],
            directions=_DIRECTIONS[values[OF_DIRECTION]],
            domain_names=values[BY_DOMAIN_NAMES],
        ),
        since_s=values[SEEN_SINCE],
        include_denied=values[INCLUDE_DENIED],
        audit=values[FOR_AUDIT],
        command=shlex.join(["netpolq", "recommend", *argv]),
        origin={"-": "standard input", "": "the agent of this node"}.get(flows, flows),
    )
    manifests = None if values[PODS_TO_READ] is None else require_folder_or_file(values[PODS_TO_READ])
    output = recommendation.RecommendFormat(values[RECOMMEND_OUTPUT])
    # Nearly all objects live until the end. To look for cycles among them takes a quarter of the time.
    gc.disable()
    try:
        records = recommendation.read_file(flows) if flows else _of_agent(values[RUN_DIR])
        return recommendation.recommend(records, request, manifests, output)
    finally:
        gc.enable()


def _of_agent(run_dir: Path) -> "list[FlowRecord]":
    from netpolq import recommendation  # noqa: PLC0415
    from netpolq.flows.table import HISTORY_S  # noqa: PLC0415
    from netpolq.supervisor import status_client  # noqa: PLC0415
    from netpolq.supervisor.flows_report import FLOWS_PATH  # noqa: PLC0415

    _head, *lines = status_client.lines(run_dir, f"{FLOWS_PATH}?since={HISTORY_S}")
    return recommendation.read_lines(io.BytesIO(b"\n".join(lines)), "the agent's answer")


RECOMMEND = Command(
    run=_run,
    usage="[flags]",
    summary="Write policies that allow what was seen in flow records.",
    about=(
        "The flows are those of a file, or, without --flows, of the last hour of the agent of this node, for root. For a whole cluster, "
        "pipe `netpolq flows --kubeconfig FILE --since 1h -o json` into --flows=-.",
        "One NetworkPolicy for each workload that was an end of a flow, with the fewest rules that allow what was seen and nothing else: "
        "pods by labels that outlast rollouts, addresses outside the cluster as blocks. Comments have the evidence of each rule, and what "
        "a NetworkPolicy cannot express, such as ICMP. What was denied is not allowed (see --include-denied).",
        "Before anything is printed, the policies are compiled and asked: every connection in the records must be allowed, and a sample "
        "of connections that were not seen must be denied.",
    ),
    groups=plain(*RECOMMEND_OPTIONS),
    exit_codes={
        ExitCode.FAILED: "No flow to recommend a policy for, a line that is no flow record, or a verification that failed."
    },
    # Each example was run, with files like those of its test.
    examples=(
        "# policies for one namespace, from what was seen in the last day of the records",
        "netpolq recommend --flows flows.jsonl --namespace shop --since 24h",
        "# with the names of ports, and with selectors that leave out idle pods; for audit first; pods.json: `kubectl get pods -A -o json`",
        "netpolq recommend --flows flows.jsonl --manifests pods.json --audit > policies.yaml",
        "# ingress only, for a program",
        "netpolq recommend --flows flows.jsonl --direction ingress -o json > policies.json",
    ),
)
