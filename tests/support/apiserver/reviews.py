"""TokenReviews and SubjectAccessReviews of the test API server.

Source: the reference of authentication.k8s.io/v1 and authorization.k8s.io/v1; a review is answered with status 201 and is not stored.
"""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from aiohttp import web

from tests.support.apiserver.resources import Body
from tests.support.apiserver.status import ApiError

TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
DEFAULT_AUDIENCE = "https://kubernetes.default.svc.cluster.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user and what its token is good for. `urls`: non-resource URLs that it may get. `is_audience_known`: the authenticator of the
    token knows audiences, so that the answer has them.
    """

    name: str
    groups: tuple[str, ...] = ("system:authenticated",)
    audiences: tuple[str, ...] = (DEFAULT_AUDIENCE,)
    urls: tuple[str, ...] = ()
    is_audience_known: bool = True


@dataclass(slots=True)
class Reviews:
    """Users by token. `tokens`: those that were reviewed, oldest first. `specs`: of access reviews. `is_forbidden`: as without the role.
    `answer_text`: of every review, in place of a status.
    """

    users: dict[str, User] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    specs: list[Body] = field(default_factory=list)
    is_forbidden: bool = False
    answer_text: str | None = None

    async def answer(self, request: web.Request, user: str) -> web.Response | None:
        """The answer, or None if the path is of something else. Raises `ApiError`."""
        if request.path not in {TOKEN_REVIEWS, ACCESS_REVIEWS}:
            return None
        if self.is_forbidden:
            kind = request.path.rpartition("/")[2]
            raise ApiError(
                HTTPStatus.FORBIDDEN, "Forbidden", f'{kind} is forbidden: User "{user}" cannot create resource "{kind}"'
            )
        body: dict[str, Any] = await request.json()
        assert request.method == "POST"
        if self.answer_text is not None:
            return web.Response(status=HTTPStatus.CREATED, text=self.answer_text, content_type="application/json")
        status = self._token(body["spec"]) if request.path == TOKEN_REVIEWS else self._access(body["spec"])
        return web.json_response({**body, "metadata": {}, "status": status}, status=HTTPStatus.CREATED)

    def _token(self, spec: dict[str, Any]) -> Body:
        self.tokens.append(spec["token"])
        user = self.users.get(spec["token"])
        asked = spec.get("audiences") or [DEFAULT_AUDIENCE]
        if user is None:
            return {"user": {}, "error": "invalid bearer token"}
        common = [audience for audience in asked if audience in user.audiences] if user.is_audience_known else []
        if user.is_audience_known and not common:
            return {"user": {}, "error": "invalid bearer token, token audiences do not match"}
        found: Body = {
            "username": user.name,
            "uid": f"uid of {user.name}",
            "groups": list(user.groups),
            "extra": {"key": ["value"]},
        }
        return {"authenticated": True, "user": found, **({"audiences": common} if common else {})}

    def _access(self, spec: dict[str, Any]) -> Body:
        self.specs.append(spec)
        wanted = spec["nonResourceAttributes"]
        user = next((user for user in self.users.values() if user.name == spec["user"]), None)
        allowed = user is not None and wanted["verb"] == "get" and wanted["path"] in user.urls
        return {"allowed": allowed, **({} if allowed else {"reason": "no RBAC policy matched"})}
