"""Users as the API server knows them: TokenReview tells the user of a token, SubjectAccessReview whether the user may see the page.

The right is the verb get of the non-resource URL `/netpolq/ui`. It stands for this page alone: flows tell more than any resource does,
so no right to read resources may open it by accident.

Answers are kept for a minute, refusals for 5 s, by a digest of the token. Without an answer of the API server no token is let in.
"""

import asyncio
import hashlib
import logging
import time

from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

import aiohttp
import orjson

from netpolq.logs import one_line
from netpolq.sources.kubernetes.connection import Connection
from netpolq.sources.kubernetes.watch import StatusError
from netpolq.ui.access.refusal import Refusal, unauthorized

AUDIENCE = "netpolq-ui"
"""Audience of tokens that are good for this page alone (`kubectl create token --audience`). Those of the API server are good, too."""

URL = "/netpolq/ui"
MAX_KEPT = 1000
"""Tokens that are kept, and as many refused ones. The oldest go first."""

KEPT_S, REFUSAL_KEPT_S, _UNANSWERED_KEPT_S = 60.0, 5.0, 1.0
_TIMEOUT_S = 10.0
_MAX_AT_ONCE, _MAX_WAITING = 8, 200

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_UNKNOWN = "the API server does not know the token; log in with a new one, as from `kubectl create token`"

log = logging.getLogger("access")


class _Kept(NamedTuple):
    """An answer and its end, in seconds of the monotonic clock. `user`: None for a refusal."""

    until_s: float
    user: str | None
    refusal: Refusal | None


class Kubernetes:
    """Asks the API server of a connection, which must be open."""

    kind = "kubernetes"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._users: OrderedDict[bytes, _Kept] = OrderedDict()
        self._refusals: OrderedDict[bytes, _Kept] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Kept]] = {}
        self._limit = asyncio.Semaphore(_MAX_AT_ONCE)
        self._problem = ""

    async def user(self, token: str) -> str | None:
        """The name of the user. Raises `Refusal` if there is none, if the user may not see the page, or without an answer."""
        key = _key(token)
        kept = self._kept(key)
        if kept is None:
            task = self._asking.get(key)
            if task is None and len(self._asking) >= _MAX_WAITING:
                raise self._unavailable("too many tokens wait for their review")
            if task is None:
                task = self._asking[key] = asyncio.create_task(self._ask(key, token))
                task.add_done_callback(lambda _done: self._asking.pop(key, None))
            kept = await asyncio.shield(task)  # the others of this token wait for it, too
        if kept.refusal is not None:
            raise kept.refusal.again()
        return kept.user

    def is_known(self, token: str) -> bool:
        """Whether the user of a token is known, so that the API server is not asked."""
        kept = self._kept(_key(token))
        return kept is not None and kept.refusal is None

    def _kept(self, key: bytes) -> _Kept | None:
        kept = self._users.get(key) or self._refusals.get(key)
        return kept if kept is not None and time.monotonic() < kept.until_s else None

    async def _ask(self, key: bytes, token: str) -> _Kept:
        try:
            async with self._limit:
                user = await self._review(token)
        except Refusal as refusal:
            is_unanswered = refusal.status is HTTPStatus.SERVICE_UNAVAILABLE
            kept = _Kept(time.monotonic() + (_UNANSWERED_KEPT_S if is_unanswered else REFUSAL_KEPT_S), None, refusal)
            self._users.pop(key, None)
            _keep(self._refusals, key, kept)
            return kept
        kept = _Kept(time.monotonic() + KEPT_S, user, None)
        self._refusals.pop(key, None)
        _keep(self._users, key, kept)
        return kept

    async def _review(self, token: str) -> str:
        """The user of a token, with the right to the page. Raises `Refusal`."""
        status = await self._token_status(token, [AUDIENCE])
        if status is None or AUDIENCE not in _strings(status.get("audiences")):
            status = await self._token_status(token, [])
        user = None if status is None else status.get("user")
        name = user.get("username") if isinstance(user, dict) else None
        if not isinstance(user, dict) or not isinstance(name, str) or not name:
            raise unauthorized(_UNKNOWN)
        spec: dict[str, object] = {
            "user": name,
            "uid": str(user.get("uid") or ""),
            "groups": _strings(user.get("groups")),
            "nonResourceAttributes": {"path": URL, "verb": "get"},
        }
        if isinstance(user.get("extra"), dict):
            spec["extra"] = {str(key): _strings(value) for key, value in user["extra"].items()}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await self._created(_ACCESS_REVIEWS, review)
        if answer.get("allowed") is not True or answer.get("denied") is True:
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                f"user {name[:200]!r} may not see this page; it needs a ClusterRole with the verb get of the nonResourceURL {URL}",
            )
        return name

    async def _token_status(self, token: str, audiences: list[str]) -> dict[str, Any] | None:
        """The status of the review of a token; None if it is not valid."""
        spec = {"token": token, **({"audiences": audiences} if audiences else {})}
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        status = await self._created(_TOKEN_REVIEWS, review)
        return status if status.get("authenticated") is True and not status.get("error") else None

    async def _created(self, path: str, review: Mapping[str, object]) -> dict[str, Any]:
        """The status of a review. Raises `Refusal` without an answer: the token is not let in."""
        for is_last in (False, True):
            generation = self._connection.generation
            try:
                body = orjson.loads(await self._connection.send("POST", path, review, timeout_s=_TIMEOUT_S))
                status = body["status"]
                if not isinstance(status, dict):
                    raise TypeError("status is no object")
            except StatusError as error:
                if error.code == HTTPStatus.UNAUTHORIZED and not is_last:
                    await self._renew(generation)
                    continue
                raise self._unavailable(f"POST {path}: {error}") from error
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise self._unavailable(f"POST {path}: {str(error) or type(error).__name__}") from error
            except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                raise self._unavailable(f"POST {path}: the answer is no review: {error}") from error
            self._problem = ""
            return status
        raise AssertionError("the loop returns or raises")

    async def _renew(self, generation: int) -> None:
        try:
            await self._connection.renew(generation)
        except Exception as error:
            raise self._unavailable(f"the credentials cannot be read: {error}") from error

    def _unavailable(self, problem: str) -> Refusal:
        """The refusal for want of an answer. The reason is in the log, once for each, and never tells the token."""
        problem = one_line(problem)
        if problem != self._problem:
            log.warning("users cannot be checked: %s", problem)
        self._problem = problem
        return Refusal(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the API server does not answer whether the token is valid; try again, and see the log of netpolq ui if it lasts",
            retry_after_s=5,
        )


def _keep(kept: OrderedDict[bytes, _Kept], key: bytes, value: _Kept) -> None:
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > MAX_KEPT:
        kept.popitem(last=False)


def _key(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []
