"""Handlers of questions about connections: explain, what-if, and the names for their pickers."""

import asyncio
import tempfile

from collections.abc import Sequence
from pathlib import Path

import orjson

from aiohttp import web

from netpolq import explain, reachability
from netpolq.addresses import parse_address
from netpolq.errors import NetpolqError
from netpolq.explain import endpoints, manifests
from netpolq.explain.known import Known
from netpolq.explain.merge import NewHas, merged
from netpolq.flows.record import FlowRecord
from netpolq.ui.api.errors import RequestError
from netpolq.ui.api.parts import Ui, json_answer, now_s, number_of, parts, query_of
from netpolq.ui.manifest import manifest_text
from netpolq.ui.objects import copy_of
from netpolq.ui.state.history import History
from netpolq.ui.state.minutes import minute_of

MAX_BODY_BYTES = 1 << 20
MAX_ENDS = 200
DEFAULT_ENDS = 50
_RECORDS_AT_ONCE = 5000
_PARAMETERS = {"--src": "source", "--dst": "destination", "--port": "port", "--protocol": "protocol"}
_CONTENT_TYPES = frozenset({"text/plain", "application/yaml", "application/json"})


async def get_explain(request: web.Request) -> web.Response:
    """The answer of `netpolq explain`."""
    query, ui = query_of(request, "source", "destination", "protocol", "port"), parts(request)
    for name in ("source", "destination"):
        if not query.get(name):
            raise ValueError(f"parameter {name}: is required, as in {name}=shop/web-0")
    question = explain.Question(
        source=query["source"],
        destination=query["destination"],
        protocol=query.get("protocol") or "TCP",
        port=query.get("port") or None,
    )
    try:
        known = await _known_for(ui, (question.source, question.destination))
        answered = await ui.compute(lambda: explain.answer(lambda _ends: copy_of(known), question))
    except NetpolqError as error:
        raise ValueError(_named_as_parameter(str(error))) from error
    return json_answer(
        {"answer": orjson.loads(answered.json()), "text": answered.text(), "objects": known.origin.line or known.origin.where}
    )


def _named_as_parameter(text: str) -> str:
    """An error of the command, with the name of the parameter in place of the flag."""
    flag, colon, rest = text.partition(":")
    return f"parameter {_PARAMETERS[flag]}{colon}{rest}" if flag in _PARAMETERS else text


async def _known_for(ui: Ui, ends: Sequence[str]) -> Known:
    """The objects for a question. Services and workloads of a cluster are listed only when they are asked about."""
    if ui.source.name == "cluster" and any(endpoints.kind_of(end) != "Pod" for end in ends):
        return await ui.source.objects(ends)
    return (await ui.objects.get()).known


async def post_what_if(request: web.Request) -> web.Response:
    """The answer of `netpolq diff` about connections that were seen, for the manifests in the body."""
    if request.content_type not in _CONTENT_TYPES:
        raise RequestError(415, f"the type {request.content_type!r} is not allowed; allowed: {', '.join(sorted(_CONTENT_TYPES))}")
    query, ui = query_of(request, "since", "new_has"), parts(request)
    since_s = number_of(query.get("since", "3600"), "since", 1, 3600)
    allowed = (NewHas.CHANGES.value, NewHas.POLICIES.value)
    new_has = query.get("new_has", NewHas.CHANGES.value)
    if new_has not in allowed:
        raise ValueError(f"parameter new_has: {new_has[:40]!r} is not allowed; allowed: {' or '.join(allowed)}")
    body = await request.read()
    if not body.strip():
        raise ValueError("the body is empty; send the manifests of the changed objects")
    old = (await ui.objects.get()).known
    records = await _records(ui.agents.history, since_s)
    compared = await ui.compute(lambda: _compared(old, body, NewHas(new_has), records))
    return json_answer(
        {
            "difference": orjson.loads(compared.json()),
            "text": compared.text(),
            "cuts": compared.counted,
            "rejections": compared.new.rejections,
        }
    )


