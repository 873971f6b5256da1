"""Events of the test API server (core group), created and patched as by an agent, and lists of one pod.

Source: `ValidateEventCreate` and `ValidateEventUpdate` of k8s.io/kubernetes/pkg/apis/core/validation/events.go; the limits of metadata;
field selectors of lists in the API concepts.
"""

import re

from dataclasses import dataclass
from http import HTTPStatus
from typing import cast

import orjson

from aiohttp import web

from tests.support.apiserver.resources import NAMESPACES, PODS, Body
from tests.support.apiserver.status import ApiError
from tests.support.apiserver.store import Store

_EVENTS = re.compile(r"/api/v1/namespaces/([^/]+)/events(?:/([^/]+))?")
_PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRefusal:
    """A refusal of all requests of this method whose path contains the text."""

    method: str
    code: int
    message: str = "refused by the test"
    part: str = ""
    retry_after_s: int | None = None


class Events:
    """The Events by `namespace/name`. `patches`: bodies of those that were taken, oldest first. `pod_lists`: `namespace/name` asked for.

    `loses_answers`: creates are taken, and answered with an error, as by a load balancer that gives up. `pod_answer`: of
    lists of a pod, in place of the list.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.objects: dict[str, Body] = {}
        self.patches: list[Body] = []
        self.pod_lists: list[str] = []
        self.refusals: list[EventRefusal] = []
        self.loses_answers = False
        self.pod_answer: str | None = None

    async def answer(self, request: web.Request, user: str) -> web.Response | None:
        """The answer, or None if the path is of something else. Raises `ApiError`."""
        event, pods = _EVENTS.fullmatch(request.path), _PODS.fullmatch(request.path)
        selected, _, name_of_pod = request.query.get("fieldSelector", "").partition("=")
        if not event and not (pods and selected == "metadata.name"):
            return None
        for refusal in self.refusals:
            if refusal.method == request.method and refusal.part in request.path:
                raise ApiError(refusal.code, "Refused", refusal.message, retry_after_s=refusal.retry_after_s)
        if pods:
            return self._list_pod(pods[1], name_of_pod)
        assert event
        namespace, name = event[1], event[2]
        if request.method == "POST" and name is None:
            return self._create(namespace, orjson.loads(await request.read()))
        if request.method == "PATCH" and name is not None:
            if request.headers["Content-Type"] != "application/merge-patch+json":
                raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", "only merge patches are emulated")
            return self._patch(f"{namespace}/{name}", orjson.loads(await request.read()))
        message = f'events is forbidden: User "{user}" cannot {request.method} resource "events" in API group "" in "{namespace}"'
        raise ApiError(HTTPStatus.FORBIDDEN, "Forbidden", message)

    def _list_pod(self, namespace: str, name: str) -> web.Response:
        self.pod_lists.append(f"{namespace}/{name}")
        if self.pod_answer is not None:
            return web.Response(text=self.pod_answer)
        found = self._store.objects(PODS).get(f"{namespace}/{name}")
        metadata = {"resourceVersion": str(self._store.resource_version)}
        return web.json_response({"kind": "PodList", "metadata": metadata, "items": [found] if found else []})

    def _create(self, namespace: str, body: Body) -> web.Response:
        metadata, involved = cast("Body", body["metadata"]), cast("Body", body["involvedObject"])
        name, key = str(metadata["name"]), f"{namespace}/{metadata['name']}"
        if namespace not in self._store.objects(NAMESPACES):
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'namespaces "{namespace}" not found')
        if not _NAME.fullmatch(name) or len(name) > 253 or {involved["namespace"], metadata["namespace"]} != {namespace}:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", f'Event "{name}" is invalid')
        if key in self.objects:
            raise ApiError(HTTPStatus.CONFLICT, "AlreadyExists", f'events "{name}" already exists')
        self._keep(key, body)
        if self.loses_answers:
            raise ApiError(HTTPStatus.GATEWAY_TIMEOUT, "Timeout", "no answer in time")
        return web.json_response(body, status=HTTPStatus.CREATED)

    def _patch(self, key: str, body: Body) -> web.Response:
        if key not in self.objects:
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'events "{key}" not found')
        self._keep(key, {**self.objects[key], **body})
        self.patches.append(body)
        return web.json_response(self.objects[key])

    def _keep(self, key: str, body: Body) -> None:
        if not isinstance(body["count"], int) or len(str(body["message"]).encode()) > 1024:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", "invalid count or message")
        self.objects[key] = body
