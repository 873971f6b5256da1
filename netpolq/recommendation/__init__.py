"""The work of `netpolq recommend`: from observed flows, the NetworkPolicies that allow what was seen, verified before they are printed."""

import sys

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import orjson

from netpolq.addresses import AddressKey, format_address
from netpolq.errors import ExitCode, NetpolqError
from netpolq.explain.manifests import load, report
from netpolq.flows.record import FlowRecord
from netpolq.logs import one_line
from netpolq.recommendation.builder import Options, Recommendation, build
from netpolq.recommendation.manifests import comments_of, objects_of, time_text
from netpolq.recommendation.policies import Policy, counted
from netpolq.recommendation.records import read_file, read_lines
from netpolq.recommendation.traffic import Traffic, known_pods, recent, traffic_of
from netpolq.recommendation.verification import Verified, verify
from netpolq.recommendation.yaml_writer import comment_lines, document, plain
from netpolq.store import Store

__all__ = ["Options", "RecommendFormat", "Request", "read_file", "read_lines", "recommend", "recommended", "yaml_of"]

MAX_SHOWN_NODES = 10


class RecommendFormat(StrEnum):
    """The output format of a recommendation."""

    YAML = "yaml"
    JSON = "json"


class Request(NamedTuple):
    """A request for policies. `since_s`: of the records, before the newest one; None: all. `include_denied`: denied flows are wanted, too.

    `audit`: the policies get the annotation for audit. `command`: the command line, for the header. `origin`: of the records, for errors.
    """

    options: Options
    since_s: float | None = None
    include_denied: bool = False
    audit: bool = False
    command: str = ""
    origin: str = "the flow records"


class Answer(NamedTuple):
    """A verified recommendation. `manifests`: the policies in YAML, as they were verified."""

    policies: tuple[Policy, ...]
    header: tuple[str, ...]
    manifests: str


def recommend(records: list[FlowRecord], request: Request, manifests: Path | None, output: RecommendFormat) -> int:
    """Write the policies for records to standard output. In JSON, which has no comments, the header goes to standard error.

    `manifests`: a folder or a file with further pods. Returns the exit code. Raises `NetpolqError`: without wanted flows, and if the
    verification fails.
    """
    store = None if manifests is None else load(manifests).store
    if store is not None:
        report(store.rejections)
    answer = recommended(records, request, store)
    header = "".join(f"{line}\n" for line in comment_lines(answer.header))
    if output is RecommendFormat.JSON:
        items = [plain(item) for policy in answer.policies for item in objects_of(policy, audit=request.audit)]
        sys.stderr.write(header)
        sys.stdout.write(
            orjson.dumps(
                {"apiVersion": "v1", "kind": "List", "items": items}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            ).decode()
        )
    else:
        sys.stdout.write(header + (yaml_of(answer.policies, audit=True) if request.audit else answer.manifests))
    return ExitCode.OK


def recommended(records: list[FlowRecord], request: Request, store: Store | None = None) -> Answer:
    """Return the verified policies for records. `store`: objects of manifests. Raises `NetpolqError`, see `recommend`."""
    if not records:
        raise NetpolqError(
            f"{request.origin}: no flow records; let the agents record flows for some time, and give what they recorded"
        )
    pods = known_pods(records)
    nodes: Mapping[AddressKey, str] = {}
    if store is not None:
        pods.add_manifests(store.pods.values())
        nodes = {AddressKey(address): name for name, found in sorted(store.addresses_of_nodes().items()) for address in found}
    traffic = traffic_of(
        recent(records, request.since_s), pods, namespace=request.options.namespace, include_denied=request.include_denied
    )
    if not traffic.seen:
        raise NetpolqError(f"{request.origin}: {_nothing_wanted(traffic, request)}")
    recommendation = build(traffic, pods, request.options, nodes)
    policies = tuple(recommendation.policies)
    if not policies:
        raise NetpolqError(f"{request.origin}: {'; '.join(recommendation.warnings) or 'no workload to recommend a policy for'}")
    # The annotation changes what is enforced, and not what the policies say, so it is left out here.
    manifests = yaml_of(policies, audit=False)
    verified = verify(manifests, recommendation, traffic, pods)
    return Answer(policies, tuple(_header(request, traffic, recommendation, verified, store)), manifests)


def yaml_of(policies: Iterable[Policy], *, audit: bool) -> str:
    """Return policies as YAML documents with comments. `audit`: with the annotation for audit."""
    return "".join(
        f"---\n{document(item, comments_of(policy) if number == 0 else (f'{policy.namespace}/{policy.name}: domain names',))}"
        for policy in policies
        for number, item in enumerate(objects_of(policy, audit=audit))
    )


def _nothing_wanted(traffic: Traffic, request: Request) -> str:
    parts = []
    if traffic.unwanted:
        parts.append(f"{counted(traffic.unwanted, 'record')} of denied connections (--include-denied takes them as wanted)")
    if traffic.elsewhere:
        where = f"a pod of namespace {request.options.namespace!r}" if request.options.namespace else "a known pod"
        parts.append(f"{counted(traffic.elsewhere, 'record')} without {where}")
    return f"no flow to recommend a policy for: {' and '.join(parts) or 'only connections of pods to themselves'}"


def _header(
    request: Request, traffic: Traffic, recommendation: Recommendation, verified: Verified, store: Store | None
) -> Iterable[str]:
    yield f"Recommended by: {one_line(request.command)}" if request.command else "Recommended by netpolq"
    nodes = sorted(traffic.nodes)
    more = f" and {len(nodes) - MAX_SHOWN_NODES} more" if len(nodes) > MAX_SHOWN_NODES else ""
    from_nodes = f"{', '.join(nodes[:MAX_SHOWN_NODES])}{more}"
    counts = f"{counted(traffic.records, 'flow record')} ({counted(traffic.connections, 'connection')})"
    yield f"From {counts} of {from_nodes}, seen from {time_text(traffic.first_seen_s)} to {time_text(traffic.last_seen_s)}."
    yield (
        f"Verified: all {verified.allowed} different connections that were seen are allowed; of {verified.denied + verified.by_summary} "
        f"that were not seen, {verified.denied} are denied, and {verified.by_summary} are allowed by address blocks or domain names."
    )
    if traffic.unwanted:
        yield f"Left out: {counted(traffic.unwanted, 'flow record')} of denied connections."
    if traffic.elsewhere:
        yield f"Left out: {counted(traffic.elsewhere, 'flow record')} without a pod that the request is about."
    if traffic.resolved:
        shown = ", ".join(format_address(address) for address in sorted(traffic.resolved)[:3])
        yield f"Addresses that some records have without a pod and others with one, taken for that of the pod: {shown}."
    if store is not None:
        own = {(policy.namespace, policy.name) for policy in recommendation.policies}
        if same := sorted(own & store.policies.keys()):
            yield f"These policies replace those of the same name: {', '.join(f'{namespace}/{name}' for namespace, name in same)}."
        namespaces = {policy.namespace for policy in recommendation.policies}
        if others := sum(key[0] in namespaces and key not in own for key in store.policies):
            policies = "NetworkPolicy" if others == 1 else "NetworkPolicies"
            yield f"The manifests have {others} other {policies} of these namespaces, which may allow more."
    for warning in recommendation.warnings:
        yield f"Note: {warning}"