def _compared(old: Known, body: bytes, new_has: NewHas, records: Sequence[FlowRecord]) -> reachability.Compared:
    suffix = ".json" if body.lstrip()[:1] in {b"{", b"["} else ".yaml"
    with tempfile.TemporaryDirectory(prefix="netpolq-ui-") as folder:
        path = Path(folder, f"manifests{suffix}")
        path.write_bytes(body)
        new = manifests.load(path)
    before = copy_of(old)
    after = merged(before, new, new_has)
    return reachability.compared(old=before, new=after, places=("the present objects", "the manifests"), records=records)


async def _records(history: History, since_s: int) -> list[FlowRecord]:
    """A record for each flow that was seen in a time. Other tasks have their turn in between."""
    from_s = now_s() - since_s
    minute = minute_of(from_s)
    records: list[FlowRecord] = []
    for number, kept in enumerate(list(history.flows.values()), 1):
        if kept.last_seen_s >= from_s:
            records.append(
                FlowRecord(
                    flow=kept.flow,
                    node=kept.node,
                    window_start_s=kept.first_seen_s,
                    window_s=kept.last_seen_s - kept.first_seen_s,
                    first_seen_s=kept.first_seen_s,
                    last_seen_s=kept.last_seen_s,
                    connections=kept.since(minute).connections,
                )
            )
        if not number % _RECORDS_AT_ONCE:
            await asyncio.sleep(0)
    return records


async def get_ends(request: web.Request) -> web.Response:
    """Names for pickers that contain a text: those that begin with it first."""
    query, ui = query_of(request, "text", "limit"), parts(request)
    limit = number_of(query.get("limit", str(DEFAULT_ENDS)), "limit", 1, MAX_ENDS)
    known = (await ui.objects.get()).known
    text = query.get("text", "").strip().lower()
    return json_answer({"ends": await ui.compute(lambda: _ends(known, text, limit))})


def _ends(known: Known, text: str, limit: int) -> list[dict[str, object]]:
    found: list[tuple[bool, str, str, str | None]] = []

    def add(identity: str, kind: str, namespace: str | None) -> None:
        if text in identity.lower():
            is_start = identity.lower().startswith(text) or identity.lower().partition("/")[2].startswith(text)
            found.append((not is_start, identity, kind, namespace))

    for namespace, name in known.store.pods:
        add(f"{namespace}/{name}", "pod", namespace)
    if known.others is not None:
        for kind, namespace, name in known.others.workloads:
            add(f"{kind.lower()}/{namespace}/{name}", "workload", namespace)
        for namespace, name in known.others.services:
            add(f"service/{namespace}/{name}", "service", namespace)
    for name in {name for names in known.store.names.values() for name in names}:
        add(name, "name", None)
    if _is_address(text):
        found.append((False, text, "address", None))
    return [{"id": identity, "kind": kind, "namespace": namespace} for _late, identity, kind, namespace in sorted(found)[:limit]]


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except ValueError:
        return False
    return True


async def get_policy_yaml(request: web.Request) -> web.Response:
    """The manifest of a policy."""
    query, ui = query_of(request, "id"), parts(request)
    held = await ui.objects.get()
    found = next((one for one in held.policies if one.id == query.get("id")), None)
    if found is None:
        raise RequestError(404, f"there is no policy {query.get('id', '')[:300]!r}; GET /api/policies lists them")
    if found.policy is None:
        raise RequestError(
            404, f"nothing of {found.id} can be used, so there is no manifest of it here: {found.fields['problem']}"
        )
    text = await ui.source.manifest(found.policy)
    if text is None:
        note = "Written from what the agent has: labels, annotations of other programs and comments are missing."
        text = manifest_text(found.policy, (note,))
    return web.Response(text=text, content_type="text/plain")
