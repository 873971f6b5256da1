"""Pods of a namespace as the test API server lists them for a label selector, and `pods/exec`, which runs the real command.

Source: k8s.io/apimachinery/pkg/util/remotecommand and k8s.io/kubelet/pkg/cri/streaming/remotecommand/websocket.go: a WebSocket with the
protocol v5 or v4.channel.k8s.io, whose messages begin with a channel: 1 standard output, 2 standard error, 3 a Status at the end.
"""

import asyncio
import json
import os
import re
import sys

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from tests.support.apiserver.resources import Body
from tests.support.apiserver.status import ApiError

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_LIST = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods")
_EXEC = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods/(?P<name>[^/]+)/exec")
_STDOUT, _STDERR, _ERROR = b"\x01", b"\x02", b"\x03"
_PORTION_BYTES = 32 * 1024


@dataclass(slots=True)
class Container:
    """A pod with one container. `environment`: variables of a command in it. `is_silent`: a command in it writes nothing and does not
    end. `cut_after_bytes`: of output, the connection is cut after so many.
    """

    body: Body
    environment: Mapping[str, str] = field(default_factory=dict)
    is_silent: bool = False
    cut_after_bytes: int | None = None


@dataclass(slots=True)
class Containers:
    """The pods. `forbidden`: verbs that are refused: `list`, `exec`. `protocols`: those that the server speaks. `commands`: that have
    run, oldest first. `most_at_once`: commands that have run at the same time.
    """

    pods: dict[str, Container] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    protocols: tuple[str, ...] = PROTOCOLS
    commands: list[list[str]] = field(default_factory=list)
    most_at_once: int = 0
    _running: int = 0

    def put(
        self,
        name: str,
        node: str,
        *,
        created: str = "2026-01-01T00:00:00Z",
        phase: str = "Running",
        address: str = "",
        **labels: str,
    ) -> Container:
        """Create a pod of the namespace kube-system."""
        metadata = {
            "namespace": "kube-system",
            "name": name,
            "creationTimestamp": created,
            "labels": {"app.kubernetes.io/name": "netpolq", **labels},
        }
        body: Body = {"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase, "podIP": address}}
        self.pods[name] = Container(body)
        return self.pods[name]

    async def answer(self, request: web.Request, user: str) -> web.StreamResponse | None:
        """The answer to a request that is for these; None for another one."""
        if (found := _LIST.fullmatch(request.path)) is not None:
            self._check("list", f'cannot list resource "pods" in API group "" in the namespace "{found["namespace"]}"', user)
            return self._listed(request, found["namespace"])
        if (found := _EXEC.fullmatch(request.path)) is not None:
            self._check(
                "exec", f'cannot create resource "pods/exec" in API group "" in the namespace "{found["namespace"]}"', user
            )
            if found["namespace"] != "kube-system" or found["name"] not in self.pods:
                raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'pods "{found["name"]}" not found')
            return await self._exec(request, self.pods[found["name"]])
        return None

    def _check(self, verb: str, text: str, user: str) -> None:
        if verb in self.forbidden:
            raise ApiError(HTTPStatus.FORBIDDEN, "Forbidden", f'pods is forbidden: User "{user}" {text}')

    def _listed(self, request: web.Request, namespace: str) -> web.Response:
        key, _, value = request.query["labelSelector"].partition("=")
        field_name, _, node = request.query.get("fieldSelector", "").partition("=")
        assert field_name in {"", "spec.nodeName"}
        bodies = [json.loads(json.dumps(pod.body)) for pod in self.pods.values()]
        items = [
            body
            for body in bodies
            if namespace == "kube-system"
            and body["metadata"]["labels"].get(key) == value
            and (not node or body["spec"]["nodeName"] == node)
        ]
        # Two pods a page, whatever the limit: a server may give fewer than were asked for.
        start = int(request.query.get("continue", "0"))
        metadata = {"resourceVersion": "1", **({"continue": str(start + 2)} if len(items) > start + 2 else {})}
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": items[start : start + 2]})

    async def _exec(self, request: web.Request, container: Container) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", "Upgrade request required")
        if request.query.get("container") != "agent":
            raise ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", "container not found in the pod")
        opened = web.WebSocketResponse(protocols=self.protocols)
        await opened.prepare(request)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            await self._run(opened, request, container)
        finally:
            self._running -= 1
        return opened

    async def _run(self, opened: web.WebSocketResponse, request: web.Request, container: Container) -> None:
        program, *words = request.query.getall("command")
        self.commands.append([program, *words])
        if container.is_silent:
            await opened.receive()
            return
        assert program == "netpolq"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "netpolq", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **container.environment},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        limit = [container.cut_after_bytes]

        async def wait_for_the_client() -> None:
            await opened.receive()  # it sends nothing but its end

        output, errors = process.stdout, process.stderr

        async def send() -> None:
            await asyncio.gather(_send(opened, _STDOUT, output, limit), _send(opened, _STDERR, errors, [None]))

        gone, sending = asyncio.create_task(wait_for_the_client()), asyncio.create_task(send())
        await asyncio.wait([gone, sending], return_when=asyncio.FIRST_COMPLETED)
        if gone.done() or limit[0] == 0:
            with suppress(ProcessLookupError):
                process.kill()
            if limit[0] == 0 and request.transport is not None:
                request.transport.abort()
        code = await process.wait()
        sending.cancel()
        gone.cancel()
        await asyncio.gather(sending, gone, return_exceptions=True)
        if not opened.closed and limit[0] != 0:
            await opened.send_bytes(_ERROR + json.dumps(_status(code)).encode())
            await opened.close()


async def _send(opened: web.WebSocketResponse, channel: bytes, stream: asyncio.StreamReader, limit: list[int | None]) -> None:
    """Send what a stream gives, until its end or until a number of bytes. Counts that down in `limit`."""
    while portion := await stream.read(_PORTION_BYTES):
        left = limit[0]
        if left is not None:
            portion = portion[:left]
            limit[0] = left - len(portion)
        await opened.send_bytes(channel + portion)
        if limit[0] == 0:
            return


def _status(code: int) -> Body:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(code)}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [cause]},
    }
