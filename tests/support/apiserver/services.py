"""Services of the test API server, listed and watched by name in a namespace, as a role with resourceNames permits it.

Source: "Authorization with resourceNames" of the RBAC reference: list and watch need the field selector metadata.name.
"""

import asyncio

from http import HTTPStatus

from aiohttp import web

from tests.support.apiserver.resources import Body
from tests.support.apiserver.status import ApiError

PATH = "/api/v1/namespaces/kube-system/services"


class Services:
    """The Services of kube-system by name. `is_forbidden`: as without the role. `lists`: names that were listed, oldest first."""

    def __init__(self) -> None:
        self._bodies: dict[str, Body] = {}
        self._version = 1
        self._changed_at: dict[str, int] = {}
        self._changed = asyncio.Event()
        self.is_forbidden = False
        self.lists: list[str] = []

    def put(self, name: str, **spec: object) -> None:
        """Create or replace a Service."""
        self._bodies[name] = {"metadata": {"namespace": "kube-system", "name": name}, "spec": spec}
        self._note_change(name)

    def delete(self, name: str) -> None:
        """Remove a Service. Raises `KeyError` if there is none."""
        del self._bodies[name]
        self._note_change(name)

    def _note_change(self, name: str) -> None:
        self._version += 1
        self._changed_at[name] = self._version
        self._changed.set()
        self._changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The answer to a request for the collection."""
        key, _, name = request.query.get("fieldSelector", "").partition("=")
        if self.is_forbidden or key != "metadata.name":
            raise ApiError(HTTPStatus.FORBIDDEN, "Forbidden", "services is forbidden")
        if request.query.get("watch") == "true":
            return await self._watch(request, name)
        self.lists.append(name)
        items = [body for found, body in self._bodies.items() if found == name]
        return web.json_response({"kind": "ServiceList", "metadata": {"resourceVersion": str(self._version)}, "items": items})

    async def _watch(self, request: web.Request, name: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while self._changed_at.get(name, 0) <= int(request.query["resourceVersion"]):
            await self._changed.wait()
        await response.write(b'{"type":"MODIFIED","object":{}}\n')
        return response
