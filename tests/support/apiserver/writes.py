"""What agents write to the test API server: Leases, and the status of cluster-wide policies by server-side apply.

Source: "Server-Side Apply" and "Resource versions" of the API concepts; the schema of conditions in the CRDs of policy.networking.k8s.io.
"""

import re

from http import HTTPStatus
from typing import NamedTuple, cast

import orjson

from aiohttp import web

from tests.support.apiserver import status
from tests.support.apiserver.resources import Body
from tests.support.apiserver.status import ApiError
from tests.support.apiserver.store import Store

_LEASES = re.compile(r"(/apis/coordination\.k8s\.io/v1/namespaces/[^/]+/leases)(/[^/]+)?")
_STATUS = re.compile(r"(/apis/policy\.networking\.k8s\.io/[^/]+/[^/]+/[^/]+)/status")
_REQUIRED = ("lastTransitionTime", "message", "reason", "status", "type")
_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


class Patch(NamedTuple):
    """A server-side apply that was taken. `object`: the path of the policy."""

    object: str
    manager: str
    body: Body


class Refusal(NamedTuple):
    """A refusal of all requests of this method to paths that contain the text."""

    method: str
    part: str
    code: int


class Writes:
    """The written objects by path; `policies` have `metadata` and `status`. `patches`: those that were taken, oldest first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.leases: dict[str, Body] = {}
        self.policies: dict[str, Body] = {}
        self.patches: list[Patch] = []
        self.refusals: list[Refusal] = []
        self._managers: dict[tuple[str, str], str] = {}

    def put_policy(self, path: str, *, generation: int = 1, conditions: list[Body] | None = None) -> None:
        """Create or replace a policy, as another client does, which then manages these conditions."""
        self._managers |= {(path, str(condition["type"])): "another" for condition in conditions or []}
        metadata = {"generation": generation, "uid": f"uid-of-{path}", "resourceVersion": self._next_version()}
        self.policies[path] = {"metadata": metadata, "status": {"conditions": conditions or []}}

    def conditions(self, path: str) -> dict[str, Body]:
        """The conditions of a policy by type."""
        found = cast("dict[str, list[Body]]", self.policies[path]["status"])["conditions"]
        return {str(condition["type"]): condition for condition in found}

    async def answer(self, request: web.Request) -> web.Response | None:
        """The answer, or None if the path is of something else. Raises `ApiError`."""
        lease, policy = _LEASES.fullmatch(request.path), _STATUS.fullmatch(request.path)
        if not lease and not policy:
            return None
        for refusal in self.refusals:
            if refusal.method == request.method and refusal.part in request.path:
                raise ApiError(refusal.code, "Refused", "refused by the test")
        content = await request.read()
        body: Body = orjson.loads(content) if content else {}
        if lease:
            return self._lease(request.method, request.path, body)
        if request.method != "PATCH" or request.headers["Content-Type"] != "application/apply-patch+yaml":
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", "only server-side apply is emulated")
        assert policy
        return self._apply(policy[1], request.query["fieldManager"], body, is_forced=request.query.get("force") == "true")

    def _lease(self, method: str, path: str, body: Body) -> web.Response:
        if method == "POST":
            path = f"{path}/{_metadata(body)['name']}"
            if path in self.leases:
                raise ApiError(HTTPStatus.CONFLICT, "AlreadyExists", f"{path} already exists")
            return self._keep(path, body, HTTPStatus.CREATED)
        if path not in self.leases:
            raise status.not_found()
        if method == "GET":
            return web.json_response(self.leases[path])
        if _metadata(body).get("resourceVersion") != _metadata(self.leases[path])["resourceVersion"]:
            raise ApiError(HTTPStatus.CONFLICT, "Conflict", "the object has been modified")
        return self._keep(path, body, HTTPStatus.OK)

    def _keep(self, path: str, body: Body, code: HTTPStatus) -> web.Response:
        metadata = {**_metadata(body), "resourceVersion": self._next_version()}
        self.leases[path] = {**body, "metadata": metadata}
        return web.json_response(self.leases[path], status=code)

    def _apply(self, path: str, manager: str, body: Body, *, is_forced: bool) -> web.Response:
        """Merge conditions by type, the key of the list in the CRD."""
        if path not in self.policies:
            raise status.not_found()
        applied = cast("dict[str, list[Body]]", body["status"])["conditions"]
        for condition in applied:
            if missing := [name for name in _REQUIRED if name not in condition]:
                raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", f"status.conditions: {missing} required")
            if not _REASON.fullmatch(str(condition["reason"])) or len(str(condition["message"])) > 32768:
                raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", "status.conditions: invalid reason or message")
            owner = self._managers.get((path, str(condition["type"])), manager)
            if owner != manager and not is_forced:
                raise ApiError(HTTPStatus.CONFLICT, "Conflict", f'Apply failed with 1 conflict: conflict with "{owner}"')
            self._managers[path, str(condition["type"])] = manager
        merged = self.conditions(path) | {str(condition["type"]): condition for condition in applied}
        before = self.policies[path]
        after: Body = {**before, "status": {"conditions": list(merged.values())}}
        if after != before:
            metadata = {**_metadata(before), "resourceVersion": self._next_version()}
            after = {**after, "metadata": metadata}
        self.policies[path] = after
        self.patches.append(Patch(path, manager, body))
        return web.json_response(after)

    def _next_version(self) -> str:
        self._store.advance()
        return str(self._store.resource_version)


def _metadata(body: Body) -> Body:
    return cast("Body", body["metadata"])
