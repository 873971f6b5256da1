"""Handlers of the documents about the present state, and of their streams."""

import asyncio

from collections.abc import Awaitable, Callable

from aiohttp import web

from netpolq.ui.access import USER
from netpolq.ui.api.documents import Documents
from netpolq.ui.api.parts import json_answer, now_s, number_of, parts
from netpolq.ui.api.stream import stream
from netpolq.ui.state.filters import Filters
from netpolq.ui.state.flow_list import DEFAULT_LIMIT, MAX_LIMIT, csv_portions

DOCUMENTS = web.AppKey("documents", Documents)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _filters(request: web.Request) -> tuple[Filters, int]:
    """The filters of a query, and its limit. Raises `ValueError`."""
    items = list(request.query.items())
    limits = [value for name, value in items if name == "limit"]
    if len(limits) > 1:
        raise ValueError("parameter limit: is given more than once")
    limit = number_of(limits[0], "limit", 1, MAX_LIMIT) if limits else DEFAULT_LIMIT
    return Filters.from_query([(name, value) for name, value in items if name != "limit"]), limit


async def session(request: web.Request) -> web.Response:
    """What is shown, and to whom."""
    ui = parts(request)
    return json_answer({**ui.session, "where": ui.source.where, "user": request.get(USER)})


async def get_map(request: web.Request) -> web.Response:
    """The graph of workloads."""
    filters, _limit = _filters(request)
    return json_answer(request.app[DOCUMENTS].map(filters).fields())


async def get_flows(request: web.Request) -> web.Response:
    """The newest flows."""
    return json_answer(request.app[DOCUMENTS].flows(*_filters(request)).fields())


async def get_flows_csv(request: web.Request) -> web.StreamResponse:
    """All flows that match, as a file."""
    filters, _limit = _filters(request)
    headers = {"Content-Type": "text/csv; charset=utf-8", "Content-Disposition": 'attachment; filename="netpolq-flows.csv"'}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for portion in csv_portions(parts(request).agents.history, filters, now_s()):
        await response.write(portion.encode())
        await asyncio.sleep(0)  # other tasks have their turn
    await response.write_eof()
    return response


async def get_policies(request: web.Request) -> web.Response:
    """The policies. Waits for the first reading of the objects, whose failure is in the head."""
    await _first_objects(request)
    return json_answer(request.app[DOCUMENTS].policies().fields())


async def get_nodes(request: web.Request) -> web.Response:
    """The states of agents."""
    return json_answer(request.app[DOCUMENTS].nodes().fields())


async def stream_map(request: web.Request) -> web.StreamResponse:
    """The graph of workloads, as it changes."""
    documents, (filters, _limit) = request.app[DOCUMENTS], _filters(request)
    return await stream(request, parts(request), documents.flows_version, lambda: documents.map(filters))


async def stream_flows(request: web.Request) -> web.StreamResponse:
    """The newest flows, as they change."""
    documents, asked = request.app[DOCUMENTS], _filters(request)
    return await stream(request, parts(request), documents.flows_version, lambda: documents.flows(*asked))


async def stream_policies(request: web.Request) -> web.StreamResponse:
    """The policies, as they change."""
    documents = request.app[DOCUMENTS]
    await _first_objects(request)
    return await stream(request, parts(request), documents.policies_version, documents.policies)


async def stream_nodes(request: web.Request) -> web.StreamResponse:
    """The states of agents, as they change."""
    documents = request.app[DOCUMENTS]
    return await stream(request, parts(request), documents.nodes_version, documents.nodes)


async def _first_objects(request: web.Request) -> None:
    await parts(request).objects.first()
