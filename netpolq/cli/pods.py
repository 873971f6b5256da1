"""The command `pods`: shows the pods of this node that a running agent enforces policies for."""

import os
import re

from collections.abc import Sequence

from netpolq.cli.command import Command, first_argument, plain
from netpolq.errors import ExitCode, NetpolqError, SettingsError
from netpolq.settings.command_flags import OUTPUT, PODS_OPTIONS
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values, from_argv, from_environment

_WANTED = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?)(/([a-z0-9]([a-z0-9.-]*[a-z0-9])?))?")
"""A namespace, and a pod. Source: names of objects in the Kubernetes API, RFC 1123 labels and subdomains."""


def _run(argv: Sequence[str]) -> int:
    from dataclasses import replace  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    from netpolq.supervisor import pods_report, status_client  # noqa: PLC0415

    wanted, rest = first_argument(argv)
    values = Values(from_argv(PODS_OPTIONS, rest), from_environment((RUN_DIR,), os.environ))
    if wanted is not None and not _WANTED.fullmatch(wanted):
        raise SettingsError(f"argument {wanted!r}: invalid value; allowed: NAMESPACE or NAMESPACE/NAME")
    namespace, _slash, name = (wanted or "").partition("/")
    found = status_client.fetch_pods(values[RUN_DIR])
    shown = replace(found, pods=pods_report.matching(found.pods, namespace, name))
    if wanted and not shown.pods:
        raise NetpolqError(_missing(wanted, is_pod=bool(name), is_compiled=found.compiled))
    print((pods_report.render_json if values[OUTPUT] == "json" else pods_report.render_text)(shown))
    return ExitCode.OK


def _missing(wanted: str, *, is_pod: bool, is_compiled: bool) -> str:
    if not is_compiled:
        return "the agent has not compiled its policies yet, so it knows no pods; ask again in a moment"
    what = f"the pod {wanted!r}" if is_pod else f"pods of the namespace {wanted!r}"
    return (
        f"this agent does not enforce policies for {what}: none of this name runs on its node with an address of its own "
        "(pods with hostNetwork and completed pods have none)"
    )


PODS = Command(
    run=_run,
    usage="[NAMESPACE | NAMESPACE/NAME] [flags]",
    summary="Show the pods of this node and the policies that select them.",
    about=(
        "For each pod of the node that has an address of its own: the NetworkPolicies that isolate it for ingress and for egress, and the "
        "cluster-wide policies that decide for it. The agent tells what it has compiled. A policy that is missing here selects no such pod "
        "or has no rules in that direction.",
        "An address with (CNI result) is not reported by the API yet: the agent has it from the result of a CNI plug-in. DNS is read for "
        "pods that a policy with domain names selects for egress. A cell of the table names at most three policies where several pods are "
        "shown; a single pod and JSON have all.",
    ),
    groups=plain(*PODS_OPTIONS),
    exit_codes={ExitCode.FAILED: "The agent has no such pods, or no agent answers."},
    examples=(
        "# show all pods of the node",
        "netpolq pods",
        "# show those of a namespace",
        "netpolq pods shop",
        "# find out which policies select a pod",
        "netpolq pods shop/web-0",
        "netpolq pods shop/web-0 -o json",
    ),
)
