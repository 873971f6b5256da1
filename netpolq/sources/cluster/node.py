"""Whether the API server has a Node of this agent's name: under another name no pod of the cluster is local, and nothing is enforced."""

import asyncio
import logging

from urllib.parse import quote

import aiohttp
import orjson

from netpolq.sources.cluster.connection import Connection
from netpolq.sources.cluster.watch import StatusError

_ASK_S = 5.0
"""Between two questions while there is no such Node: a kubelet registers it within seconds of its start."""

_ASK_AGAIN_S = 60.0
"""Between two questions that are refused: a role is changed by hand."""

_REQUEST_S = 10.0

log = logging.getLogger("node")


class NodeName:
    """Asks for one Node by name until it is there. `exists`: None while that is not known, as where the role does not permit to ask."""

    def __init__(self, name: str, connection: Connection, ask_s: float = _ASK_S) -> None:
        self._path = f"/api/v1/nodes/{quote(name, safe='')}"
        self._name = name
        self._connection = connection
        self._ask_s = ask_s
        self.exists: bool | None = None

    async def run(self) -> None:
        """Ask until the Node is there."""
        while self.exists is not True:
            delay_s = self._ask_s
            try:
                body = await self._connection.get(self._path, {}, timeout_s=_REQUEST_S)
                self.exists = _is_node(body, self._name)
            except StatusError as error:
                if error.code == 404:
                    if self.exists is None:
                        log.warning('the API server has no Node "%s"', self._name)
                    self.exists = False
                elif error.code == 403:
                    if self.exists is None:
                        log.info("nodes cannot be read (%s); the nodes that pods name are used instead", error)
                    self.exists = None
                    delay_s = max(_ASK_AGAIN_S, self._ask_s)
            except (aiohttp.ClientError, OSError, TimeoutError):
                pass  # the reflectors tell of a server that cannot be reached
            if self.exists is not True:
                await asyncio.sleep(delay_s)


def _is_node(body: bytes, name: str) -> bool | None:
    """Whether this is the Node of a name; None for an answer that is no object of the API."""
    try:
        return bool(orjson.loads(body)["metadata"]["name"] == name)
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
