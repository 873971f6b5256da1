"""Renderers of a difference: text for people, one JSON object for programs."""

from collections.abc import Mapping, Sequence

import orjson

from netpolq.addresses import format_address
from netpolq.decision import decision_fields, decision_text
from netpolq.enums import Reason
from netpolq.explain.render import BECAUSE, summary
from netpolq.flows.record import time_text
from netpolq.logs import one_line
from netpolq.model import Rejection, qualified_name
from netpolq.policy.evaluator import Explanation
from netpolq.reachability.cluster import Cluster
from netpolq.reachability.difference import Change, Difference, Presence, Version
from netpolq.reachability.observed import Observed, Seen
from netpolq.reachability.ports import port_fields, ports_text

_UNDECIDED = {
    Reason.NOT_ISOLATED: "no policy decides",
    **{reason: BECAUSE[reason] for reason in (Reason.SAME_ADDRESS, Reason.OWN_NODE)},
}


def as_text(difference: Difference, seen: Observed | None = None) -> str:
    """Return the changes, each with what decides in either version, then what is in one version only. `seen`: the connections that were
    compared, None: all.
    """
    nothing = "no connection changes" if seen is None else f"none of {len(seen.questions)} connections that were seen changes"
    lines = [line for change in difference.changes for line in _change_lines(change, seen)] or [nothing]
    if seen is not None and seen.unanswerable:
        lines.append(
            f"not compared: {seen.unanswerable} records of workloads that are not in both versions, of protocols without ports, or of "
            "addresses that were not recorded"
        )
    for name, found in _presences(difference).items():
        lines += [f"{word} {name}: {', '.join(names)}" for word, names in found._asdict().items() if names]
    return "".join(f"{one_line(line)}\n" for line in lines)


def as_json(
    difference: Difference,
    clusters: tuple[Cluster, Cluster],
    rejections: Mapping[str, Sequence[Rejection]],
    origins: Mapping[str, Mapping[str, object]],
    seen: Observed | None = None,
) -> str:
    """Return one JSON object on one line. `clusters`: the old and the new one. `origins`: where their objects come from. The fields
    `origins` and `rejected` are there if there are any. `seen`: the connections that were compared, None: all.
    """
    old, new = clusters
    answer = {
        "changes": [
            {
                "source": change.source,
                "destination": change.destination,
                "ports": port_fields(change.ports),
                "old": _version_fields(old, change.old),
                "new": _version_fields(new, change.new),
                **({} if seen is None else {"seen": _seen_fields(seen.of(change))}),
            }
            for change in difference.changes
        ],
        **({} if seen is None else {"compared": len(seen.questions), "not_compared": seen.unanswerable}),
        **{name: found._asdict() for name, found in _presences(difference).items()},
        **({"origins": origins} if any(origins.values()) else {}),
        **({"rejected": rejections} if any(rejections.values()) else {}),
    }
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE).decode()


def decided_text(explanation: Explanation) -> str:
    """Return what decides a flow: the denial, or what allows it in each direction."""
    if explanation.denial is not None:
        return decision_text(explanation.denial)
    if explanation.reason in _UNDECIDED:
        return _UNDECIDED[explanation.reason]
    return "; ".join(decision_text(side.rule) for side in (explanation.egress, explanation.ingress) if side.rule is not None)


def _presences(difference: Difference) -> dict[str, Presence]:
    return {"workloads": difference.workloads, "namespaces": difference.namespaces, "pods": difference.pods}


def _seen_fields(seen: Seen) -> dict[str, object]:
    return {"connections": seen.connections, "last_seen": time_text(seen.last_seen_s)}


def _change_lines(change: Change, seen: Observed | None) -> list[str]:
    found = None if seen is None else seen.of(change)
    return [
        f"{change.source} -> {change.destination}: {ports_text(change.ports)}: {change.old.reach} -> {change.new.reach}",
        f"  old  {decided_text(change.old.explanation)}",
        f"  new  {decided_text(change.new.explanation)}",
        *([] if found is None else [f"  seen {found.connections} connections, last at {time_text(found.last_seen_s)}"]),
    ]


def _version_fields(cluster: Cluster, version: Version) -> dict[str, object]:
    explanation = version.explanation
    return {
        "connections": version.reach.value,
        "example": {
            **{name: _end_fields(cluster, address) for name, address in version.example._asdict().items()},
            **summary(explanation),
            "egress": decision_fields(explanation.egress.decision),
            "ingress": decision_fields(explanation.ingress.decision),
        },
    }


def _end_fields(cluster: Cluster, address: bytes) -> dict[str, str | None]:
    pod = cluster.owners.get(address)
    shown = None if address in cluster.templates else format_address(address)
    return {"address": shown, "pod": None if pod is None else qualified_name(pod.namespace, pod.name)}
